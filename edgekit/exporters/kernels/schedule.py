"""Schedules: the sizes of a kernel's loops on one processor, a small frozen dataclass a kind of kernel.

A schedule decides loops, unrolling and the order of sums: never what is computed, what may be read, or how weights are
packed, so that one file of weights serves every target. Values come from `targets/schedules/PROCESSOR.toml`, which
`edgekit tune` finds; what is not there follows from the vectors and registers of the processor.
"""
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, Self

from edgekit.errors import InputError
from edgekit.targets import processor

if TYPE_CHECKING:
    from edgekit.targets import Target


class Schedule(Protocol):
    """What every schedule offers beside its fields, all of them positive integers."""

    @classmethod
    def default(cls, accumulators: int, by_element: bool) -> Self:
        """For a processor that may keep so many vectors of sums in registers; by_element: see `Machine`."""

    @classmethod
    def candidates(cls, accumulators: int) -> Iterator[Self]:
        """What a tuner tries."""


@dataclass(frozen=True)
class ConvSchedule:
    """The channel-major product: a tile is `rows` of a group x `vectors` of positions, sums in registers."""

    rows: int
    vectors: int
    unroll: int       # inputs that a turn of the hot loop takes
    near_floats: int  # of inputs: a block that stays in the nearest cache
    far_floats: int   # and in the next one

    def tile(self, v: int) -> tuple[int, int]:
        """Rows and vectors for groups of v rows: where v is no multiple of `rows`, the same registers in the best other shape."""
        if v % self.rows == 0:
            return self.rows, self.vectors
        room = self.rows * self.vectors
        shapes = [(rows, min(room // rows, 16 if rows == 1 else 8)) for rows in range(1, min(v, room) + 1) if v % rows == 0]
        return max(shapes, key=lambda s: s[0] * s[1] / (s[0] + s[1]))  # products a load

    @classmethod
    def default(cls, accumulators: int, by_element: bool) -> Self:
        rows = 8 if accumulators >= 16 else 4
        return cls(rows, accumulators // rows, 8 if by_element else 1, 6144, 65536)

    @classmethod
    def candidates(cls, accumulators: int) -> Iterator[Self]:
        for rows in (4, 8, 16):
            for vectors in range(1, 8):
                if accumulators // 2 <= rows * vectors <= accumulators + 4:
                    for unroll in (1, 2, 4):
                        yield cls(rows, vectors, unroll, 6144, 65536)
        for near, far in ((3072, 65536), (12288, 65536), (6144, 32768), (6144, 131072)):
            yield cls(8, max(1, accumulators // 8), 1, near, far)


@dataclass(frozen=True)
class DepthwiseSchedule:
    """Convolutions of one channel each: a strip of `vectors` columns at most slides down an image."""

    vectors: int
    products: int  # of a turn of the loop over rows, at most: what it is unrolled to

    @classmethod
    def default(cls, accumulators: int, by_element: bool) -> Self:
        return cls(4, 512)

    @classmethod
    def candidates(cls, accumulators: int) -> Iterator[Self]:
        for vectors in (1, 2, 3, 4, 6, 8):
            for products in (64, 160, 512):
                yield cls(vectors, products)


@dataclass(frozen=True)
class LinearSchedule:
    """The position-major product: a tile is `rows` of x x `vectors` of outputs, both at most.

    chains: independent sums of a tile, at least, which hide the latency of the additions where a tile is small.
    """

    rows: int
    vectors: int
    chains: int
    unroll: int       # inputs that a turn of the hot loop takes, at least
    rows_a_unit: int  # of x: the share of one unit of work

    @classmethod
    def default(cls, accumulators: int, by_element: bool) -> Self:
        return cls(12, max(1, min(4, accumulators // 4)), 8, 4 if by_element else 1, 32)

    @classmethod
    def candidates(cls, accumulators: int) -> Iterator[Self]:
        for rows in (4, 6, 8, 12):
            for vectors in (1, 2, 4):
                for chains in (4, 8, 12):
                    yield cls(rows, vectors, chains, 4, 32)


@dataclass(frozen=True)
class MatMulSchedule:
    """The product of two activations: a tile is `rows` x `vectors` of columns, both at most."""

    rows: int
    vectors: int

    @classmethod
    def default(cls, accumulators: int, by_element: bool) -> Self:
        return cls(24, max(1, min(accumulators // 4, 4)))

    @classmethod
    def candidates(cls, accumulators: int) -> Iterator[Self]:
        for rows in (4, 6, 8, 12, 24):
            for vectors in (1, 2, 3, 4):
                if accumulators // 2 <= rows * vectors:
                    yield cls(rows, vectors)


@dataclass(frozen=True)
class RecurrentSchedule:
    """The recurrent product of a step: `sequences` of a unit share each load of `vectors` of weights."""

    sequences: int
    vectors: int

    @classmethod
    def default(cls, accumulators: int, by_element: bool) -> Self:
        return cls(4, max(1, min(4, accumulators // 4)))

    @classmethod
    def candidates(cls, accumulators: int) -> Iterator[Self]:
        for sequences in (2, 4, 6):
            for vectors in (1, 2, 4):
                if sequences * vectors <= accumulators:
                    yield cls(sequences, vectors)


@dataclass(frozen=True)
class Machine:
    """What a kernel needs to know of its target. index: dtype of address arithmetic; lanes: float32 lanes of a vector;
    accumulators: vectors that a tile may keep in registers; by_element: a product may take one lane of a vector for all."""

    index: str
    lanes: int
    accumulators: int
    by_element: bool
    conv: ConvSchedule
    depthwise: DepthwiseSchedule
    linear: LinearSchedule
    matmul: MatMulSchedule
    recurrent: RecurrentSchedule

    def rows(self, vectors: int, held: bool = False) -> int:
        """Rows of a tile of so many vectors whose sums stay in registers. held: a register a row holds its factors."""
        return max(1, (self.accumulators + 7 - vectors) // (vectors + 1) if held else self.accumulators // vectors)

    def of(self, dtype: str) -> "Machine":
        """The machine for products of that dtype: float16 has twice the lanes."""
        return replace(self, lanes=2 * self.lanes) if dtype == "float16" else self


KINDS: dict[str, type[Schedule]] = {"conv": ConvSchedule, "depthwise": DepthwiseSchedule, "linear": LinearSchedule,
                                    "matmul": MatMulSchedule, "recurrent": RecurrentSchedule}


def kind_of(kernel: Any) -> str | None:
    """The kind of schedule that a kernel (of `spec`) follows, None where it has none."""
    name = type(kernel).__name__.lower()
    return name if name in KINDS else None


def machine_of(target: "Target") -> Machine:
    """The machine of a target, its schedules from `target.schedule`. Raises InputError for a name or value that none has."""
    wasm = target.triple.startswith("wasm32")
    # The other registers hold weights and inputs.
    accumulators = 24 if target.registers >= 32 else 8 if wasm else 12
    by_element = target.triple.startswith(("aarch64", "arm64"))
    given = {kind: dict(values) for kind, values in target.schedule}
    if unknown := set(given) - set(KINDS):
        raise InputError(f"no kernel has the schedule {min(unknown)!r}", where=target.name, fix="one of: " + ", ".join(KINDS))
    held = {kind: _filled(cls.default(accumulators, by_element), given.get(kind, {}), f"{target.name}, schedule.{kind}") for kind, cls in KINDS.items()}
    return Machine("int32" if wasm else "int64", target.lanes, accumulators, by_element, **held)


def schedules_of(target: "Target") -> dict[str, dict[str, dict[str, int]]]:
    """Every value that the kernels of a target follow: of each processor that it is compiled for, of each kind."""
    return {processor(t.cpu, t.features): {kind: asdict(getattr(machine_of(t), kind)) for kind in KINDS} for t in target.levels}


def _filled(schedule, values: dict, where: str):
    for key, value in values.items():
        if key not in asdict(schedule):
            raise InputError(f"unknown key {key!r}", where=where, fix="one of: " + ", ".join(asdict(schedule)))
        if type(value) is not int or not 1 <= value <= 1 << 20:
            raise InputError(f"{key} = {value!r} is not a whole number of 1 or more", where=where)
    return replace(schedule, **values)
