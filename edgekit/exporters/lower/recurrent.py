"""LSTM, GRU, RNN: the input projections of all steps as one product, then the steps as a loop of their own kernel."""
import numpy as np

from edgekit.exporters.kernels import spec
from edgekit.exporters.kernels.spec import Body, Op
from edgekit.exporters.lower.builder import Builder, Node
from edgekit.exporters.lower.products import in_float32, linear
from edgekit.exporters.lower.values import of_view
from edgekit.exporters.lower.views import View
from edgekit.exporters.lower.weights import POSITION_MAJOR, packed

F = "float32"
DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
TAKES_ALPHA = {"LeakyRelu": 0.01, "ThresholdedRelu": 1.0, "ScaledTanh": 1.0, "HardSigmoid": 0.2, "Elu": 1.0, "Affine": 1.0}
TAKES_BETA = {"ScaledTanh": 1.0, "HardSigmoid": 0.5, "Affine": 0.0}
PLAIN = {"Sigmoid": "sigmoid", "Tanh": "tanh", "Relu": "relu", "Softsign": "softsign", "Softplus": "softplus"}


def activation(node: Node, name: str, alpha: float, beta: float) -> Body:
    """An activation of ONNX's recurrent operators as a body of one input."""
    known = {n.lower(): n for n in (*PLAIN, *TAKES_ALPHA)}
    kind = known.get(name.lower(), "")

    def scaled(first: int, factor: float, addend: float) -> Body:
        """factor * value `first` + addend, appended to a body with `first` as its last value."""
        return (Op("const", (), F, (factor,)), Op("mul", (first, first + 1), F), Op("const", (), F, (addend,)), Op("add", (first + 2, first + 3), F))
    if kind in PLAIN:
        return (Op(PLAIN[kind], (0,), F),)
    if kind in ("LeakyRelu", "ThresholdedRelu", "Elu"):
        return (Op(kind.lower(), (0,), F, (alpha,)),)
    if kind == "HardSigmoid":
        return (Op("hardsigmoid", (0,), F, (alpha, beta)),)
    if kind == "Affine":
        return scaled(0, alpha, beta)
    if kind == "ScaledTanh":
        inner = scaled(0, beta, 0.0)
        return (*inner, Op("tanh", (4,), F), Op("const", (), F, (alpha,)), Op("mul", (5, 6), F))
    raise node.unsupported(f"activation {name!r}", "use one of " + ", ".join((*PLAIN, *TAKES_ALPHA)))


def activations(node: Node, directions: int) -> list[tuple[Body, ...]]:
    """Per direction, in ONNX's order."""
    names = node.attrs.get("activations") or list(DEFAULTS[node.op]) * directions
    names = [n.decode() if isinstance(n, bytes) else n for n in names]
    alphas, betas = list(node.attrs.get("activation_alpha", [])), list(node.attrs.get("activation_beta", []))
    bodies = []
    for n in names:
        alpha = alphas.pop(0) if n in TAKES_ALPHA and alphas else TAKES_ALPHA.get(n, 0.0)
        beta = betas.pop(0) if n in TAKES_BETA and betas else TAKES_BETA.get(n, 0.0)
        bodies.append(activation(node, n, alpha, beta))
    each = len(DEFAULTS[node.op])
    return [tuple(bodies[d * each:(d + 1) * each]) for d in range(directions)]


def recurrent(b: Builder, node: Node) -> None:
    cell, gates = node.op, spec.GATES[node.op]
    w, r = b.array(node.input(1)), b.array(node.input(2))
    if w is None or r is None:
        raise node.unsupported("the weights are computed at run time", "make them constants of the model")
    if b.dtype(node.input(0)) != F:
        raise node.unsupported(f"{b.dtype(node.input(0))} is not compiled", "convert the model to float32")
    bias = b.array(node.input(3))
    if node.input(3) and bias is None:
        raise node.unsupported("the bias is computed at run time", "make it a constant of the model")
    directions, hidden = w.shape[0], r.shape[2]
    bias = np.zeros((directions, 2 * gates * hidden), np.float32) if bias is None else bias
    batch_first = bool(node.attrs.get("layout", 0))
    x = b.value(node.input(0))
    if batch_first:
        x = b.transposed(x, (1, 0, 2))
    steps, batch, _ = x.shape
    x = of_view(b.memory(x))

    order = (2, 0, 1, 3) if batch_first else (0, 1, 2, 3)  # of (steps, directions, batch, hidden), as Y lies in memory
    y_shape = tuple((steps, directions, batch, hidden)[a] for a in order)
    y = b.fresh(F, y_shape)
    y_by_step = y.transpose(np.argsort(order).tolist())
    state_order = (1, 0, 2) if batch_first else (0, 1, 2)
    states = [_initial(b, node, k, state_order, (directions, batch, hidden)) for k in ((5, 6) if cell == "LSTM" else (5,))]
    lens = None
    if node.input(4):
        lens = b.dense(b.value(node.input(4)))
    peephole = b.array(node.input(7)) if cell == "LSTM" else None
    if cell == "LSTM" and node.input(7) and peephole is None:
        raise node.unsupported("the peephole weights are computed at run time", "make them constants of the model")

    direction = node.attrs.get("direction", "forward")
    acts = activations(node, directions)
    for d in range(directions):
        reset_after = bool(node.attrs.get("linear_before_reset", 0))
        wb, rb = bias[d, :gates * hidden].copy(), bias[d, gates * hidden:].copy()
        if cell == "GRU" and reset_after:  # the hidden bias of the candidate is inside of the reset
            wb[:2 * hidden] += rb[:2 * hidden]
            rb[:2 * hidden] = 0
        else:
            wb += rb
            rb[:] = 0
        xp = b.memory(linear(b, x, w[d], wb, (steps, batch, gates * hidden), node.op))
        q = packed(b, np.ascontiguousarray(r[d], np.float32), rb, POSITION_MAJOR)
        yd = y_by_step.slice(1, d, 1)
        kernel = spec.Recurrent(
            cell, steps, batch, hidden, direction == "reverse" or d == 1, acts[d], float(node.attrs.get("clip", 0.0)), reset_after,
            bool(node.attrs.get("input_forget", 0)), q.groups, q.v, q.kept, q.index_dtype, q.order is not None, peephole is not None,
            lens is not None, (xp.strides[0], xp.strides[1]), (yd.strides[0], yd.strides[2]), q.starts is not None)
        own = [s.slice(0, d, 1) for s in states]
        scratch = b.fresh(F, (kernel.scratch_floats,))
        extra = ([b.constant(np.ascontiguousarray(peephole[d], np.float32))] if peephole is not None else []) + ([lens] if lens is not None else [])
        macs = steps * batch
        b.step(kernel, [xp, *q.operands, *extra, *own, yd, scratch], macs=macs * q.weights, dense_macs=macs * gates * hidden * hidden, sparsity=q.sparsity,
               group=q.group)
    b.set(node.output(0), of_view(y))
    for k, state in enumerate(states):
        b.set(node.output(1 + k), of_view(state.transpose(state_order)))


def _initial(b: Builder, node: Node, k: int, order, shape) -> View:
    """The running state (directions, batch, hidden): the initial state on entry, the last one on return."""
    state = b.fresh(F, shape)
    if node.input(k):
        given = b.value(node.input(k))
        b.write(b.transposed(given, order), state)
    else:
        b.fill(state, 0.0)
    return state


OPERATORS = dict.fromkeys(("LSTM", "GRU", "RNN"), in_float32(recurrent))
