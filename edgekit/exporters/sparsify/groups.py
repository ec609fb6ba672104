"""Groups: V output channels that read the same short list of inputs, found in the zeros of a weight matrix, and packed.

A weight matrix is always (outputs, inputs); of a convolution the inputs are channel * taps + tap.
"""
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

WORTH = 0.93            # a pattern that leaves more than this share of the cost is not worth its lists: 2 instructions on 26 on AArch64
CLOSE = 1.02            # a larger group may cost this much more than the cheapest
PADDING = 1.125         # and rounding the number of outputs up to it may add this much
MATCHED = 1 << 30       # multiply-adds of one matching of rows: 1024 rows of 1024 inputs


@dataclass(frozen=True)
class Form:
    """A form of the product: the groups it takes, and what they cost, in multiply-adds of the dense kernel.

    dense: rows of a group where nothing is zero. costs: of one input of a group, by V: its multiply-adds, and its index,
    address and loads, which few rows share. start: of a list of its own length, whose end no processor foresees.
    One model for all processors, because they share the weights: measured on x86-64, where loads bind small groups, and in
    instructions of AArch64, where they cost least, and between the two.
    """

    dense: tuple[int, ...]
    costs: Mapping[int, float]
    start: float

    @property
    def sizes(self) -> tuple[int, ...]:
        """V of the groups to look for, largest first."""
        return tuple(sorted(self.costs, reverse=True))

    def cost(self, groups: "Groups") -> float:
        return len(groups.index) * self.costs[groups.v] + (0 if groups.equal else groups.count * self.start)


CHANNEL_MAJOR = Form((8, 7, 6, 5, 4), {1: 1.95, 2: 2.5, 4: 4.4, 8: 8.2, 16: 16.2, 32: 32.2}, 4)  # positions are the lanes
POSITION_MAJOR = Form((32, 16, 8, 4), {4: 10.4, 8: 12, 16: 18.5, 32: 33}, 250)                  # the outputs of a group are


@dataclass(frozen=True, eq=False)
class Groups:
    """Which rows form a group and what it reads.

    v: rows of a group. order: (groups*v,) int32, the output of each packed row, -1 for rows of padding.
    index: (sum of the lengths,) int32, the inputs that each group reads, ascending, one group after the other.
    starts: (groups+1,) int32, where the list of each group starts.
    """

    v: int
    order: np.ndarray
    index: np.ndarray
    starts: np.ndarray

    @cached_property
    def lengths(self) -> np.ndarray:
        """(groups,) inputs that each group reads."""
        return np.diff(self.starts)

    @property
    def count(self) -> int:
        return len(self.starts) - 1

    @property
    def kept(self) -> int:
        """Inputs of the group that reads most."""
        return int(self.lengths.max(initial=0))

    @property
    def equal(self) -> bool:
        """Whether all groups read the same number of inputs."""
        return len(self.index) == self.count * self.kept

    @property
    def macs(self) -> int:
        """Multiply-adds of one position, those of padding included."""
        return len(self.index) * self.v

    @property
    def weights(self) -> int:
        """Multiply-adds of one position without those of padding."""
        return int(self.lengths @ (self.order.reshape(self.count, self.v) >= 0).sum(1))

    @cached_property
    def rows(self) -> np.ndarray:
        """(sum of the lengths, v): the outputs that use each entry of `index`."""
        return np.repeat(self.order.reshape(self.count, self.v), self.lengths, axis=0)


def equal_groups(v: int, order: np.ndarray, index: np.ndarray) -> Groups:
    """Groups that all read as many inputs: index (groups, kept)."""
    count, kept = index.shape
    starts = np.arange(0, count * kept + 1, kept) if kept else np.zeros(count + 1)
    return Groups(v, order.astype(np.int32), np.ascontiguousarray(index, np.int32).reshape(-1), starts.astype(np.int32))


def dense_groups(outputs: int, inputs: int, v: int) -> Groups:
    """Neighbouring outputs in groups of v, each reading all inputs."""
    count = -(-outputs // v)
    order = np.arange(count * v)
    order[outputs:] = -1
    return equal_groups(v, order, np.broadcast_to(np.arange(inputs), (count, inputs)))


def pack(w: np.ndarray, groups: Groups) -> np.ndarray:
    """w (outputs, inputs) -> (sum of the lengths, v), the kernels' layout. ValueError if the groups leave out non-zeros."""
    padded = np.concatenate([w, np.zeros((1, w.shape[1]), w.dtype)])  # row -1: padding
    packed = padded[groups.rows, groups.index[:, None]]
    if np.count_nonzero(packed) != np.count_nonzero(w):
        raise ValueError("the groups leave out weights that are not zero")
    return packed


def unpack(packed: np.ndarray, groups: Groups, outputs: int, inputs: int) -> np.ndarray:
    """The inverse of `pack`: (sum of the lengths, v) -> (outputs, inputs)."""
    w = np.zeros((outputs + 1, inputs), packed.dtype)
    w[groups.rows, groups.index[:, None]] = packed
    return w[:outputs]


def find_groups(w: np.ndarray, form: Form = CHANNEL_MAJOR) -> Groups | None:
    """Groups that the zeros of w (outputs, inputs) form; None where they would not make the product faster.

    First groups that read equally much, as pruning makes them. Rows with the same support are one class; a row whose
    support lies inside a class (a weight that happens to be zero, a dead channel) fills that class up; when exact classes
    bring too little, rows of nearly the same support are united. Of these the largest V in `form.sizes` that fits is
    taken. Where they read more than the weights that are not zero, zeros without such a pattern (the adjacency of a
    graph, unstructured pruning) compete with them, as lists of unequal length: rows alone, or matched in pairs, pairs of
    pairs and so on by what they read in common. The form's cost model decides.
    The cost is O(rows * classes * inputs / 64) for the former and O(rows * min(rows, MATCHED / rows) * inputs) for the latter.
    """
    outputs, nonzero = len(w), w != 0
    count = int(np.count_nonzero(nonzero))
    if not w.size or count > WORTH * w.size:
        return None
    equal = _alike(nonzero, tuple(v for v in form.sizes if v >= 4))
    if not count or equal is not None and equal.count == -(-outputs // equal.v) and equal.weights <= CLOSE * count:
        return equal
    best, least = equal, WORTH * w.size
    if equal is not None:
        least = min(least, WORTH * form.cost(equal))
    for v, rows, reads in _matched(nonzero, form.sizes[0]):
        if np.count_nonzero(reads) * v >= least:  # larger groups read more
            break
        if v in form.sizes:
            groups = _groups(rows, reads, v)
            if form.cost(groups) < least:
                best, least = groups, form.cost(groups)
    return best


def _alike(nonzero: np.ndarray, sizes: tuple[int, ...]) -> Groups | None:
    """Groups of rows of the same or nearly the same support, all reading as many inputs as the one that reads most, of the
    largest size that fits; None if they save too few of the multiply-adds."""
    outputs, inputs = nonzero.shape
    limit, count, bits = WORTH * nonzero.size, np.count_nonzero(nonzero), _words(nonzero)
    found: list[tuple[float, Groups]] = []
    for unite in (False, True):
        classes = _classes(bits, inputs, unite, limit / min(sizes))
        if classes is None:
            continue
        for v in sizes:
            groups = _filled(_cut(classes, bits, v), nonzero, v)
            if groups.macs <= limit:
                padding = -(-outputs // v) * v / outputs
                found.append((groups.macs / (padding if padding <= PADDING else 1), groups))
        if any(cost <= CLOSE * count for cost, _ in found):
            break
    if not found:
        return None
    least = min(cost for cost, _ in found)
    return max((g for cost, g in found if cost <= CLOSE * least), key=lambda g: g.v)


@dataclass(frozen=True, eq=False)
class _Classes:
    """supports: (classes, words) of the classes; members: rows of each; loose: rows that fit several classes."""

    supports: np.ndarray
    members: list[np.ndarray]
    loose: np.ndarray


def _words(nonzero: np.ndarray) -> np.ndarray:
    """Boolean (rows, inputs) -> (rows, words) uint64, one bit an input."""
    packed = np.packbits(nonzero, axis=1)
    return np.ascontiguousarray(np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))).view(np.uint64)


def _sizes(bits: np.ndarray) -> np.ndarray:
    return np.bitwise_count(bits).sum(-1, dtype=np.int64)


def _classes(bits: np.ndarray, inputs: int, unite: bool, limit: float) -> _Classes | None:
    """Classes of rows by support, largest support first. None once a group for each costs > limit."""
    distinct, first, inverse = np.unique(bits.view(np.dtype((np.void, bits.shape[1] * 8))).ravel(),
                                         return_index=True, return_inverse=True)
    supports = bits[first]
    sizes = _sizes(supports)
    leaders = np.empty_like(supports)
    count, home = 0, np.full(len(distinct), -1)
    for i in np.lexsort((first, -sizes)):
        own, size = supports[i], sizes[i]
        inside = count and not (own & ~leaders[:count]).any(1).all()
        if unite and count and size:
            distance = _sizes(own ^ leaders[:count])
            nearest = int(distance.argmin())
            # Unrelated supports of this size differ in at least twice as many inputs as this allows.
            if distance[nearest] <= 0.5 * min(size, inputs - size):
                home[i] = nearest
                leaders[nearest] |= own
                continue
        if inside or not size:
            continue
        leaders[count], home[i], count = own, count, count + 1
        if count * sizes.max() > limit or 2 * count > len(bits) + 1:
            return None
    row_home = home[inverse.ravel()]
    members = [np.flatnonzero(row_home == c) for c in range(count)]
    return _Classes(leaders[:count], members, np.flatnonzero(row_home < 0))


def _cut(classes: _Classes, bits: np.ndarray, v: int) -> list[list[int]]:
    """Cuts classes into groups of up to v rows; loose rows go where a group has room, the nearest first."""
    members = [list(m) for m in classes.members] or [[]]
    room = np.array([-len(m) % v for m in members])
    if classes.loose.size:
        centre = np.array([np.median(m) if m else 0.0 for m in members])
        fits = [np.flatnonzero(~(bits[r] & ~classes.supports).any(1)) if len(classes.supports) else np.array([0])
                for r in classes.loose]
        for k in sorted(range(len(fits)), key=lambda k: len(fits[k])):  # the choosiest first
            row, able = classes.loose[k], fits[k]
            free = able[room[able] > 0]
            able = free if len(free) else able
            c = able[np.abs(centre[able] - row).argmin()]
            members[c].append(row)
            room[c] = (room[c] - 1) % v
    return [sorted(m)[i:i + v] for m in members for i in range(0, len(m), v)]


def _order(rows: list[list[int]], v: int) -> np.ndarray:
    order = np.full((len(rows), v), -1, np.int32)
    for g, r in enumerate(rows):
        order[g, :len(r)] = r
    return order.ravel()


def _filled(rows: list[list[int]], nonzero: np.ndarray, v: int) -> Groups:
    """Groups from lists of up to v rows; all keep as many inputs as the one that reads most."""
    rows = sorted(rows)
    reads = np.stack([nonzero[r].any(0) for r in rows])
    kept = max(1, int(reads.sum(1).max()))
    # A stable sort by "not read" puts the inputs read first and fills up with the lowest of the others.
    return equal_groups(v, _order(rows, v), np.sort(np.argsort(~reads, axis=1, kind="stable")[:, :kept], axis=1))


def _groups(rows: list[list[int]], reads: np.ndarray, v: int) -> Groups:
    """Groups from lists of up to v rows and what they read, each with a list of its own length."""
    at = sorted(range(len(rows)), key=lambda g: rows[g])
    starts = np.concatenate([[0], np.cumsum(reads[at].sum(1))])
    return Groups(v, _order([rows[g] for g in at], v), np.nonzero(reads[at])[1].astype(np.int32), starts.astype(np.int32))


def _matched(nonzero: np.ndarray, most: int) -> Iterator[tuple[int, list[list[int]], np.ndarray]]:
    """(v, rows of each group, boolean (groups, inputs) of what they read) for v = 1, 2, 4, ... most."""
    rows, reads, v = [[r] for r in range(len(nonzero))], nonzero, 1
    yield v, rows, reads
    while v < most and len(rows) > 1:
        pairs = _pairs(reads)
        rows = [sorted(rows[a] + (rows[b] if b != a else [])) for a, b in pairs]
        a, b = np.array(pairs).T
        reads, v = reads[a] | reads[b], 2 * v
        yield v, rows, reads


def _pairs(reads: np.ndarray) -> list[tuple[int, int]]:
    """Each group with the one that has most in common with it, beginning with those that read most; the last one of an
    odd number with itself. Many groups are matched in batches of neighbours."""
    batch = max(64, math.isqrt(MATCHED // reads.shape[1])) // 2 * 2
    pairs = []
    for first in range(0, len(reads), batch):
        part = reads[first:first + batch].astype(np.float32)
        common = part @ part.T
        free = np.ones(len(part), bool)
        for i in np.argsort(-common.diagonal(), kind="stable"):
            if free[i]:
                free[i] = False
                j = int(np.where(free, common[i], -1).argmax()) if free.any() else i
                free[j] = False
                pairs.append((first + int(i), first + int(j)))
    return pairs
