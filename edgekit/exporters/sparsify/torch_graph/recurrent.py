"""LSTM, GRU, RNN as loops over steps, with every attribute of ONNX's.

Besides the node's own outputs they give what the weights of the layer NODE.R multiply: the hidden state before each
step, and for a GRU that resets before multiplying what its candidate multiplies.
"""
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekit.exporters.sparsify.torch_graph.node import Node, NotInTorch, Result

Function = Callable[[Tensor], Tensor]

DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_ALPHA = {"leakyrelu": 0.01, "thresholdedrelu": 1.0, "scaledtanh": 1.0, "hardsigmoid": 0.2, "elu": 1.0, "affine": 1.0}
_BETA = {"scaledtanh": 1.0, "hardsigmoid": 0.5, "affine": 0.0}
_MAKE: dict[str, Callable[[float, float], Function]] = {
    "sigmoid": lambda a, b: torch.sigmoid, "tanh": lambda a, b: torch.tanh, "relu": lambda a, b: torch.relu,
    "softsign": lambda a, b: F.softsign, "softplus": lambda a, b: F.softplus,
    "leakyrelu": lambda a, b: lambda x: F.leaky_relu(x, a), "elu": lambda a, b: lambda x: F.elu(x, a),
    "thresholdedrelu": lambda a, b: lambda x: torch.where(x > a, x, torch.zeros_like(x)),
    "scaledtanh": lambda a, b: lambda x: a * torch.tanh(b * x), "affine": lambda a, b: lambda x: a * x + b,
    "hardsigmoid": lambda a, b: lambda x: torch.clamp(a * x + b, 0, 1),
}


def hidden_names(op: str, name: str, attrs: dict) -> tuple[str, ...]:
    """Names of the values that the layer NODE.R multiplies, (steps, directions, batch, hidden) each."""
    resets_before = op == "GRU" and not attrs.get("linear_before_reset", 0)
    return (f"{name}.R", f"{name}.R.candidate") if resets_before else (f"{name}.R",)


def _activations(node: Node, directions: int) -> list[list[Function]]:
    """Per direction, in ONNX's order, behind the clip; what an LSTM makes of its cell is not clipped."""
    names = node.attrs.get("activations") or list(DEFAULTS[node.op]) * directions
    alphas, betas = list(node.attrs.get("activation_alpha", [])), list(node.attrs.get("activation_beta", []))
    limit, made = node.attrs.get("clip", 0.0), []
    for name in (str(n).lower() for n in names):
        if name not in _MAKE:
            raise NotInTorch(f"activation {name}")
        alpha = alphas.pop(0) if name in _ALPHA and alphas else _ALPHA.get(name, 0.0)
        beta = betas.pop(0) if name in _BETA and betas else _BETA.get(name, 0.0)
        made.append(_MAKE[name](alpha, beta))
    each = len(DEFAULTS[node.op])
    clipped = [_clipped(f, limit if k % each < 2 else 0.0) for k, f in enumerate(made)]
    return [clipped[d * each:(d + 1) * each] for d in range(directions)]


def _clipped(f: Function, limit: float) -> Function:
    return (lambda x: f(torch.clamp(x, -limit, limit))) if limit else f


def recurrent(node: Node, x: Tensor, w: Tensor, r: Tensor, bias: Tensor | None = None, lens: Tensor | None = None,
              h0: Tensor | None = None, c0: Tensor | None = None, peephole: Tensor | None = None) -> Result:
    """x (steps, batch, inputs), w (directions, gates * hidden, inputs), r (directions, gates * hidden, hidden); layout 1 likewise."""
    batch_first = bool(node.attrs.get("layout", 0))
    x = x.transpose(0, 1) if batch_first else x
    states = [None if s is None else s.transpose(0, 1) if batch_first else s for s in (h0, c0)]
    steps, batch, _ = x.shape
    directions, rows, hidden = r.shape
    if bias is None:
        bias = x.new_zeros(directions, 2 * rows)
    activations = _activations(node, directions)
    ends = [x.new_zeros(directions, batch, hidden) if s is None else s for s in states]
    ys: list[Tensor] = []
    hs: list[Tensor] = []
    cs: list[Tensor] = []
    befores: list[list[Tensor]] = []
    for d in range(directions):
        projected = x @ w[d].T + bias[d, :rows]
        step = _cell(node, r[d], bias[d, rows:], activations[d], None if peephole is None else peephole[d].reshape(3, hidden))
        reverse = node.attrs.get("direction", "forward") == "reverse" or d == 1
        h, c = ends[0][d], ends[1][d]
        outputs: list[Tensor] = []
        before: list[tuple[Tensor, ...]] = []
        for t in range(steps - 1, -1, -1) if reverse else range(steps):
            new_h, new_c, reads = step(projected[t], h, c)
            before.append(reads)
            output = new_h
            if lens is not None:
                live = (t < lens).unsqueeze(-1)
                new_h, new_c = torch.where(live, new_h, h), torch.where(live, new_c, c)
                output = torch.where(live, output, torch.zeros_like(output))
            h, c = new_h, new_c
            outputs.append(output)
        order = slice(None, None, -1) if reverse else slice(None)
        ys.append(torch.stack(outputs[order]))
        befores.append([torch.stack(which) for which in zip(*before[order])])
        hs.append(h)
        cs.append(c)
    y, last_h, last_c = torch.stack(ys, 1), torch.stack(hs), torch.stack(cs)
    read = [torch.stack(which, 1) for which in zip(*befores)]
    if batch_first:
        y, last_h, last_c = y.permute(2, 0, 1, 3), last_h.transpose(0, 1), last_c.transpose(0, 1)
    return (y, last_h, last_c, *read) if node.op == "LSTM" else (y, last_h, *read)


def _cell(node: Node, r: Tensor, bias: Tensor, f: list[Function], peephole: Tensor | None
          ) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, tuple[Tensor, ...]]]:
    """One step: (projected input, h, c) -> h, c, and what r multiplied."""
    def lstm(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        i, o, forget, new = (x + h @ r.T + bias).chunk(4, -1)
        if peephole is not None:
            i, forget = i + peephole[0] * c, forget + peephole[2] * c
        i = f[0](i)
        kept = 1 - i if node.attrs.get("input_forget", 0) else f[0](forget)
        after = kept * c + i * f[1](new)
        o = o if peephole is None else o + peephole[1] * after
        return f[0](o) * f[2](after), after, (h,)

    def gru(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        size = h.shape[-1]
        if node.attrs.get("linear_before_reset", 0):
            part = h @ r.T + bias
            z, reset = f[0](x[..., :size] + part[..., :size]), f[0](x[..., size:2 * size] + part[..., size:2 * size])
            new = f[1](x[..., 2 * size:] + reset * part[..., 2 * size:])
            return (1 - z) * new + z * h, c, (h,)
        gates = x[..., :2 * size] + h @ r[:2 * size].T + bias[:2 * size]
        z, reset = f[0](gates[..., :size]), f[0](gates[..., size:])
        inner = reset * h
        new = f[1](x[..., 2 * size:] + inner @ r[2 * size:].T + bias[2 * size:])
        return (1 - z) * new + z * h, c, (h, inner)

    def rnn(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        return f[0](x + h @ r.T + bias), c, (h,)

    return {"LSTM": lstm, "GRU": gru, "RNN": rnn}[node.op]


OPERATORS: dict[str, Callable[..., Result]] = dict.fromkeys(DEFAULTS, recurrent)
