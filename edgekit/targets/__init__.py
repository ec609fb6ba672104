"""The devices edgekit knows: one TOML file each, read into a frozen `Target`."""
import os
import tomllib
from dataclasses import dataclass, replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from edgekit.errors import InputError, UnsupportedError
from edgekit.targets import native

Table = tuple[tuple[str, tuple[tuple[str, int], ...]], ...]  # (kind of kernel, (key, value)...)...; hashable, in order


@dataclass(frozen=True)
class Target:
    """A device: what the compiler, the linker and the runner need to know of it."""

    name: str
    title: str
    triple: str                   # of LLVM
    cpu: str                      # of LLVM; on x86-64 an architecture level (x86-64-v3); "native" is resolved when loaded
    features: tuple[str, ...]     # of LLVM, such as "+simd128"
    llvm_options: tuple[str, ...]
    lanes: int  # float32 lanes of a vector
    registers: int                # vector registers
    zig: str                      # target triple for `zig cc`
    shared: str                   # file name pattern of the loadable library, "" where there is none
    static: str                   # file name pattern of the static library, "" where there is none
    runner: str                   # "host" | "arm" | "wasm" | "" (cannot run here); "host" becomes "" on other machines
    link: tuple[str, ...]         # extra arguments when the loadable library is linked
    half: tuple[str, ...] = ()    # in place of `features` where products are computed in float16; (): it cannot
    schedule: Table = ()          # of the processor's kernels, as `schedule_of` gives it
    level: str = ""               # name of the code level that cpu to registers describe, where there are several
    better: tuple["Target", ...] = ()  # the same device with better processors, best first

    @property
    def levels(self) -> tuple["Target", ...]:
        """The code levels, best first, as targets of one level each; the last is what every device of the kind runs."""
        return (*self.better, replace(self, better=()))

    @property
    def here(self) -> tuple["Target", ...]:
        """The levels that run here; an emulator or a wasm engine runs all."""
        return tuple(t for t in self.levels if t.runner != "host" or native.has(t.cpu))

    def of(self, dtype: str) -> "Target":
        """The target for products of that dtype. UnsupportedError where its processors do not compute in it."""
        if dtype == "float32":
            return self
        if dtype != "float16":
            raise UnsupportedError(f"dtype {dtype} is not compiled", fix="use float32 or float16")
        if not self.half:
            raise UnsupportedError("it does not compute in float16", where=self.name, fix="export it in float32, or for an AArch64 target such as arm64")
        return replace(self, features=self.half)


def names() -> list[str]:
    """Names of all targets, `host`, `arm64` and `wasm` first."""
    found = sorted(p.name[:-5] for p in resources.files(__name__).iterdir() if p.name.endswith(".toml"))
    first = ["host", "arm64", "wasm"]
    return first + [n for n in found if n not in first]


def load(name: str) -> Target:
    """The target of that name; InputError names those there are."""
    if name not in names():
        raise InputError(f"unknown target {name!r}", fix="use one of: " + ", ".join(names()))
    raw = tomllib.loads(resources.files(__name__).joinpath(name + ".toml").read_text("utf-8"))
    better = raw.pop("better", [])
    target = Target(name=name, **_frozen(raw))
    if target.cpu == "native":
        target = replace(target, **native.describe())
    elif target.runner == "host" and not native.runs(target.triple):
        target = replace(target, runner="")
    return replace(_scheduled(target), better=tuple(_scheduled(replace(target, **_frozen(fields))) for fields in better))


def _frozen(fields: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}


def _scheduled(target: Target) -> Target:
    return replace(target, schedule=schedule_of(target.cpu, target.features))


def processor(cpu: str, features: tuple[str, ...]) -> str:
    """The name of a table of schedules: x86-64-v4, cortex-a76, simd128, simd128+relaxed-simd."""
    return "+".join(filter(None, [cpu, *(f[1:] for f in features if f.startswith("+"))]))


def schedule_of(cpu: str, features: tuple[str, ...]) -> Table:
    """What was found best on that processor: PROCESSOR.toml in the folder EDGEKIT_SCHEDULES or else in `schedules`; empty
    where nobody looked. InputError for a file that is no such table."""
    name, own = processor(cpu, features) + ".toml", os.environ.get("EDGEKIT_SCHEDULES")
    file: Traversable = Path(own) / name if own else resources.files(__name__).joinpath("schedules", name)
    if own and not file.is_file():
        file = resources.files(__name__).joinpath("schedules", name)
    if not file.is_file():
        return ()
    try:
        raw = tomllib.loads(file.read_text("utf-8"))
        return tuple(sorted((kind, tuple(sorted(values.items()))) for kind, values in raw.items()))
    except (ValueError, AttributeError) as error:
        raise InputError(f"no table of schedules: {error}", where=str(file), fix="make it with `edgekit tune`") from None
