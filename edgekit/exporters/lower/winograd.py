"""3x3 convolutions of stride 1 by minimal filtering, where that is cheaper: transform, one product a point, transform back."""
import numpy as np

from edgekit.exporters.kernels import spec
from edgekit.exporters.kernels.spec import Tensor
from edgekit.exporters.lower.builder import Builder
from edgekit.exporters.lower.products import F, rooted, tensors
from edgekit.exporters.lower.values import Value
from edgekit.exporters.lower.views import View
from edgekit.exporters.lower.weights import packed_dense

FILTERS = {  # m: the transform of the weights, G of Lavin and Gray (2016)
    2: np.array([[1, 0, 0], [.5, .5, .5], [.5, -.5, .5], [0, 0, 1]]),
    4: np.array([[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]),
}
FEWEST = 16      # tiles: fewer cost as much, because then a weight is loaded for every few products
TRANSFORM = 12   # multiply-adds that an element of the transforms costs as much as
GAIN = 0.8       # of the direct product, at most: the estimate is rough


def tile(inputs: int, outputs: int, batch: int, out, kernel, stride, dilation, direct: float) -> int | None:
    """m of the tiles that make a convolution cheapest, None where the direct product is, which takes the share `direct` of
    the time of a dense one."""
    if tuple(kernel) != (3, 3) or max(*stride, *dilation) > 1 or max(out) > 1024:
        return None

    def cost(m: int) -> float:
        """Multiply-adds for each pair of an input and an output."""
        tiles = batch * -(-out[0] // m) * -(-out[1] // m)
        return (m + 2) ** 2 * (max(tiles, FEWEST) + TRANSFORM * tiles * (1 / inputs + 1 / outputs))
    best = min(FILTERS, key=cost)
    return best if cost(best) < GAIN * direct * 9 * batch * out[0] * out[1] else None


def winograd(b: Builder, image: View, w: np.ndarray, bias, m: int, shape, op: str) -> Value:
    """w (outputs, inputs, 3, 3) over a padded image (N, inputs, rows, columns) of whole tiles -> a value of `shape`."""
    n, outputs, *out = shape
    inputs, points = w.shape[1], (m + 2) ** 2
    down, across = (-(-extent // m) for extent in out)
    positions = n * down * across
    g = FILTERS[m]
    factors = np.einsum("ia,ocab,jb->ijoc", g, w.astype(np.float64), g, optimize=True).reshape(points * outputs, inputs).astype(np.float32)
    p = packed_dense(b, factors, None, max(d for d in range(1, 9) if outputs % d == 0))
    offsets = b.constant(np.zeros(outputs, np.float32) if bias is None else np.asarray(bias, np.float32))
    spread, products = b.fresh(F, (points, inputs, positions)), b.fresh(F, (points, outputs, positions))
    by_batch, by_channel, by_row, _ = image.strides
    node = b.node
    b.step(spec.WinogradInput(n, inputs, m, (down, across), (by_batch, by_channel, by_row)), [image, spread], node=node, ops=op)
    product = spec.Conv(points * outputs, p.groups, p.v, p.kept, inputs, outputs, (1,), (1,), (1,), positions, (0,), (1,), (positions,),
                        None, p.order is not None, (), (), Tensor(F, (positions, 1)))
    b.step(product, [spread, *p.operands, products], node=node, ops=op, macs=p.weights * positions)

    def emit(post, extras, target, ops):
        kernel = spec.WinogradOutput(n, outputs, m, (out[0], out[1]), tensors(extras), post, Tensor(target.dtype, target.strides))
        b.step(kernel, [products, offsets, *extras, target], node=node, ops=ops)
    return rooted(shape, emit, lambda v: v, op)
