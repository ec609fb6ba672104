"""Balanced groups: V output channels that read the same P inputs, found in the zeros of a weight matrix, and packed.

A weight matrix is always (outputs, inputs); of a convolution the inputs are channel * taps + tap.
"""
from dataclasses import dataclass

import numpy as np

SIZES = (32, 16, 8, 4)  # group sizes with a kernel, the larger the fewer indices
WORTH = 0.95            # a pattern that keeps more than this share of the multiply-adds is not worth an index
CLOSE = 1.02            # a larger group may cost this much more than the cheapest
PADDING = 1.125         # and rounding the number of outputs up to it may add this much
LOOSE = 0.3             # denser than this, rows that are not alike read nearly everything together
GREEDY = 1 << 25        # words that one greedy grouping of such rows may read


@dataclass(frozen=True, eq=False)
class Groups:
    """Which rows form a group and what it reads.

    v: rows of a group. order: (groups*v,) int32, the output of each packed row, -1 for rows of padding.
    index: (groups, kept) int32 ascending, the inputs that each group reads.
    """

    v: int
    order: np.ndarray
    index: np.ndarray

    @property
    def count(self) -> int:
        return self.index.shape[0]

    @property
    def kept(self) -> int:
        return self.index.shape[1]

    @property
    def macs(self) -> int:
        """Multiply-adds of one position, those of padding included."""
        return self.count * self.kept * self.v


def dense_groups(outputs: int, inputs: int, v: int) -> Groups:
    """Neighbouring outputs in groups of v, each reading all inputs."""
    count = -(-outputs // v)
    order = np.arange(count * v, dtype=np.int32)
    order[outputs:] = -1
    return Groups(v, order, np.broadcast_to(np.arange(inputs, dtype=np.int32), (count, inputs)))


def pack(w: np.ndarray, groups: Groups) -> np.ndarray:
    """w (outputs, inputs) -> (groups, kept, v), the kernels' layout. ValueError if the groups leave out non-zeros."""
    padded = np.concatenate([w, np.zeros((1, w.shape[1]), w.dtype)])  # row -1: padding
    rows = groups.order.reshape(groups.count, 1, groups.v)
    packed = padded[rows, groups.index[:, :, None]]
    if np.count_nonzero(packed) != np.count_nonzero(w):
        raise ValueError("the groups leave out weights that are not zero")
    return packed


def unpack(packed: np.ndarray, groups: Groups, outputs: int, inputs: int) -> np.ndarray:
    """The inverse of `pack`: (groups, kept, v) -> (outputs, inputs)."""
    w = np.zeros((outputs + 1, inputs), packed.dtype)
    w[groups.order.reshape(groups.count, 1, groups.v), groups.index[:, :, None]] = packed
    return w[:outputs]


def find_groups(w: np.ndarray, sizes: tuple[int, ...] = SIZES) -> Groups | None:
    """Groups that the zeros of w (outputs, inputs) form, of the largest size in `sizes` that fits; None if they save
    less than 5 % of the multiply-adds.

    Rows with the same support are one class. A row whose support lies inside a class (a weight that happens to be
    zero, a dead channel) fills that class up; when exact classes bring too little, rows of nearly the same support
    are united. Very sparse rows that are not alike (the adjacency of a graph, unstructured pruning) are put with those
    that add least. Groups that read less than the largest are filled up with inputs whose weights are zero.
    The cost is O(rows * classes * inputs / 64).
    """
    outputs, inputs = w.shape
    nonzero = w != 0
    limit = WORTH * outputs * inputs
    if not w.size or np.count_nonzero(nonzero) > limit:
        return None
    bits = _words(nonzero)
    count = np.count_nonzero(nonzero)
    found: list[tuple[float, Groups]] = []

    def offer(rows: list[list[int]], v: int) -> None:
        groups = _groups(rows, nonzero, v)
        if groups.macs <= limit:
            padding = -(-outputs // v) * v / outputs
            found.append((groups.macs / (padding if padding <= PADDING else 1), groups))

    def enough(times: float) -> bool:
        return any(cost <= times * count for cost, _ in found)

    for unite in (False, True):
        classes = _classes(bits, inputs, unite, limit / min(sizes))
        if classes is None:
            continue
        for v in sizes:
            offer(_cut(classes, bits, v), v)
        if enough(CLOSE):
            break
    if not enough(1.5) and count <= LOOSE * w.size and bits.size * outputs <= GREEDY:
        for v in sizes:
            for share in (1, 2):
                offer(_gather(bits, v, share), v)
    if not found:
        return None
    best = min(cost for cost, _ in found)
    return max((g for cost, g in found if cost <= CLOSE * best), key=lambda g: g.v)


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


def _gather(bits: np.ndarray, v: int, share: int) -> list[list[int]]:
    """Groups of v rows, each begun with the row that reads most and filled with those that add least to it.

    share: what an input read in common counts for, against one more to read.
    """
    sizes = _sizes(bits)
    left = np.argsort(-sizes, kind="stable")
    rows = []
    while left.size:
        row, union, group = left[0], np.zeros_like(bits[0]), []
        while True:
            group.append(int(row))
            union = union | bits[row]
            left = left[left != row]
            if len(group) == v or not left.size:
                break
            row = left[(share * _sizes(bits[left] & union) - sizes[left]).argmax()]
        rows.append(sorted(group))
    return rows


def _groups(rows: list[list[int]], nonzero: np.ndarray, v: int) -> Groups:
    """Groups from lists of up to v rows; all keep as many inputs as the one that reads most."""
    rows = sorted(rows)
    order = np.full((len(rows), v), -1, np.int32)
    for g, r in enumerate(rows):
        order[g, :len(r)] = r
    reads = np.stack([nonzero[r].any(0) for r in rows])
    kept = max(1, int(reads.sum(1).max()))
    # A stable sort by "not read" puts the inputs read first and fills up with the lowest of the others.
    index = np.sort(np.argsort(~reads, axis=1, kind="stable")[:, :kept], axis=1).astype(np.int32)
    return Groups(v, order.ravel(), index)
