"""The machine at hand as target: its triple and, on x86-64, the highest micro-architecture level it supports.

Levels (x86-64-v2, v3, v4) instead of one CPU's full feature list: they are few, named, and can be checked when a library starts.
"""
import platform
import sys
from pathlib import Path

from edgekit.errors import MissingToolError

LEVELS = {  # level: what /proc/cpuinfo calls the features it adds that matter to vector code
    "x86-64-v2": {"sse4_1", "sse4_2", "ssse3", "popcnt", "cx16"},
    "x86-64-v3": {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"},
    "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}
VECTORS = {"x86-64": (4, 16), "x86-64-v2": (4, 16), "x86-64-v3": (8, 16), "x86-64-v4": (16, 32)}  # lanes, registers


def describe() -> dict:
    """Fields of `Target` for this machine: triple, cpu, features, lanes, registers, zig, shared."""
    system, machine = platform.system(), platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        cpu = x86_level()
        lanes, registers = VECTORS[cpu]
        arch, features = "x86_64", ("-prefer-256-bit",) if cpu == "x86-64-v4" else ()
    elif machine in ("aarch64", "arm64"):
        arch, cpu, features, lanes, registers = "aarch64", "apple-m1" if system == "Darwin" else "generic", (), 4, 32
    else:
        raise MissingToolError(f"no code generator for this machine's processor ({machine})",
                               fix="export for another target with -t, for example -t wasm")
    os_of = {"Linux": ("linux-gnu", "linux-gnu", "lib{name}.so"),
             "Darwin": ("apple-macos13.0", "macos", "lib{name}.dylib"),
             "Windows": ("pc-windows-gnu", "windows-gnu", "{name}.dll")}
    if system not in os_of:
        raise MissingToolError(f"no host target for {system}", fix="export for another target with -t, for example -t wasm")
    triple, zig, shared = os_of[system]
    return {"triple": f"{arch}-{triple}", "cpu": cpu, "features": features, "lanes": lanes, "registers": registers,
            "zig": f"{arch}-{zig}", "shared": shared}


def runs(triple: str) -> bool:
    """Whether this machine is of that kind."""
    try:
        return describe()["triple"] == triple
    except MissingToolError:
        return False


def has(cpu: str) -> bool:
    """Whether this machine's processor runs code for an x86-64 level; True for what is no such level."""
    return cpu not in VECTORS or list(VECTORS).index(cpu) <= list(VECTORS).index(x86_level())


def x86_level() -> str:
    """The highest level whose features this processor and its system support."""
    have = _flags()
    level = "x86-64"
    for name, needed in LEVELS.items():
        if not needed <= have:
            break
        level = name
    return level


def _flags() -> set[str]:
    if sys.platform == "win32":  # v2 comes with every processor that Windows supports
        import ctypes
        present = ctypes.windll.kernel32.IsProcessorFeaturePresent
        return LEVELS["x86-64-v2"] | (LEVELS["x86-64-v3"] if present(40) else set()) | (LEVELS["x86-64-v4"] if present(41) else set())
    if sys.platform == "darwin":  # every Mac with an x86-64 processor that still gets updates has AVX2
        return LEVELS["x86-64-v2"] | LEVELS["x86-64-v3"]
    for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
        if line.startswith("flags"):
            return set(line.split(":", 1)[1].split())
    return set()
