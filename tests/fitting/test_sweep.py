"""Results outlive interruptions of any kind, and another sweep's are never taken for one's own."""
import json

import numpy as np
import pytest

from edgekit.errors import InputError
from edgekit.fitting import sweep as sweeps
from edgekit.fitting.subject import GROUPS, Configuration, Job, Subject
from edgekit.fitting.sweep import Sweep, run_all

SUBJECT = Subject((), (), None, None, 8)
JOBS = [Job(Configuration(GROUPS, (("a", s),))) for s in (0.3, 0.5, 0.7, 0.9)]


def quiet(line):
    pass


@pytest.fixture
def workshop(monkeypatch):
    class Workshop:
        def __init__(self, subject):
            pass

        def do(self, job):
            if len(self.done) == self.stop_at:
                raise KeyboardInterrupt
            self.done.append(job)
            return {"error": dict(job.configuration.sparsity)["a"] ** 2}, [b"model " + job.key.encode()]
    Workshop.done, Workshop.stop_at = [], None
    monkeypatch.setattr(sweeps, "Workshop", Workshop)
    return Workshop


@pytest.mark.parametrize("after", range(len(JOBS)))
def test_an_interruption_loses_nothing_that_was_done(tmp_path, workshop, after):
    workshop.stop_at = after
    with pytest.raises(KeyboardInterrupt):
        run_all(Sweep(tmp_path / "s", "f"), JOBS, SUBJECT, 1, None, quiet, "jobs")
    workshop.stop_at = None
    again = Sweep(tmp_path / "s", "f")
    assert again.resumed == after
    results = run_all(again, JOBS, SUBJECT, 1, None, quiet, "jobs")
    assert [r["error"] for r in results] == [pytest.approx(s ** 2) for s in (0.3, 0.5, 0.7, 0.9)]
    assert len(workshop.done) == len(JOBS)  # each once, over both runs
    assert again.models(JOBS[-1].key) == [b"model " + JOBS[-1].key.encode()]


def test_every_cut_of_the_file_is_read_up_to_its_last_whole_line(tmp_path, workshop):
    run_all(Sweep(tmp_path / "s", "f"), JOBS, SUBJECT, 1, None, quiet, "jobs")
    file = tmp_path / "s" / "fit.jsonl"
    data = file.read_bytes()
    for cut in range(0, len(data), 7):
        file.write_bytes(data[:cut])
        found = Sweep(tmp_path / "s", "f")
        assert found.resumed == max(0, data[:cut].count(b"\n") - 1)
        found.add("more", {"error": 1})
        assert Sweep(tmp_path / "s", "f").find("more") == {"error": 1}


def test_a_result_whose_model_is_gone_is_made_again(tmp_path, workshop):
    sweep = Sweep(tmp_path / "s", "f")
    run_all(sweep, JOBS[:1], SUBJECT, 1, None, quiet, "jobs")
    next((tmp_path / "s" / "models").iterdir()).unlink()
    run_all(Sweep(tmp_path / "s", "f"), JOBS[:1], SUBJECT, 1, None, quiet, "jobs")
    assert len(workshop.done) == 2


def test_the_state_of_something_else(tmp_path):
    Sweep(tmp_path / "s", "one")
    with pytest.raises(InputError, match="another model"):
        Sweep(tmp_path / "s", "two")
    (tmp_path / "s" / "fit.jsonl").write_text('{"fingerprint": "one"}\n{"key": 3}\n')
    with pytest.raises(InputError, match="cannot be read"):
        Sweep(tmp_path / "s", "one")


def test_names_of_models_stay_in_the_folder(tmp_path):
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "s" / "models").mkdir(parents=True)
    lines = [{"fingerprint": "f"}, {"key": "k", "result": {}, "models": ["../../secret"]}]
    (tmp_path / "s" / "fit.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    assert Sweep(tmp_path / "s", "f").find("k") is None


@pytest.mark.slow
def test_processes_give_what_one_process_gives(tmp_path):
    """Real jobs: a model pruned by magnitude at two sparsities, judged on calibration inputs."""
    from tests.sparsify.test_oneshot import MLP, MLP_WEIGHTS, net
    pytest.importorskip("torch")
    model = net(MLP, **MLP_WEIGHTS).SerializeToString()
    calibration = {"x": np.random.default_rng(0).standard_normal((20, 1, 64)).astype(np.float32)}
    subject = Subject((model,), (), calibration, "tests.fitting.evaluations:size", 8)
    jobs = [Job(Configuration("random mask", (("a", s),))) for s in (0.5, 0.9)]
    one, two = (run_all(Sweep(tmp_path / str(n), "f"), jobs, subject, n, None, quiet, "jobs") for n in (1, 2))
    assert one == two
    assert 0 < one[0]["error"] < one[1]["error"] and one[0]["scores"] != one[1]["scores"]
