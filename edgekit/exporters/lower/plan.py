"""The plan: what a compiled model does, as plain data. The C code, the arena, traces and reports all come from it."""
from dataclasses import dataclass

from edgekit.exporters.kernels.spec import Kernel


@dataclass(frozen=True)
class Buffer:
    """A place in the arena or in the packed weights. offset and nbytes are in bytes, offset a multiple of 64."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    space: str                     # "arena" | "weights"
    offset: int
    nbytes: int
    scale: float | None = None     # for 8-bit tensors


@dataclass(frozen=True)
class Ref:
    """An operand: a buffer and an offset into it, in elements."""

    buffer: str
    offset: int = 0


@dataclass(frozen=True)
class Step:
    """One kernel call. name: the ONNX node it comes from; op: ONNX operators fused in it, joined by '+'.

    macs: multiply-accumulates executed; dense_macs: those of the same layer without sparsity. group: V, or None where
    there are no groups. sparsity: share of the layer's weights that is neither stored nor multiplied.
    """

    name: str
    op: str
    kernel: Kernel
    args: tuple[Ref, ...]
    macs: int = 0
    dense_macs: int = 0
    sparsity: float = 0.0
    group: int | None = None


@dataclass(frozen=True)
class Port:
    """An input or output of an entry: row-major, densely packed, in `buffer` of the arena."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    buffer: str


@dataclass(frozen=True)
class State:
    """A value kept in the arena from call to call; zero after reset. Shared by the entries that name it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    buffer: str


@dataclass(frozen=True)
class Entry:
    """A callable of the model. updates: (state buffer, buffer copied over it once the last step is done)."""

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    steps: tuple[Step, ...]
    buffers: tuple[Buffer, ...]
    updates: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Plan:
    """Entries over one arena and one weight file. States come first in the arena; each entry lays out the rest anew."""

    name: str
    entries: tuple[Entry, ...]
    constants: tuple[Buffer, ...]
    states: tuple[State, ...]
    state_buffers: tuple[Buffer, ...]
    arena_bytes: int
    state_bytes: int
    weights_bytes: int

    def buffers(self, entry: Entry) -> dict[str, Buffer]:
        """Every buffer that steps of `entry` can name."""
        return {b.name: b for b in (*self.constants, *self.state_buffers, *entry.buffers)}
