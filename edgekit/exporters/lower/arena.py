"""One arena for all buffers of an entry: buffers whose lives do not overlap share memory."""
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

ALIGN = 64
SLACK = 128  # bytes behind a buffer that kernels may read and never use: another buffer's, or the end of the arena


@dataclass(frozen=True)
class Need:
    """A buffer's size in bytes and the first and last step that touch it."""

    name: str
    nbytes: int
    first: int
    last: int

    @property
    def life(self) -> int:
        """Steps from first to last."""
        return self.last - self.first + 1


# No order suits every net: large buffers first is best for most, long lives first where skips cross each other.
_ORDERS: tuple[Callable[[Need], int], ...] = (
    lambda n: -n.nbytes, lambda n: -n.nbytes * n.life, lambda n: -n.life, lambda n: n.first, lambda n: -n.last)


def aligned(n: int) -> int:
    return -(-n // ALIGN) * ALIGN


def largest_live_set(needs: Sequence[Need]) -> int:
    """Bytes, each buffer aligned, of those alive together when that is most: no arena is smaller."""
    change: Counter[int] = Counter()
    for need in needs:
        change[need.first] += aligned(need.nbytes)
        change[need.last + 1] -= aligned(need.nbytes)
    return max(accumulate(change[step] for step in sorted(change)), default=0)


def place(needs: Sequence[Need], base: int = 0) -> tuple[dict[str, int], int]:
    """Offsets from `base` on and the end of the arena, its slack included: the least of what several orders give."""
    least = largest_live_set(needs)
    found = None
    for offsets, end in _layouts(needs, base, least):
        if found is None or end < found[1]:
            found = offsets, end
        if end - base == least:
            break
    return (found[0], found[1] + SLACK) if found else ({}, base + SLACK)


def _layouts(needs: Sequence[Need], base: int, least: int) -> Iterator[tuple[dict[str, int], int]]:
    for order in _ORDERS:
        yield _in_turn(sorted(needs, key=lambda n: (order(n), -n.nbytes, n.first, n.name)), base)
    yield _from_both_ends(sorted(needs, key=lambda n: (n.first, -n.nbytes, n.name)), base, base + least)


def _in_turn(needs: Sequence[Need], base: int) -> tuple[dict[str, int], int]:
    """One buffer after the other, each in the lowest gap that fits."""
    placed: list[tuple[int, int, Need]] = []  # kept in order of address
    for need in needs:
        size, at = aligned(need.nbytes), base
        for start, stop, other in placed:
            if other.last < need.first or need.last < other.first:
                continue
            if at + size <= start:
                break
            at = max(at, stop)
        insort(placed, (at, at + size, need), key=lambda p: p[:2])
    return {n.name: at for at, _, n in placed}, max((stop for _, stop, _ in placed), default=base)


def _from_both_ends(needs: Sequence[Need], base: int, limit: int) -> tuple[dict[str, int], int]:
    """In order of time, at the end of a gap below `limit` that leaves the most room in one piece when the buffer's
    last step has come: the buffers of a chain lie at the bottom and at the top by turns. Past `limit` where none fits."""
    placed: list[tuple[int, int, Need]] = []
    for need in needs:
        size = aligned(need.nbytes)
        alive = [(start, stop) for start, stop, o in placed if o.last >= need.first and need.last >= o.first]
        left = [(start, stop) for start, stop, o in placed if o.first <= need.last <= o.last]
        ends = [at for start, stop in _gaps(alive, base, limit) if stop - start >= size for at in (start, stop - size)]
        past = max([limit, *(stop for _, stop in alive)])
        at = max(ends, key=lambda at: max((b - a for a, b in _gaps([*left, (at, at + size)], base, limit)), default=0), default=past)
        placed.append((at, at + size, need))
    return {n.name: at for at, _, n in placed}, max((stop for _, stop, _ in placed), default=base)


def _gaps(taken: Sequence[tuple[int, int]], base: int, limit: int) -> list[tuple[int, int]]:
    """What lies between the taken spans, from base to limit."""
    gaps, at = [], base
    for start, stop in [*sorted(taken), (limit, limit)]:
        if start > at:
            gaps.append((at, start))
        at = max(at, stop)
    return gaps
