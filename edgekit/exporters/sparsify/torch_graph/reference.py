"""Operators that have no version in torch, computed case by case by onnxruntime or onnx.reference. No gradient goes through."""
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from edgekit.errors import UnsupportedError
from edgekit.exporters.load.evaluate import evaluate
from edgekit.exporters.load.graph import OPSET
from edgekit.exporters.sparsify.torch_graph.node import Node, Result


def reference(node: Node, inputs: Sequence[torch.Tensor | None]) -> Result:
    """The outputs of the node, under `torch.vmap` too. UnsupportedError where neither knows the operator."""
    found = iter(_Reference.apply(node, *inputs))
    return tuple(next(found) if name else torch.empty(0) for name in node.outputs)


class _Reference(torch.autograd.Function):
    generate_vmap_rule = False

    @staticmethod
    def forward(node: Node, *inputs: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        arrays = [None if t is None else t.detach().cpu().numpy() for t in inputs]
        types = [(kind, shape) for kind, shape, name in zip(node.types, node.shapes, node.outputs) if name]
        found = evaluate(node.op, arrays, dict(node.attrs), types, OPSET)
        if found is None:
            raise UnsupportedError(f"{node.op} cannot be computed here", where=f"node {node.name}",
                                   fix="prune without calibration inputs")
        device = next((t.device for t in inputs if t is not None), None)
        return tuple(torch.from_numpy(np.array(a)).to(device) for a in found)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[torch.Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output)
        ctx.inputs = len(inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, ...]:
        return (None,) * ctx.inputs

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], node: Node, *inputs: torch.Tensor | None
             ) -> tuple[tuple[torch.Tensor, ...], tuple[int, ...]]:
        cases = [_Reference.apply(node, *(t if t is None or d is None else t.select(d, k) for t, d in zip(inputs, in_dims[1:])))
                 for k in range(info.batch_size)]
        stacked = tuple(torch.stack(found) for found in zip(*cases))
        return stacked, (0,) * len(stacked)
