"""The machine a figure comes from: what it is (never whose), one core to stay on, peak memory."""
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

_PACKAGES = ("edgekit-deploy", "numpy", "apache-tvm", "ziglang", "onnx", "onnxruntime", "wasmtime", "unicorn", "torch")


def describe() -> dict:
    """cpu, cores, os, python and the versions of installed packages; no host name, user or path."""
    return {"cpu": _cpu(), "cores": os.cpu_count(), "os": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(), "packages": dict(_versions())}


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.lower().startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _versions() -> Iterator[tuple[str, str]]:
    for package in _PACKAGES:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            continue


@contextmanager
def one_core(wanted: bool) -> Iterator[int | None]:
    """Keeps this thread on its last allowed core (the first ones serve interrupts); None where that cannot be done."""
    if not (wanted and hasattr(os, "sched_setaffinity")):
        yield None
        return
    allowed = os.sched_getaffinity(0)
    core = max(allowed)
    try:
        os.sched_setaffinity(0, {core})
    except OSError:
        yield None
        return
    try:
        yield core
    finally:
        os.sched_setaffinity(0, allowed)


def restart_peak_rss() -> None:
    """Lets the peak start anew from what is resident now, where the system can (it counts from the start elsewhere)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_rss() -> int | None:
    """Peak resident bytes of this process since `restart_peak_rss`, or since its start; None where unknown (Windows)."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
