"""bench: what it asks of a session, what it says, and how budgets are judged."""
import json
import os

import numpy as np
import pytest

from edgekit import tables
from edgekit.bench import bench
from edgekit.bench.openloop import Clock
from edgekit.bench.peaks import Level, Peaks
from edgekit.errors import BundleError, InputError, MissingToolError
from tests.bench.conftest import FakeSession


@pytest.fixture
def run(files, fake_time):
    def call(delays=lambda i: 0.001, *, session=None, **options):
        session = session or FakeSession(fake_time, delays)
        return bench(files, session=session, clock=fake_time.clock, **options)
    return call


def test_the_json_of_the_interface(run):
    result = run()
    assert result["target"] == "host" and result["measured"] is True and result["runs"] == 500
    assert list(result["latency_ms"]) == ["min", "mean", "p50", "p90", "p99", "p999", "max"]
    assert set(result["deadline"]) >= {"period_ms", "deadline_ms", "misses", "miss_rate_upper95"}
    assert set(result["memory"]) == {"arena_bytes", "weights_bytes", "code_bytes", "peak_rss_bytes"}
    assert result["memory"]["arena_bytes"] == 4096 and result["memory"]["code_bytes"] == 1000
    assert result["memory"]["peak_rss_bytes"] > 1e6
    assert result["budget"] == []
    json.loads(json.dumps(result, allow_nan=False))


def test_the_period_is_chosen_from_a_calibration(run):
    due = run(lambda i: 0.002)["deadline"]
    assert due["period_ms"] == pytest.approx(3.0, rel=1e-9) and "1.5 x p90" in due["period_from"]
    assert due["deadline_ms"] == due["period_ms"] and due["deadline_from"] == "period"


def test_period_and_deadline_are_those_asked_for(run):
    result = run(lambda i: 0.002 if i % 100 else 0.025, period="10ms", deadline="20ms", runs=300, warmup=50)
    due = result["deadline"]
    assert (due["period_ms"], due["deadline_ms"]) == (10, 20) and due["period_from"] == due["deadline_from"] == "user"
    assert due["misses"] == 3 and due["miss_rate"] == 0.01          # only the slow ones: 17 ms and 9 ms follow them
    assert due["miss_rate_upper95"] == pytest.approx(0.0256, abs=2e-4)
    assert result["latency_ms"]["max"] == pytest.approx(25)


def test_latency_counts_from_the_arrival_and_service_does_not(run):
    result = run(lambda i: 0.015, period="10ms", runs=300)
    assert result["service_ms"]["max"] == pytest.approx(15)
    assert result["latency_ms"]["max"] == pytest.approx(15 + 5 * 299)
    assert any("queue up" in note for note in result["notes"])


def test_a_busy_machine_is_told(files, fake_time):
    def wait_until(moment):
        fake_time.t = max(fake_time.t, moment + 0.003)
    notes = bench(files, session=FakeSession(fake_time), clock=Clock(lambda: fake_time.t, wait_until), period="10ms")["notes"]
    assert len(notes) == 1 and "busy" in notes[0] and "3 ms" in notes[0]


def test_few_runs_support_few_percentiles(run):
    assert run(runs=299)["latency_ms"]["p99"] is None
    few = run(runs=5)["latency_ms"]
    assert few["p50"] is few["p90"] is few["p99"] is few["p999"] is None and few["max"] is not None
    many = run(runs=3000)["latency_ms"]
    assert all(v is not None for v in many.values())


@pytest.mark.parametrize("delay, runs, told", [(0.001, 500, False), (0.1, 300, False), (2.0, 40, True), (20.0, 20, True)])
def test_a_slow_net_is_run_less_often_and_that_is_told(run, delay, runs, told):
    result = run(lambda i: delay)
    assert result["runs"] == runs
    assert any("p99" in n for n in result["notes"]) is told


def test_budget_verdicts(run):
    result = run(budget="p50<=2ms; p99<=2ms; max<=0.5ms; p999<=2ms; arena<=4KiB; code<1kB; accuracy_drop<=1%")
    assert [v["ok"] for v in result["budget"]] == [True, True, False, None, True, False, None]
    assert "needs 3000 runs, 500 made" in result["budget"][3]["note"] and result["budget"][3]["value"] is None
    assert result["budget"][0]["value"] == pytest.approx(1.0)


def test_a_null_percentile_is_missed_if_the_sample_shows_it(run):
    result = run(lambda i: 0.005, runs=20, budget=["p99<=1ms", "p99<=10ms"])
    assert [v["ok"] for v in result["budget"]] == [False, None]


def test_miss_rate_is_judged_by_its_bound(run):
    def rates(budget, **options):
        return [v["ok"] for v in run(budget=budget, **options)["budget"]]
    assert rates("miss_rate<=1%; miss_rate<=0.1%", period="10ms", runs=300) == [True, None]
    assert rates("miss_rate<=50%", period="10ms", deadline="0.5ms", runs=300) == [False]
    assert rates("miss_rate<=1%") == [None]                 # no deadline was given: nothing to miss


def test_warmup_is_not_measured(run):
    assert run(lambda i: 1.0 if i < 7 else 0.001, warmup=7, runs=300)["latency_ms"]["max"] == pytest.approx(1)


def test_the_vectors_are_the_inputs_in_turn(files, fake_time):
    session = FakeSession(fake_time)
    bench(files, session=session, clock=fake_time.clock, runs=4, warmup=1, entry="decode")
    assert session.seen[0] == "reset" and session.closed
    assert {entry for entry, _ in session.seen[1:]} == {"decode"}
    measured = [x["x"].tolist() for _, x in session.seen[-4:]]
    assert measured == [[0, 1], [2, 3], [4, 5], [0, 1]]


def test_the_session_is_closed_and_the_core_given_back_when_it_fails(files, fake_time):
    class Broken(FakeSession):
        def time(self, inputs, entry):
            raise InputError("no")
    session = Broken(fake_time)
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    with pytest.raises(InputError):
        bench(files, session=session, clock=fake_time.clock)
    assert session.closed
    assert before is None or os.sched_getaffinity(0) == before


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin")
def test_one_thread_stays_on_one_core(files, fake_time):
    cores = []

    class Watching(FakeSession):
        def time(self, inputs, entry):
            cores.append(os.sched_getaffinity(0))
            return super().time(inputs, entry)
    result = bench(files, session=Watching(fake_time), clock=fake_time.clock, runs=3)
    assert all(c == {result["core"]} for c in cores)
    assert bench(files, session=FakeSession(fake_time), clock=fake_time.clock, runs=3, threads=2)["core"] is None


def test_layers_with_what_the_machine_allows(run, monkeypatch):
    monkeypatch.setattr("edgekit.bench.peaks.measure", lambda target, threads: Peaks(1e6, (Level("L1", 1500, 1e6), Level("memory", None, 1e5))))
    result = run(layers=True, runs=10)
    first, second = result["layers"]
    assert (first["name"], second["name"]) == ("fc1", "act") and "layers" not in run(runs=10)
    assert (first["ms"], first["share"], second["share"]) == (pytest.approx(1), pytest.approx(0.25), pytest.approx(0.75))
    # 1000 bytes from L1 take 1 ms, 400 of weights from memory 4 ms: more than 200 operations, which take 0.2 ms
    assert first["possible_ms"] == pytest.approx(5) and first["reached"] == pytest.approx(5) and first["bound"] == "memory"
    assert result["layers_total"]["possible_ms"] == pytest.approx(10) and result["layers_total"]["reached"] == pytest.approx(2.5)
    assert result["roofline"]["levels"][0] == {"name": "L1", "bytes": 1500, "gbytes_per_s": pytest.approx(1e-3)}
    assert "memory" in tables.bench(result) and json.dumps(result, allow_nan=False)


def test_steps_of_one_node_are_one_layer(run, files, monkeypatch):
    monkeypatch.setattr("edgekit.bench.peaks.measure", lambda target, threads: Peaks(1e6, (Level("memory", None, 1e9),)))
    files.manifest["entries"][0]["layers"][0] |= {"name": "act", "macs": 400, "op": "Gemm+Relu", "rounds": 3}
    (layer,) = run(layers=True, runs=10)["layers"]
    assert (layer["steps"], layer["ms"], layer["macs"], layer["op"]) == (2, pytest.approx(4), 500, "Gemm+Relu")
    assert (layer["bytes"], layer["weight_bytes"], layer["bound"]) == (2000, 800, "FMA")  # the third and second round read 800 more


def test_layers_without_compilers_say_what_to_install(run, monkeypatch):
    def missing(target, threads):
        raise MissingToolError("loops have to be compiled", fix="pip install it")
    monkeypatch.setattr("edgekit.bench.peaks.measure", missing)
    result = run(layers=True, runs=10)
    assert result["layers"][0]["reached"] is None and "pip install it" in tables.bench(result)


def test_layers_of_an_older_bundle_have_times_alone(run, files, monkeypatch):
    monkeypatch.setattr("edgekit.bench.peaks.measure", lambda target, threads: Peaks(1e6, (Level("memory", None, 1e9),)))
    for layer in files.manifest["entries"][0]["layers"]:
        del layer["bytes"], layer["weight_bytes"], layer["rounds"]
    result = run(layers=True, runs=10)
    assert result["layers"][0]["possible_ms"] is None and result["layers_total"]["reached"] is None and tables.bench(result)


def test_a_trace_shows_every_step(run, tmp_path, monkeypatch):
    monkeypatch.setattr("edgekit.bench.peaks.measure", lambda target, threads: Peaks(1e6, (Level("memory", None, 1e9),)))
    run(trace=tmp_path / "t.json", runs=10)
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    steps = [e for e in events if e["ph"] == "X" and e["tid"] == 2]
    assert [(e["name"], e["ts"], e["dur"]) for e in steps[:3]] == [("Gemm", 0, 1000), ("Relu", 1000, 3000), ("Gemm", 4000, 1000)]
    assert {e["args"]["name"] for e in events if e["ph"] == "M"} == {"m on host", "layers", "steps, on 1 thread"}
    with pytest.raises(InputError, match="shows times"):
        run(trace=tmp_path / "a.json", session=FakeSession(None, measured=False), target="arm64")
    with pytest.raises(InputError, match="cannot be written"):
        run(trace=tmp_path / "missing" / "t.json", runs=10)


def test_layers_that_do_not_fit_the_manifest(files, fake_time):
    files.manifest["entries"][0]["layers"].pop()
    with pytest.raises(BundleError, match="2 steps, its manifest 1"):
        bench(files, session=FakeSession(fake_time), clock=fake_time.clock, runs=3, layers=True)


@pytest.mark.parametrize("allow", [False, True])
def test_an_emulator_gives_instructions_and_no_latency(run, fake_time, allow):
    session = FakeSession(fake_time, measured=False)
    result = run(session=session, target="arm64", layers=True, allow_predicted=allow, budget="p50<=1000s; arena<=1MB; instructions<=100k")
    assert [x["instructions"] for x in result["layers"]] == [100, 300] and result["layers_total"]["per_mac"] == 2.0
    assert "a MAC" in tables.bench(result)
    assert result["measured"] is False and result["instructions"] == 123456 and result["predicted_ms"] is None
    assert "latency_ms" not in result and "deadline" not in result and "histogram" not in result
    assert [v["ok"] for v in result["budget"]] == [None, True, False]
    assert ("nothing is predicted" in result["budget"][0]["note"]) is allow
    assert result["memory"]["peak_rss_bytes"] is None


@pytest.mark.parametrize("options, says", [
    ({"runs": 0}, "runs 0"), ({"warmup": -1}, "warmup -1"), ({"threads": 0}, "threads 0"), ({"period": "soon"}, "period"),
    ({"deadline": "0ms"}, "deadline"), ({"budget": "p99"}, "not a rule"), ({"target": "toaster"}, "no target 'toaster'"),
    ({"entry": "encode"}, "no entry 'encode'"),
])
def test_bad_arguments(run, options, says):
    with pytest.raises(InputError, match=says):
        run(**options)


@pytest.mark.parametrize("damage", ["missing", "garbage", "short", "no expected", "wrong input", "no cases"])
def test_damaged_vectors(run, files, damage):
    path = files.file("vectors.npz")
    x = np.zeros((3, 2), np.float32)
    if damage == "missing":
        path.unlink()
    elif damage == "garbage":
        path.write_bytes(b"PK\x03\x04 no zip")
    else:
        arrays = {"short": {"in_x": x, "expected_y": x[:2]}, "no expected": {"in_x": x},
                  "wrong input": {"in_z": x, "expected_y": x}, "no cases": {"in_x": x[:0], "expected_y": x[:0]}}
        np.savez(path, **arrays[damage])
    with pytest.raises(BundleError, match="vectors"):
        run()


def test_the_machine_is_described_without_names(run):
    machine = run(runs=3)["machine"]
    assert set(machine) == {"cpu", "cores", "os", "python", "packages"} and machine["packages"]["numpy"]
    assert os.path.expanduser("~") not in json.dumps(machine)
