"""What a kernel computes, as plain data: hashable, printable, free of any compiler.

Every operand is a base pointer plus the element strides of the axes that the kernel walks, so slices, transposes,
broadcasts, concatenations and padded layouts are strides and offsets, not kernels. A *body* is a fused elementwise
expression in SSA form: values 0..n-1 are the inputs, each `Op` appends one, the last value is the result.

Every kernel compiles to one C function
    void SYMBOL(T0 *arg0, T1 *arg1, ..., int32_t begin, int32_t end, int32_t skew)
over its `units` of independent work; [begin, end) is the share of one thread and skew is always 0 (it keeps the compiler
from assuming that operands are aligned). The order of the arguments is the order given in each class.
"""
from dataclasses import dataclass


@dataclass(frozen=True)
class Tensor:
    """dtype and element strides of one operand, one stride per axis of the kernel's iteration space."""

    dtype: str
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Op:
    """One scalar operation; args are numbers of earlier values; dtype is that of the result."""

    op: str
    args: tuple[int, ...]
    dtype: str
    attrs: tuple[float | int, ...] = ()


Body = tuple[Op, ...]
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True)
class Map:
    """out[i...] = body(in0[i...], in1[i...], ...) over `shape`.  args: inputs..., output."""

    shape: tuple[int, ...]
    inputs: tuple[Tensor, ...]
    body: Body
    output: Tensor


@dataclass(frozen=True)
class Reduce:
    """out[i...] = post(op over r... of pre(ins[i..., r...])).  args: inputs of pre, extra inputs of post, output.

    shape: outer axes then reduced axes; `outer` is the number of outer axes. op: sum, max, min, prod.
    Inputs of pre have strides over all axes, extras and output over the outer axes. Value 0 of post is the reduction.
    """

    shape: tuple[int, ...]
    outer: int
    op: str
    inputs: tuple[Tensor, ...]
    pre: Body
    extras: tuple[Tensor, ...]
    post: Body
    output: Tensor


@dataclass(frozen=True)
class Arg:
    """Index of the first (or last) extreme value.  args: x, output. shape: outer axes then the one reduced axis."""

    shape: tuple[int, ...]
    op: str  # "max" | "min"
    last: bool
    x: Tensor
    output: Tensor


@dataclass(frozen=True)
class Norm:
    """Softmax, log-softmax or mean/variance normalisation over the last `axes` axes.  args: x, extras..., output.

    kind: "softmax" | "logsoftmax" | "layernorm" (x-mean)/sqrt(var+eps) | "rmsnorm" x/sqrt(mean(x^2)+eps).
    post: value 0 is the normalised element, then the extras (strides over all axes).
    """

    shape: tuple[int, ...]
    axes: int
    kind: str
    eps: float
    x: Tensor
    extras: tuple[Tensor, ...]
    post: Body
    output: Tensor


@dataclass(frozen=True)
class Conv:
    """Channel-major group-sparse product (design: Y = act(B + sum_p W[g,p,v] X[I[g,p]])): convolutions of any rank.

    args: x, w, bias, [index], [starts], [order], extras..., output.
    x: an image that needs no bounds checks: padded and, for strides, split into phases. Element strides: `channel`,
    and for each spatial axis a `phase` and a `step` stride: tap k of an axis (dilation d, stride s) reads phase (k d) % s
    at step (k d) // s. The step stride of the last axis is 1. Up to 64 bytes past the last element may be read.
    w: (groups, kept, v); bias: (groups*v,) in the order of the groups. dtype: of x, w, bias and the sums; post is given
    float32 in any case.
    index: (groups, kept) input numbers, input = channel * taps + tap, or absent when every group reads all inputs.
    starts: (groups+1,) int32, of lists of unequal length: group g reads index[starts[g]:starts[g+1]], w is then (the sum
    of the lengths, v), and no list is longer than kept. Absent when every group reads `kept` inputs.
    first: with `fan_in` < all channels (grouped convolution, dense), group g reads channels from (g*v // fan_out) * fan_in.
    order: (groups*v,) int32 output channel of each row, absent when row r is channel r; a row of padding repeats another
    row of its group, so that it needs no guard.
    post: value 0 is the sum with bias; extras and output have strides over (channel, *spatial).
    """

    channels: int          # output channels
    groups: int
    v: int
    kept: int
    fan_in: int            # input channels that one output channel can read
    fan_out: int           # output channels that read the same fan_in channels
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    channel: int
    phase: tuple[int, ...]
    step: tuple[int, ...]
    spatial: tuple[int, ...]   # output extents
    index: str | None          # dtype of the index list
    order: bool
    extras: tuple[Tensor, ...]
    post: Body
    output: Tensor
    starts: bool = False
    dtype: str = "float32"


@dataclass(frozen=True)
class Depthwise:
    """Depthwise convolution: every output channel reads one input channel.  args: x, w, bias, extras..., output.

    x: images as they lie, without padding: element strides over (batch, channel, row), columns side by side. What lies
    outside of an image is zero. w: (channels, *kernel) float32; bias: (channels,).
    Output channel c reads input channel c // fan_out, of extents `size`. Pairs are (rows, columns); pads: before the first
    row and column. post: value 0 is the sum with bias; extras and output have strides over (batch, channel, row, column).
    """

    batch: int
    channels: int              # output channels
    fan_out: int               # output channels that read the same input channel
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pads: tuple[int, int]
    size: tuple[int, int]      # input extents
    spatial: tuple[int, int]   # output extents
    x: tuple[int, int, int]
    extras: tuple[Tensor, ...]
    post: Body
    output: Tensor


@dataclass(frozen=True)
class WinogradInput:
    """B^T d B of overlapping tiles of an image, for 3x3 convolutions by minimal filtering.  args: x, output.

    x: padded images: element strides over (batch, channel, row), columns side by side; rows * m + 2 by columns * m + 2 of
    them are read, and up to 64 bytes past a row. output: ((m + 2)^2 points, channels, batch * tiles), contiguous.
    """

    batch: int
    channels: int
    m: int                     # outputs of a tile along an axis: 2 or 4
    tiles: tuple[int, int]     # rows and columns of tiles
    x: tuple[int, int, int]


@dataclass(frozen=True)
class WinogradOutput:
    """A^T p A of the products of such tiles, with bias.  args: x, bias, extras..., output.

    x: ((m + 2)^2 points, channels, batch * tiles), contiguous. bias: (channels,). post: value 0 is the sum with bias;
    extras and output have strides over (batch, channel, row, column).
    """

    batch: int
    channels: int
    m: int
    spatial: tuple[int, int]   # output extents
    extras: tuple[Tensor, ...]
    post: Body
    output: Tensor


@dataclass(frozen=True)
class Linear:
    """Position-major group-sparse product: linear layers, projections, batch 1.

    args: x, w, bias, [index], [starts], [order], extras..., output.
    x: (rows, inputs), element stride `row` between rows and 1 between inputs. w: (groups, kept, v), bias (groups*v,).
    dtype, index, starts, order as in Conv, of inputs and outputs. post, extras, output: strides over (row, column).
    """

    rows: int
    inputs: int
    outputs: int
    groups: int
    v: int
    kept: int
    row: int
    index: str | None
    order: bool
    extras: tuple[Tensor, ...]
    post: Body
    output: Tensor
    starts: bool = False
    dtype: str = "float32"


@dataclass(frozen=True)
class MatMul:
    """C[b..., m, n] = post(sum_k A[b..., m, k] B[b..., k, n]), both activations.  args: a, b, extras..., output.

    batch: batch extents; a: strides over (*batch, m, k); b: over (*batch, k, n); extras, output: over (*batch, m, n).
    """

    batch: tuple[int, ...]
    m: int
    n: int
    k: int
    a: Tensor
    b: Tensor
    extras: tuple[Tensor, ...]
    post: Body
    output: Tensor


@dataclass(frozen=True)
class Attention:
    """out[b..., m, :] = post(sum_n softmax_n(pre(sum_d Q[b..., m, d] K[b..., n, d])) V[b..., n, :]) for few keys: the scores of a
    tile of queries stay on the stack.  args: q, key, value, masks..., extras..., output.

    q: strides over (*batch, m, depth); key: (*batch, n, depth); value: (*batch, n, width). pre: value 0 is a score, then the
    masks, over (*batch, m, n), side by side along m or the same there. post: value 0 is the sum; extras and output have
    strides over (*batch, m, width). All float32.
    """

    batch: tuple[int, ...]
    m: int
    n: int
    depth: int
    width: int
    q: Tensor
    key: Tensor
    value: Tensor
    masks: tuple[Tensor, ...]
    pre: Body
    extras: tuple[Tensor, ...]
    post: Body
    output: Tensor


@dataclass(frozen=True)
class Gather:
    """out[i...] = x[i... with axis `axis` replaced by index[i...]].  args: x, index, output; strides over `shape`.

    x's stride along `axis` is that of the gathered axis, of extent `extent`; negative indices count from its end and an
    index outside is clamped (ONNX leaves it undefined; nothing is read out of bounds).
    """

    shape: tuple[int, ...]
    axis: int
    extent: int
    x: Tensor
    index: Tensor
    output: Tensor


@dataclass(frozen=True)
class Scatter:
    """out[i... with axis `axis` replaced by index[i...]] op= updates[i...], in row-major order.  args: updates, index, output.

    The output is read and written, all else of it stays. op: set, add, mul, max, min. extent: of the output's axis; negative
    indices count from its end, and one outside is passed over. One unit, because two indices may be the same.
    """

    shape: tuple[int, ...]
    axis: int
    extent: int
    op: str
    updates: Tensor
    index: Tensor
    output: Tensor


@dataclass(frozen=True)
class Recurrent:
    """The steps of an LSTM, GRU or RNN of one direction.

    args: xp, w, bias, [index], [starts], [order], [peephole], [lens], h, [c], y, scratch.
    xp: input projections of all steps with their biases, (hidden*gates) contiguous. w: (groups, kept, v) recurrent
    weights with rows gate*hidden + unit, index, starts and order as in Linear; bias (groups*v,): what is added to the recurrent product alone.
    peephole: (3, hidden) i o f. lens: (batch,) int32 steps of each sequence. h, c: (batch, hidden), the initial state on
    entry and the last on return. y: output of every step, (hidden) contiguous. scratch: `scratch_floats` floats.
    activations: bodies of one input, in ONNX's order (f g h; f g; f).
    """

    cell: str                  # "LSTM" | "GRU" | "RNN"
    steps: int
    batch: int
    hidden: int
    reverse: bool
    activations: tuple[Body, ...]
    clip: float                # 0: none
    linear_before_reset: bool
    input_forget: bool
    groups: int
    v: int
    kept: int
    index: str | None
    order: bool
    peephole: bool
    lens: bool
    xp: tuple[int, int]        # strides over (step, batch)
    y: tuple[int, int]         # strides over (step, batch)
    starts: bool = False

    @property
    def gates(self) -> int:
        return GATES[self.cell]

    @property
    def reset_first(self) -> bool:
        """A GRU that multiplies r into h before the recurrent product, which then runs twice a step."""
        return self.cell == "GRU" and not self.linear_before_reset

    @property
    def scratch_floats(self) -> int:
        """Recurrent sums of all gates, and r * h where the reset comes first."""
        return self.batch * self.hidden * (self.gates + self.reset_first)


Kernel = Map | Reduce | Arg | Norm | Conv | Depthwise | WinogradInput | WinogradOutput | Linear | MatMul | Attention | Gather | Scatter | Recurrent
