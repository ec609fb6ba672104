"""The training scripts run as their first lines say."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["forecaster", "policy"])
def test_quick_training(name, tmp_path):
    pytest.importorskip("torch")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, ROOT / "examples" / f"train_{name}.py", "--quick", "--output", tmp_path]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600,
                          check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / f"{name}.json").read_text("utf-8"))
    assert facts["quick"] is True and 0.4 < facts["sparsity"] < 0.55
    assert {p.name for p in tmp_path.iterdir()} == {f"{name}.onnx", f"{name}-pruned.onnx", f"{name}.json"}
