"""An ONNX model as a torch module that any training loop can train, and back.

Needs torch: `import edgekit` does not import this module, `ek.trainable` does.
"""
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import InputError, MissingToolError

try:
    from torch import Tensor, nn
except ImportError:
    raise MissingToolError("torch is not installed", fix="pip install 'edgekit-deploy[torch]'") from None

from edgekit.exporters.sparsify import graph as onnx_graph
from edgekit.exporters.sparsify.masked import GroupMask, attach
from edgekit.exporters.sparsify.observe import Tensor as Prunable
from edgekit.exporters.sparsify.torch_graph.graph import Graph, quoted
from edgekit.exporters.sparsify.torch_graph.parameters import OFFSETS, WEIGHTS
from edgekit.exporters.sparsify.torch_graph.parameters import trainable as trained_of

if TYPE_CHECKING:
    import onnx


def trainable(model: "str | Path | onnx.ModelProto", *, input_shapes: Mapping[str, Any] | None = None) -> "Trainable":
    """A model to train in any torch loop; weights that are zero stay zero exactly.

    model, input_shapes: see `edgekit.exporters.load.load`; one shape variant. InputError for several.
    """
    from edgekit.exporters.load import load

    variants = load(model, input_shapes=input_shapes).variants
    if len(variants) != 1:
        raise InputError(f"the model has {len(variants)} shape variants", fix="bind every dimension to one length")
    return Trainable(_untied(variants[0].model))


def _untied(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """The model with a bias or norm for each layer where one number over and over serves several, as at the start of a training.

    The loader makes one constant of all that are equal; biases of the same weights (steps of a loop) stay one.
    """
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    alike = {n for n, a in arrays.items() if a.size and (a == a.flat[0]).all()}
    for node in graph.node:
        layer = next((node.input[k] for k in WEIGHTS.get(node.op_type, ()) if node.input[k] in arrays), node.name)
        for k in OFFSETS.get(node.op_type, ()):
            if k < len(node.input) and node.input[k] in alike:
                name = f"{node.input[k]} of {layer}"
                if name not in arrays:
                    arrays[name] = arrays[node.input[k]]
                    graph.initializer.append(onnx.numpy_helper.from_array(arrays[name], name))
                node.input[k] = name
    read = {i for node in graph.node for i in node.input} | {o.name for o in graph.output}
    for t in [t for t in graph.initializer if t.name not in read]:
        graph.initializer.remove(t)
    return made


class Trainable(nn.Module):
    """A clean graph as a module. Parameters: its weights, biases, norms and embeddings; other constants are frozen ones.

    Call it with the inputs in the graph's order or by name, axis 0 the case: (n, *shape of the graph's input). Where that
    shape begins with a batch axis of 1 it may be left out of all inputs, and is then left out of the outputs: (n, 3, 224,
    224) in, (n, 1000) out. Returns the output, or a tuple of all in the graph's order.
    """

    def __init__(self, model: "onnx.ModelProto"):
        super().__init__()
        self.graph = Graph(model)
        self._model = model
        trained = trained_of(self.graph)
        for name in filter(self.graph.is_weight, self.graph.initializers):
            weight = self.graph.weight(name)
            weight.requires_grad_(name in trained)
            keep = weight.detach() != 0
            if trained.get(name) and not keep.all():
                attach(self.graph.values, quoted(name), GroupMask(keep))

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor | tuple[Tensor, ...]:
        names = list(self.graph.inputs)
        given = dict(zip(names, inputs)) | named
        if len(inputs) + len(named) != len(names) or set(given) != set(names):
            raise InputError("the inputs are not those of the model", fix="give each once: " + ", ".join(names))
        bare = all(given[n].ndim == len(shape) and shape[:1] == (1,) for n, shape in self.graph.inputs.items())
        found = self.graph(**{n: t.unsqueeze(1) if bare else t for n, t in given.items()})
        outputs = tuple(t.squeeze(1) if bare and self.graph.outputs[n][:1] == (1,) else t for n, t in found.items())
        return outputs[0] if len(outputs) == 1 else outputs

    def prunable(self) -> list[Prunable]:
        """The weights of the products of the graph, as `prune` sees those of any module."""
        found = []
        for weight in onnx_graph.weights([self._model]):
            for number, (_, initializer, layout) in enumerate(weight.places or [(0, "", "rows")]):
                parts = weight.shape[0] if layout == "stack" and weight.shape else 1
                found.append(Prunable(weight.name if not number else f"{weight.name} ({initializer})", "graph.values", quoted(initializer),
                                      weight.op, weight.shape, parts, weight.facts, layout == "columns"))
        return found

    def to_onnx(self) -> "onnx.ModelProto":
        """The model with the weights as they are; the zeros that were there are in it."""
        weights = {n: self.graph.weight(n).detach().cpu() for n in filter(self.graph.is_weight, self.graph.initializers)}
        # numpy has no bfloat16, and float32 holds all of it
        return onnx_graph.with_values(self._model, {n: (t.float() if t.itemsize < 4 else t).numpy() for n, t in weights.items()})
