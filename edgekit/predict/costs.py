"""What a unit of each work costs on a processor: tables in `targets/costs/PROCESSOR.toml`, which `edgekit calibrate` makes."""
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from edgekit.errors import InputError
from edgekit.exporters.kernels.schedule import machine_of
from edgekit.exporters.kernels.spec import Conv, Linear, Recurrent
from edgekit.exporters.lower.plan import Entry, Plan
from edgekit.predict.memory import movement
from edgekit.predict.work import Work, work
from edgekit.targets import Target, processor


@dataclass(frozen=True)
class Costs:
    """unit: "seconds" or "instructions". cpu: what it was measured on. caches: bytes by name, those whose misses cost.
    kinds: {kind of kernel: {work: cost of a unit}}."""

    processor: str
    unit: str
    cpu: str
    caches: Mapping[str, int]
    kinds: Mapping[str, Mapping[str, float]]

    def of(self, kind: str, parts: Work) -> float:
        """Cost of a call. InputError for a kind that was not measured."""
        if kind not in self.kinds:
            raise InputError(f"the costs of {self.processor} have no kernel of the kind {kind!r}", fix="make them anew with `edgekit calibrate`")
        costs = self.kinds[kind]
        return sum(n * costs.get(name, 0.0) for name, n in parts.items())

    def steps(self, plan: Plan, entry: Entry, target: Target) -> list[float]:
        """Cost of each step of an entry."""
        return [self.of(kind, parts) for kind, parts in works(plan, entry, target, self.caches)]


def works(plan: Plan, entry: Entry, target: Target, caches: Mapping[str, int]) -> list[tuple[str, Work]]:
    """Kind and work of each step: its own, a call, and what it moves where there are caches."""
    machine, buffers, found = machine_of(target), plan.buffers(entry), []
    for s in entry.steps:
        packed = isinstance(s.kernel, Conv | Linear | Recurrent)
        weights = buffers[s.args[1].buffer] if packed else None
        kind, parts = work(s.kernel, _numbers(weights.shape) if weights else 0, machine, caches)
        found.append((kind, {**parts, "call": 1.0, **(movement(s, buffers, plan, caches) if caches else {})}))
    return found


def _numbers(shape: tuple[int, ...]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


def costs_of(target: Target) -> Costs | None:
    """The table of a target of one level, from the folder EDGEKIT_COSTS or else from `targets/costs`; None where there is none."""
    name, own = processor(target.cpu, target.features), os.environ.get("EDGEKIT_COSTS")
    places: list[Traversable] = [Path(own)] if own else []
    for folder in (*places, resources.files("edgekit.targets").joinpath("costs")):
        file = folder.joinpath(f"{name}.toml")
        if file.is_file():
            return parsed(name, file.read_text("utf-8"), str(file))
    return None


def parsed(name: str, text: str, where: str = "") -> Costs:
    """A table from its text. InputError where it is none."""
    try:
        raw = tomllib.loads(text)
        kinds = {kind: {k: float(v) for k, v in values.items()} for kind, values in raw["costs"].items()}
        unit, caches = raw["unit"], {k: int(v) for k, v in raw["caches"].items()}
        if unit not in ("seconds", "instructions") or any(not 0 <= v < float("inf") for kind in kinds.values() for v in kind.values()):
            raise ValueError("a cost below 0, or a unit that is none")
        return Costs(name, unit, str(raw["cpu"]), caches, kinds)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"no table of costs: {error}", where=where, fix="make it with `edgekit calibrate`") from None


def text_of(costs: Costs, head: str) -> str:
    """The table as TOML, under a comment."""
    lines = [f"# {head}", "", f'unit = "{costs.unit}"', f'cpu = "{costs.cpu}"', "", "[caches]  # bytes; what is past them costs more",
             *(f"{name} = {size}" for name, size in costs.caches.items())]
    for kind in sorted(costs.kinds):
        lines += ["", f"[costs.{kind}]", *(f"{name} = {value:.4g}" for name, value in sorted(costs.kinds[kind].items()))]
    return "\n".join(lines) + "\n"
