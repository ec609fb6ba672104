"""`edgekit fit` from the model to the bundle, killed on the way."""
import json
import signal
import subprocess
import sys

import numpy as np
import pytest

import edgekit as ek
from edgekit.errors import BudgetError, InputError
from tests.sparsify.test_oneshot import net

BODY = "[a] h = Gemm<transB=1>(x, A) r = Relu(h) [b] g = Gemm<transB=1>(r, B) s = Relu(g) [c] y = Gemm<transB=1>(s, C)"


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    b = rng.standard_normal((256, 256)).astype(np.float32) / 16
    b[:, 32:] *= 0.01  # what b reads is nearly sparse
    return net(BODY, A=rng.standard_normal((256, 64)).astype(np.float32) / 8, B=b, C=(8, 256))


def score(run):
    """How close to ones the outputs are on ones, with enough room that it is not the limit."""
    return {"in": -float(np.abs(run(np.ones((1, 64), np.float32))[0] - 1).mean()), "out": 1.0}


@pytest.mark.parametrize("how, words", [
    ({"budget": "p99<=8ms"}, "calibration inputs, or an evaluation"), ({"budget": "arena<=1MB", "evaluation": score}, "needs a rule of latency"),
    ({"budget": "instructions<=1M", "evaluation": score}, "needs a rule of latency"), ({"budget": "p99<=8", "evaluation": score}, "needs a unit"),
    ({"budget": "p99<=8ms", "target": "arm64", "evaluation": score}, "needs a rule of instructions"),
    ({"budget": "p99<=8ms; accuracy_drop<=1%", "calibration": {}}, "accuracy needs an evaluation"),
    ({"budget": "p99<=8ms", "target": "android-arm64", "evaluation": score}, "cannot be measured here"),
    ({"budget": "p99<=8ms", "evaluation": score, "trials": 0}, "1 or more")])
def test_what_cannot_be_fitted(model, tmp_path, how, words):
    with pytest.raises(InputError, match=words):
        ek.fit(model, output=tmp_path / "m.ekb", **how)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_killed_and_run_again(model, tmp_path):
    pytest.importorskip("unicorn")
    path, out = tmp_path / "m.onnx", tmp_path / "m.ekb"
    path.write_bytes(model.SerializeToString())
    call = [sys.executable, "-m", "edgekit", "fit", str(path), "-t", "arm64", "--eval", "tests.fitting.evaluations:size", "--workers", "1", "--trials", "1",
            "-o", str(out), "--json", "-", "--budget"]
    first = subprocess.Popen([*call, "instructions<=25k"], stderr=subprocess.PIPE, text=True)
    for line in first.stderr:
        if "sensitivity of each layer: 3 of" in line:
            break
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert not out.exists()
    done = subprocess.run([*call, "instructions<=25k"], check=False, capture_output=True, text=True)
    result = json.loads(done.stdout)
    assert done.returncode == 0 and result["resumed"] >= 4 and not result["measured"]  # dense, its instructions, and layers
    assert result["budget"][0]["ok"] and result["budget"][0]["value"] <= 25e3 < result["curve"][0]["cost"]
    assert {p["kind"] for p in result["curve"]} >= {"dense", "ours", "random mask", "random search", "whole channels"}
    assert dict(result["configuration"]["sparsity"]).keys() <= {"a", "b"}
    with ek.open(out) as bundle:
        assert all(m.ok for m in bundle.verify("arm64")["arm64"])
        assert "What else could be done" in bundle.files.file("report.html").read_text()
    with pytest.raises(BudgetError, match="no configuration meets the budget"):
        ek.fit(path, "arm64", budget="instructions<=2k", evaluation="tests.fitting.evaluations:size", output=tmp_path / "m.ekb", workers=1, overwrite=True)
    loose = ek.fit(path, "arm64", budget="instructions<=100M", evaluation="tests.fitting.evaluations:size", output=out, workers=1, overwrite=True)
    assert loose["configuration"]["method"] == "dense" and "nothing was pruned" in loose["notes"][0]


@pytest.mark.slow
def test_a_node_of_the_cluster_dies(tmp_path):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    from edgekit.fitting.subject import Configuration, Job, Subject
    from edgekit.fitting.sweep import Sweep, run_all
    subject = Subject((net(BODY, A=(256, 64), B=(256, 256), C=(8, 256)).SerializeToString(),), (), None, "tests.fitting.evaluations:size", 8)
    jobs = [Job(Configuration("random mask", (("a", s / 20),), seed=k)) for s in range(2, 18, 3) for k in range(2)]
    expected = run_all(Sweep(tmp_path / "here", "f"), jobs, subject, 1, None, lambda _: None, "jobs")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        alive = [second]

        def kill(line):
            if "3 of" in line and alive:
                cluster.remove_node(alive.pop(), allow_graceful=False)
        found = run_all(Sweep(tmp_path / "there", "f"), jobs, subject, 1, cluster.address, kill, "jobs")
        assert found == expected and not alive
    finally:
        ray.shutdown()
        cluster.shutdown()
