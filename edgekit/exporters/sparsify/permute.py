"""Which outputs share a group: balanced clustering of outputs by the inputs that they want to keep.

Alternates, as k-means does, between the best inputs of each group and the best balanced assignment of outputs to
groups, then exchanges single outputs by the exact score. Deterministic; numpy alone.

Share of the squared weights kept at 50 %, mean over the layers that are pruned:

                          neighbours   sorted by norm   here   unstructured bound
    MobileNet-v1 0.25           .835             .839   .890                 .973
    SqueezeNet 1.1              .744             .744   .803                 .947
    STGAT                       .713             .708   .782                 .941
    PPO policy                  .695             .698   .727                 .938
"""
import numpy as np

WORTH = 1.001     # a permutation that keeps less than this times the score of neighbours is not taken
EXACT = 1 << 25   # score entries that the exact exchange may read


def top(score: np.ndarray, kept: int) -> np.ndarray:
    """Ascending numbers of the `kept` largest along the last axis; of equals, the lowest numbers."""
    return np.sort(np.argsort(-score, axis=-1, kind="stable")[..., :kept], axis=-1)


def saliency(score: np.ndarray, rows: np.ndarray, kept: int) -> float:
    """Score kept when each group of `rows` (groups, v; -1 is padding) keeps its best `kept` inputs."""
    return float(_best(_sums(_padded(score), rows), kept).sum(dtype=np.float64))


def neighbours(outputs: int, v: int) -> np.ndarray:
    """Rows (groups, v) in their order, -1 at the end."""
    rows = np.arange(-(-outputs // v) * v)
    return np.where(rows < outputs, rows, -1).reshape(-1, v)


def cluster(score: np.ndarray, v: int, kept: int) -> np.ndarray:
    """Rows (groups, v) of a grouping of the outputs of score (outputs, inputs) that keeps much of it.

    Never keeps less than neighbouring rows do, and is the neighbours where nothing better by 0.1 % is found.
    Rows ascend within a group and groups by their first row; -1 is padding.
    """
    plain = neighbours(len(score), v)
    if len(plain) == 1 or v == 1 or kept >= score.shape[1]:
        return plain
    # Rows of padding are rows of zeros: they are welcome anywhere.
    padded = np.zeros((plain.size, score.shape[1]), np.float32)
    padded[:len(score)] = score / (score.max() or 1)
    starts = (np.arange(plain.size).reshape(plain.shape), _spread(padded, len(plain), v, kept))
    rows, _ = max((_alternate(padded, start, kept) for start in starts), key=lambda found: found[1])
    if plain.size ** 2 // 2 * score.shape[1] <= EXACT:
        rows = _exchange(padded, rows, kept)
    rows = np.where(rows < len(score), rows, -1)
    if saliency(score, rows, kept) < WORTH * saliency(score, plain, kept):
        return plain
    rows = np.array([sorted(r, key=lambda i: (i < 0, i)) for r in rows.tolist()])
    return rows[np.lexsort((rows[:, 0], rows[:, 0] < 0))]


def _padded(score: np.ndarray) -> np.ndarray:
    return np.concatenate([score, np.zeros((1, score.shape[1]), score.dtype)])


def _sums(score: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return score[rows].sum(1)


def _best(sums: np.ndarray, kept: int) -> np.ndarray:
    """Sum of the `kept` largest along the last axis."""
    if kept >= sums.shape[-1]:
        return sums.sum(-1)
    return np.partition(sums, sums.shape[-1] - kept, axis=-1)[..., -kept:].sum(-1)


def _mask(score: np.ndarray, kept: int) -> np.ndarray:
    mask = np.zeros(score.shape, np.float32)
    np.put_along_axis(mask, np.argpartition(-score, kept - 1, axis=-1)[..., :kept], 1, axis=-1)
    return mask


def _spread(score: np.ndarray, count: int, v: int, kept: int) -> np.ndarray:
    """Groups around `count` outputs that want different inputs: the next seed is the one least served so far."""
    own = _mask(score, kept)
    want = np.maximum((score * own).sum(1), 1e-30)
    served = np.zeros(len(score), np.float32)
    seeds: list[int] = []
    for _ in range(count):
        lack = want - served
        lack[seeds] = -1
        seeds.append(int(lack.argmax()))
        served = np.maximum(served, score @ own[seeds[-1]])
    return assign(score @ own[seeds].T, v)


def _alternate(score: np.ndarray, rows: np.ndarray, kept: int, rounds: int = 15) -> tuple[np.ndarray, float]:
    best, best_rows = -1.0, rows
    for _ in range(rounds):
        sums = _sums(score, rows)
        value = float(_best(sums, kept).sum())
        if value <= best * (1 + 1e-6):
            break
        best, best_rows = value, rows
        rows = assign(score @ _mask(sums, kept).T, rows.shape[1])
    return best_rows, best


def assign(benefit: np.ndarray, v: int) -> np.ndarray:
    """A balanced assignment of rows to groups, v each, of large total benefit (rows, groups): proposals, then swaps."""
    n, count = benefit.shape
    owner = np.full(n, -1)
    room = np.full(count, v)
    left = np.arange(n)
    while len(left):
        choice = np.where(room > 0, benefit[left], -np.inf).argmax(1)
        order = np.lexsort((left, -benefit[left, choice], choice))
        ranked = choice[order]
        rank = np.arange(len(order)) - np.searchsorted(ranked, ranked)  # place in the queue for the chosen group
        taken = order[rank < room[ranked]]
        owner[left[taken]] = choice[taken]
        room -= np.bincount(choice[taken], minlength=count)
        left = left[owner[left] < 0]
    rows = np.argsort(owner, kind="stable").reshape(count, v)
    for _ in range(20):
        # delta[a, i, b]: what row i of group a gains in group b; of each pair of groups the best exchange is taken.
        delta = benefit[rows]
        delta = delta - delta[np.arange(count)[:, None], np.arange(v), np.arange(count)[:, None]][:, :, None]
        place, best = delta.argmax(1), delta.max(1)
        gain = np.triu(best + best.T, 1)
        busy = np.zeros((count, v), bool)
        for pair in np.argsort(-gain, axis=None, kind="stable")[:count * v]:
            a, b = divmod(int(pair), count)
            if gain[a, b] <= 1e-6:
                break
            i, j = place[a, b], place[b, a]
            if not (busy[a, i] or busy[b, j]):
                busy[a, i] = busy[b, j] = True
                rows[a, i], rows[b, j] = rows[b, j], rows[a, i]
        if not busy.any():
            break
    return rows


def _exchange(score: np.ndarray, rows: np.ndarray, kept: int) -> np.ndarray:
    """For every pair of groups the best exchange of two outputs by the exact score, taken when it helps; two sweeps."""
    rows = rows.copy()
    count, v = rows.shape
    sums = _sums(score, rows)
    value = _best(sums, kept)
    for _ in range(2):
        moved = False
        for a in range(count):
            for b in range(a + 1, count):
                step = (score[rows[b]][None] - score[rows[a]][:, None]).reshape(v * v, -1)
                total_a, total_b = _best(sums[a] + step, kept), _best(sums[b] - step, kept)
                k = int((total_a + total_b).argmax())
                if total_a[k] + total_b[k] > (value[a] + value[b]) * (1 + 1e-5):
                    i, j = divmod(k, v)
                    rows[a, i], rows[b, j] = rows[b, j], rows[a, i]
                    sums[a], sums[b] = sums[a] + step[k], sums[b] - step[k]
                    value[a], value[b] = total_a[k], total_b[k]
                    moved = True
        if not moved:
            break
    return rows
