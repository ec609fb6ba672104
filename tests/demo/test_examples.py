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


@pytest.mark.slow
def test_quick_sparse_training(tmp_path):
    pytest.importorskip("torch")
    rows = "".join(f"t{n},{','.join(str(round((n * 7 + 3 * k) % 24 / 24, 3)) for k in range(7))}\n" for n in range(14400))
    (tmp_path / "data.csv").write_text("date,a,b,c,d,e,f,g\n" + rows, "utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, ROOT / "examples/train_sparse.py", "--quick", "--data", "data.csv", "--sparsity", "0.7"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    errors, layers = done.stdout.split("\n\n")
    assert [float(line.split()[-1]) < 1 for line in errors.splitlines()] and len(errors.splitlines()) == 7
    zeros = [line.split()[1:4] for line in layers.splitlines()[1:]]
    assert len(zeros) == 10 and all(gradual in ("70%", "71%") for gradual, _, _ in zeros[:-1])
