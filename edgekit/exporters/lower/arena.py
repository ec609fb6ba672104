"""One arena for all buffers of an entry: buffers whose lives do not overlap share memory."""
from collections.abc import Sequence
from dataclasses import dataclass

ALIGN = 64
SLACK = 128  # kernels may read this many bytes past a buffer's end; what they read there is never used


@dataclass(frozen=True)
class Need:
    """A buffer's size in bytes and the first and last step that touch it."""

    name: str
    nbytes: int
    first: int
    last: int


def aligned(n: int) -> int:
    return -(-n // ALIGN) * ALIGN


def place(needs: Sequence[Need], base: int = 0) -> tuple[dict[str, int], int]:
    """Offsets from `base` on and the end of the arena. Largest first, each in the lowest gap that fits."""
    placed: list[tuple[int, int, Need]] = []
    offsets: dict[str, int] = {}
    end = base
    for need in sorted(needs, key=lambda n: (-n.nbytes, n.first, n.name)):
        size = aligned(need.nbytes + SLACK)
        at = base
        for start, stop, other in placed:  # kept in order of address
            if other.last < need.first or need.last < other.first:
                continue
            if at + size <= start:
                break
            at = max(at, stop)
        offsets[need.name] = at
        placed.append((at, at + size, need))
        placed.sort(key=lambda p: (p[0], p[1]))
        end = max(end, at + size)
    return offsets, end
