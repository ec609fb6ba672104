"""A network of convolutions as steps that tfjs's fused operations do one by one: tfjs's own converter needs TensorFlow."""
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.models import Refused, Workshop

VERSION = 1  # of what this module writes


def write_steps(shop: Workshop) -> Path:
    """The folder with steps.json and weights.bin for web/runtimes.mjs; Refused where tfjs lacks an operator's form."""
    folder = shop.folder / f"tfjs-{VERSION}"
    if not (folder / "steps.json").exists():
        model = shop.clean()
        steps, weights = _Steps(model).done()
        folder.mkdir(exist_ok=True)
        (folder / "weights.bin").write_bytes(np.concatenate([w.ravel() for w in weights]).astype("<f4").tobytes())
        (folder / "steps.json").write_text(json.dumps({"steps": steps, "output": model.graph.output[0].name}), "utf-8")
    return folder


class _Steps:
    """Walks the graph once. Activations are fused into the convolution that they follow."""

    def __init__(self, model: onnx.ModelProto):
        self.graph = model.graph
        self.constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.steps: list[dict] = []
        self.weights: list[np.ndarray] = []
        self.same: dict[str, str] = {}  # names of one value

    def done(self) -> tuple[list[dict], list[np.ndarray]]:
        if len(self.graph.input) != 1 or len(self.graph.output) != 1:
            raise Refused("only networks of one image are written in tfjs's operations")
        for node in self.graph.node:
            self._add(node)
        return self.steps, self.weights

    def _add(self, node: onnx.NodeProto) -> None:
        a = {x.name: onnx.helper.get_attribute_value(x) for x in node.attribute}
        given = [self.same.get(n, n) for n in node.input if n not in self.constants]
        arrays = [self.constants[n] for n in node.input if n in self.constants]
        step: dict = {"from": given, "to": node.output[0]}
        if node.op_type == "Conv":
            w, bias = arrays
            depthwise = a["group"] > 1
            if depthwise and w.shape[1] > 1:
                raise Refused("grouped convolutions are not written in tfjs's operations")
            top, left, bottom, right = a["pads"]
            step |= {"op": "depthwise" if depthwise else "conv", "stride": a["strides"], "activation": "linear",
                     "pad": [[0, 0], [top, bottom], [left, right], [0, 0]],
                     "weight": self._keep(w.transpose(2, 3, 0, 1) if depthwise else w.transpose(2, 3, 1, 0)), "bias": self._keep(bias)}
        elif node.op_type in ("Relu", "Clip"):
            last = self.steps[-1]
            if last["to"] != given[0] or "activation" not in last or node.op_type == "Clip" and [float(v) for v in arrays] != [0, 6]:
                raise Refused(f"{node.op_type} is not written in tfjs's operations here")
            last |= {"activation": "relu" if node.op_type == "Relu" else "relu6", "to": node.output[0]}
            return
        elif node.op_type == "Add" and len(given) == 2:
            step["op"] = "add"
        elif node.op_type in ("ReduceMean", "GlobalAveragePool"):
            step["op"] = "pool"
        elif node.op_type in ("Reshape", "Flatten"):
            self.same[node.output[0]] = given[0]
            return
        elif node.op_type == "Gemm":
            w, bias = arrays
            step |= {"op": "linear", "weight": self._keep(w.T if a.get("transB") else w), "bias": self._keep(bias)}
        else:
            raise Refused(f"{node.op_type} is not written in tfjs's operations")
        self.steps.append(step)

    def _keep(self, w: np.ndarray) -> dict:
        self.weights.append(np.ascontiguousarray(w))
        return {"at": sum(x.size for x in self.weights[:-1]), "shape": list(w.shape)}
