"""onnx and torch are needed only where they are used, and their absence is an error with its fix."""
import subprocess
import sys

import pytest

from edgekit.errors import MissingToolError
from edgekit.exporters import sparsify


def test_import_needs_numpy_alone():
    code = ("import sys; sys.modules |= dict.fromkeys(['onnx', 'torch', 'onnxruntime', 'tvm', 'scipy'])\n"
            "import numpy as np\n"
            "from edgekit.exporters.sparsify import find_groups, benefit, prune_onnx\n"
            "assert find_groups(np.eye(64, dtype='f4')[:, :8].repeat(4, 1)).macs < 2048")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_onnx(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingToolError, match=r"edgekit-deploy\[export\]"):
        sparsify.prune_onnx([], sparsity=0.5)


def test_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in ("training", "observe"):
        monkeypatch.delitem(sys.modules, f"edgekit.exporters.sparsify.{name}", raising=False)
        monkeypatch.delattr(sparsify, name, raising=False)
    with pytest.raises(MissingToolError, match=r"edgekit-deploy\[torch\]"):
        _ = sparsify.prune
