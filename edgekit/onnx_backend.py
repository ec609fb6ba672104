"""ONNX's backend interface over the host target: ONNX's own backend tests, and any tool that takes a backend, run on edgekit.

    import edgekit.onnx_backend as backend
    outputs = backend.prepare(model).run([x])

Compiled code has fixed shapes and fixed weights. A model that leaves a dimension open, or takes as an input what edgekit
compiles in (CONSTANT_INPUTS: shapes, axes, weights), is compiled when it is run, once for each combination of those.
"""
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import targets
from edgekit.errors import InputError, MissingToolError, UnsupportedError

try:
    import onnx
    from onnx import helper, numpy_helper
    from onnx.backend.base import Backend, BackendRep, namedtupledict
except ImportError:
    raise MissingToolError("the ONNX backend needs onnx", fix="pip install 'edgekit-deploy[export]'") from None

# Operator: inputs that say what is computed, not on what.
CONSTANT_INPUTS: dict[str, tuple[int, ...]] = {
    "AffineGrid": (1,), "BlackmanWindow": (0,), "CausalConvWithState": (1, 2), "CenterCropPad": (1,), "Col2Im": (1, 2), "ConstantOfShape": (0,), "Conv": (1, 2),
    "ConvInteger": (1,), "ConvTranspose": (1, 2), "CumSum": (1,), "DFT": (1, 2), "Dropout": (1, 2), "Expand": (1,), "GRU": (1, 2, 3),
    "HammingWindow": (0,), "HannWindow": (0,), "LSTM": (1, 2, 3, 7), "Loop": (0, 1), "MaxUnpool": (2,), "MelWeightMatrix": (0, 1, 2, 3, 4),
    "OneHot": (1,), "Pad": (1, 3), "QLinearConv": (3,), "RNN": (1, 2, 3), "Range": (0, 1, 2),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
                     "ReduceSum", "ReduceSumSquare"), (1,)),
    "Reshape": (1,), "Resize": (1, 2, 3), "STFT": (1, 3), "Slice": (1, 2, 3, 4), "Split": (1,), "SplitToSequence": (1,), "Squeeze": (1,),
    "Tile": (1,), "TopK": (1,), "Trilu": (1,), "Unsqueeze": (1,), "Upsample": (1,),
}


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of subgraphs, too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def constant_inputs(model: onnx.ModelProto) -> set[str]:
    """Inputs of the model that an operator takes in a place of CONSTANT_INPUTS, or that what it takes there is computed from."""
    nodes = list(_nodes(model.graph))
    makers = {name: node for node in nodes for name in node.output}
    wanted = [node.input[k] for node in nodes for k in CONSTANT_INPUTS.get(node.op_type, ()) if k < len(node.input)]
    found: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        found.add(name)
        if name in makers and makers[name].op_type not in ("Shape", "Size"):  # those are known without their input's numbers
            wanted += makers[name].input
    return found & ({v.name for v in model.graph.input} - {i.name for i in model.graph.initializer})


def _bound(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The model for these inputs: open dimensions as they are there, constant inputs as initializers."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    fixed = constant_inputs(model)
    for value in made.graph.input:
        if value.name in fixed:
            made.graph.initializer.append(numpy_helper.from_array(inputs[value.name], value.name))
        elif value.name in inputs and value.type.HasField("tensor_type"):
            shape = helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, inputs[value.name].shape).tensor_type.shape
            value.type.tensor_type.shape.CopyFrom(shape)
    return made


def _is_open(value: onnx.ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    return not tensor.HasField("shape") or any(not d.HasField("dim_value") for d in tensor.shape.dim)


class EdgekitRep(BackendRep):
    """A prepared model."""

    def __init__(self, model: onnx.ModelProto):
        initial = {i.name for i in model.graph.initializer}
        self._model = model
        self._names = [v.name for v in model.graph.input if v.name not in initial]
        self._fixed = constant_inputs(model)
        self._open = bool(self._fixed) or any(_is_open(v) for v in model.graph.input)
        self._folder = tempfile.TemporaryDirectory(prefix="edgekit-", ignore_cleanup_errors=True)
        self._compiled: dict[tuple, _Compiled] = {}
        if not self._open:
            self._compiled[()] = _compile(model, self._folder.name)

    def run(self, inputs: Any, **kwargs: Any) -> Any:
        """Outputs as a named tuple. inputs: arrays in the order of the graph's inputs, or by name."""
        if not isinstance(inputs, Mapping):
            if len(inputs) > len(self._names):
                raise InputError(f"{len(inputs)} inputs are given and the model has {len(self._names)}")
            inputs = dict(zip(self._names, inputs, strict=False))
        odd = [n for n, a in inputs.items() if not isinstance(a, np.ndarray | np.generic)]
        if odd:
            raise UnsupportedError("an input that is no array", where=f"input {odd[0]}", fix="give the model plain tensors")
        arrays = {n: np.asarray(a) for n, a in inputs.items()}
        key = tuple((n, a.shape, a.tobytes() if n in self._fixed else b"") for n, a in arrays.items()) if self._open else ()
        if key not in self._compiled:
            self._compiled[key] = _compile(_bound(self._model, arrays), self._folder.name)
        made = self._compiled[key]
        found = made.session.run({n: arrays[n] for n in made.inputs if n in arrays}, "run")
        names = [v.name for v in self._model.graph.output]
        return namedtupledict("Outputs", names)(*(found[n] for n in names))


@dataclass(frozen=True)
class _Compiled:
    session: Any
    inputs: tuple[str, ...]


def _compile(model: onnx.ModelProto, folder: str) -> _Compiled:
    """A model of static shapes, on this machine; its files go into a new folder in `folder`."""
    from edgekit.exporters.emit import compile_kernels, emit_target, pack_weights
    from edgekit.exporters.load import load
    from edgekit.exporters.lower import lower, supported
    from edgekit.runtimes.abi.names import library_names, model_name
    from edgekit.runtimes.host import HostSession
    host = targets.load("host")
    loaded = load(model, keep=supported(), name="model")
    plan, arrays = lower(loaded.name, [(v.name, v.model) for v in loaded.variants])
    made, work = Path(tempfile.mkdtemp(dir=folder)), Path(tempfile.mkdtemp(dir=folder))
    entry = plan.entries[0]
    kernels = compile_kernels([s.kernel for s in entry.steps], host, model_name(plan.name), work)
    emit_target(plan, [kernels], host, made)
    (made / "weights.bin").write_bytes(pack_weights(plan, arrays))
    ports = {side: [{"name": p.name, "dtype": p.dtype, "shape": list(p.shape)} for p in getattr(entry, side)] for side in ("inputs", "outputs")}
    manifest = {"name": plan.name, "arena_bytes": plan.arena_bytes, "state_bytes": plan.state_bytes,
                "entries": [{"name": entry.name, **ports, "states": [], "layers": []}]}
    library = made / host.name / library_names(host, model_name(plan.name))[0]
    return _Compiled(HostSession(library, manifest, made / "weights.bin"), tuple(p.name for p in entry.inputs))


class EdgekitBackend(Backend):
    """`onnx.backend.base.Backend`: raises edgekit's errors, UnsupportedError for what is not compiled."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> EdgekitRep:
        """Compiles the model; one that CONSTANT_INPUTS or open dimensions leave undecided is compiled when it is run."""
        if not cls.supports_device(device):
            raise UnsupportedError(f"device {device}", fix="use CPU")
        return EdgekitRep(model)

    @classmethod
    def run_node(cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any) -> Any:
        """One operator of the newest opset (or opset_version=) on arrays in the order of its inputs."""
        names = list(dict.fromkeys(n for n in node.input if n))
        arrays = [np.asarray(a) for a in inputs]
        if len(arrays) != len(names):
            raise InputError(f"{len(arrays)} inputs are given and {node.op_type} reads {len(names)}")
        infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in zip(names, arrays, strict=True)]
        outputs = [onnx.ValueInfoProto(name=n) for n in node.output if n]
        opset = helper.make_opsetid("", kwargs.get("opset_version", min(onnx.defs.onnx_opset_version(), 21)))
        model = helper.make_model(helper.make_graph([node], "node", infos, outputs), opset_imports=[opset])
        return cls.prepare(onnx.shape_inference.infer_shapes(model), device).run(arrays)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device.split(":")[0] == "CPU"


is_compatible = EdgekitBackend.is_compatible
prepare = EdgekitBackend.prepare
run_model = EdgekitBackend.run_model
run_node = EdgekitBackend.run_node
supports_device = EdgekitBackend.supports_device
