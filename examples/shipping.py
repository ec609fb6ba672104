"""What both training scripts share: half of the weights pruned in groups, and a small, checked ONNX file."""
import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from edgekit.exporters.sparsify.training import prune, remove

OPSET = 20


def prune_half(dense: nn.Module, example: tuple[torch.Tensor, ...]) -> nn.Module:
    """A copy with half of the weights zero, in groups as large as each layer bears; training on keeps them zero."""
    return prune(dense, example, sparsity=0.5, group="auto")


def ship(module: nn.Module, example: tuple[torch.Tensor, ...], inputs: Sequence[str], outputs: Sequence[str],
         path: Path) -> None:
    """Write the module as ONNX with fixed shapes, and check that onnxruntime gets torch's numbers from it."""
    module = remove(copy.deepcopy(module)).eval()     # masks become zeros
    program = torch.onnx.export(module, example, dynamo=True, opset_version=OPSET, input_names=inputs,
                                output_names=outputs)
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]                    # stack traces with this machine's paths
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:], model.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)

    rng = torch.Generator().manual_seed(0)
    trial = tuple(torch.randn(x.shape, generator=rng) for x in example)
    with torch.no_grad():
        wanted = module(*trial)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for got, want in zip(session.run(None, dict(zip(inputs, map(torch.Tensor.numpy, trial)))), wanted):
        if not np.abs(got - want.numpy()).max() <= 1e-4 * np.abs(want.numpy()).max():
            raise SystemExit(f"{path.name}: onnxruntime disagrees with torch")
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB", flush=True)


def provenance(path: Path, facts: dict[str, Any]) -> None:
    """Where the weights come from, beside them."""
    facts = facts | {"torch": torch.__version__, "opset": OPSET, "license": "Apache-2.0"}
    path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(path, flush=True)


def sparsity(path: Path) -> float:
    """Share of zeros among the weights (matrices) of an ONNX file."""
    weights = [onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer if len(t.dims) >= 2]
    return 1 - sum(map(np.count_nonzero, weights)) / sum(w.size for w in weights)


