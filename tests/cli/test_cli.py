"""The command line in process: verbs, text and JSON, exit codes. What is wrong with input is tested in tests/e2e/test_bad_input.py."""
import json
import os
import signal
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import helper

from edgekit import cli, errors
from tests.lower.graphs import model

RNG = np.random.default_rng(0)


def n(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def net():
    """A convolution, three linear layers; the inner ones can be pruned."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], name="conv"), helper.make_node("Relu", ["c"], ["r"], name="relu"),
             helper.make_node("Flatten", ["r"], ["f"], name="flat"), helper.make_node("Gemm", ["f", "a"], ["g"], name="first"),
             helper.make_node("Tanh", ["g"], ["t"], name="tanh"), helper.make_node("Gemm", ["t", "b"], ["h"], name="inner"),
             helper.make_node("Relu", ["h"], ["u"], name="relu2"), helper.make_node("Gemm", ["u", "v"], ["y"], name="head")]
    return model(nodes, {"x": n(1, 3, 6, 6)}, ["y"], {"w": n(8, 3, 3, 3), "a": n(128, 64), "b": n(64, 64), "v": n(64, 4)})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder with net.onnx and net.ekb, and what exporting printed as JSON."""
    folder = tmp_path_factory.mktemp("cli")
    onnx.save(net(), folder / "net.onnx")
    assert cli.main(["export", str(folder / "net.onnx"), "-o", str(folder / "net.ekb"), "-t", "host", "-t", "arm64", "-t", "wasm", "--sparsity", "0.5",
                     "--json", str(folder / "export.json"), "-q"]) == 0
    return folder


@pytest.fixture
def run(made, capsys):
    """run("verify", "net.ekb", ...) -> exit code, standard output, standard error; names of files stand for those in the folder."""

    def call(*arguments):
        capsys.readouterr()
        code = cli.main([str(made / a) if a.startswith("net.") else a for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err
    return call


def one_object(text: str) -> dict:
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def test_export_says_what_it_made(made):
    told = json.loads((made / "export.json").read_text())
    assert {"bundle", "targets", "layers", "max_abs_error", "max_rel_error", "distance_to_original", "seconds"} <= told.keys()
    assert set(told["max_rel_error"]) == {"host", "arm64", "wasm"} and all(e < 1e-4 for e in told["max_rel_error"].values())
    assert {"name", "op", "macs", "sparsity", "group"} <= told["layers"][0].keys()
    pruned = {x["name"]: x["sparsity"] for x in told["layers"]}
    assert pruned["first"] == pruned["inner"] == 0.5 and pruned["conv"] == pruned["head"] == 0


def test_export_in_words(made, run, tmp_path):
    code, out, err = run("export", "net.onnx", "-o", str(tmp_path / "x.ekb"), "-t", "host", "-t", "linux-musl", "--sparsity", "0.5")
    assert code == 0 and "not run here" in out and "2 of them sparse" in out and "pruned against original" in out
    assert "compiling" in err or "verifying" in err
    assert run("export", "net.onnx", "-o", str(tmp_path / "x.ekb"))[0] == 2
    code, out, _ = run("export", "net.onnx", "-o", str(tmp_path / "x.ekb"), "--overwrite", "--sparsity", "0.5", "--group", "32", "--json", "-", "-q")
    assert code == 0 and one_object(out)["targets"].keys() == {"host"}


def test_export_tells_when_nothing_could_be_pruned(run, tmp_path):
    tiny = model([helper.make_node("Gemm", ["x", "w"], ["y"], name="only")], {"x": n(1, 4)}, ["y"], {"w": n(4, 3)})
    onnx.save(tiny, tmp_path / "tiny.onnx")
    code, out, _ = run("export", str(tmp_path / "tiny.onnx"), "-o", str(tmp_path / "t.ekb"), "--sparsity", "0.5")
    assert code == 0 and "no layer was pruned" in out


def test_entries_and_variants_by_name(run, tmp_path):
    for rows in (1, 2):
        m = model([helper.make_node("Gemm", ["x", "w"], ["y"], name="only")], {"x": n(rows, 8)}, ["y"], {"w": np.ones((8, 4), np.float32)})
        onnx.save(m, tmp_path / f"m{rows}.onnx")
    one, two = str(tmp_path / "m1.onnx"), str(tmp_path / "m2.onnx")
    code, out, _ = run("export", f"one={one}", f"two={two}", "-o", str(tmp_path / "e.ekb"), "--name", "both", "--json", "-", "-q")
    assert code == 0
    code, out, _ = run("inspect", str(tmp_path / "e.ekb"), "--json", "-")
    assert [e["name"] for e in one_object(out)["entries"]] == ["one", "two"]
    assert run("export", one, two, "-o", str(tmp_path / "v.ekb"), "-q")[0] == 0
    assert run("export", f"one={one}", two, "-o", str(tmp_path / "w.ekb"), "-q")[0] == 2


def test_verify(run):
    code, out, _ = run("verify", "net.ekb")
    assert code == 0 and out.count(" ok") == 3
    code, out, _ = run("verify", "net.ekb", "-t", "host", "--json", "-")
    told = one_object(out)
    assert code == 0 and told["ok"] and set(told["targets"]) == {"host"}


def test_a_verification_that_fails_is_exit_code_1(run, monkeypatch):
    from edgekit import bundle
    monkeypatch.setattr(bundle.Bundle, "tolerance", -1.0)
    assert run("verify", "net.ekb", "-t", "host")[0] == 1


def test_bench_as_json_has_what_scripts_rely_on(run):
    code, out, _ = run("bench", "net.ekb", "--runs", "300", "--period", "1ms", "--deadline", "1ms", "--budget", "p50<=1s; arena<=4MB", "--layers", "--json", "-")
    told = one_object(out)
    assert code == 0 and told["measured"] is True and told["runs"] == 300
    assert set(told["latency_ms"]) >= {"min", "mean", "p50", "p90", "p99", "p999", "max"} and told["latency_ms"]["p999"] is None
    assert set(told["deadline"]) >= {"period_ms", "deadline_ms", "misses", "miss_rate_upper95"}
    assert set(told["memory"]) >= {"arena_bytes", "weights_bytes", "code_bytes", "peak_rss_bytes"}
    assert [b["ok"] for b in told["budget"]] == [True, True] and len(told["layers"]) > 3


def test_budgets_decide_the_exit_code(run):
    assert run("bench", "net.ekb", "--runs", "300", "--period", "1ms", "--budget", "p50<=0.01us")[0] == 1
    code, out, _ = run("bench", "net.ekb", "--runs", "30", "--period", "1ms", "--budget", "p99<=10s")
    assert code == 3 and "undecided" in out
    assert run("bench", "net.ekb", "-t", "arm64", "--budget", "arena<=1B")[0] == 1


@pytest.mark.parametrize("more", [[], ["--allow-predicted"]])
def test_a_latency_on_a_target_that_was_not_measured_is_undecided(run, more):
    code, out, _ = run("bench", "net.ekb", "-t", "arm64", "--budget", "p50<=10s", *more, "--json", "-")
    told = one_object(out)
    assert code == 3 and told["measured"] is False and told["instructions"] > 1000 and told["budget"][0]["ok"] is None
    assert "latency_ms" not in told


def test_bench_with_threads_and_a_report(run, tmp_path):
    assert run("bench", "net.ekb", "--threads", "2", "--runs", "30", "--period", "1ms", "--report", str(tmp_path / "r.html"))[0] == 0
    assert "<svg" in (tmp_path / "r.html").read_text()


def test_check(run):
    code, out, _ = run("check", "net.onnx")
    assert code == 0 and "50% pruned" in out and "nothing was compiled or run" in out
    told = one_object(run("check", "net.onnx", "--json", "-")[1])
    assert told["ok"] and told["unit"] == "ms" and {lvl["sparsity"] for lvl in told["total"]["levels"]} == {0.3, 0.5, 0.7, 0.9}
    total, layers = told["total"], told["layers"]
    assert total["cost"] == pytest.approx(total["rest"] + sum(x["cost"] for x in layers)) and all(x["reason"] for x in layers if not x["levels"])
    assert all({"macs", "bytes", "cost", "gain"} <= set(lvl) for x in (total, *layers) for lvl in x["levels"])
    code, out, _ = run("check", "net.onnx", "-t", "arm64")
    assert code == 0 and "instructions" in out and " ms " not in out


def test_check_says_which_zeros_are_used(run, tmp_path):
    adjacency = np.where(abs(np.subtract.outer(range(60), range(60))) < 3, n(60, 60), 0).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["a", "x"], ["h"], name="graph"), helper.make_node("MatMul", ["h", "w"], ["y"], name="dense")]
    onnx.save(model(nodes, {"x": n(60, 32)}, ["y"], {"a": adjacency, "w": n(32, 8)}), tmp_path / "gcn.onnx")
    graph, dense = one_object(run("check", str(tmp_path / "gcn.onnx"), "--json", "-")[1])["layers"]
    assert dense["zeros"] == {"share": 0.0, "group": None, "groups": 0, "macs": dense["macs"], "reason": ""}
    zeros, nonzero = graph["zeros"], np.count_nonzero(adjacency)
    assert zeros["share"] == round(1 - nonzero / 3600, 4) and zeros["group"] * zeros["groups"] >= 60
    assert 32 * nonzero <= zeros["macs"] <= 1.5 * 32 * nonzero
    code, out, _ = run("check", str(tmp_path / "gcn.onnx"))
    assert code == 0 and "zeros that the model has already" in out and f"{zeros['share']:.1%}" in out


def test_check_says_which_zeros_are_not_used_because_tiles_are_faster(run, tmp_path):
    w = n(32, 32, 3, 3)
    w[:, ::4] = 0
    onnx.save(model([helper.make_node("Conv", ["x", "w"], ["y"], name="square", pads=[1] * 4)], {"x": n(1, 32, 16, 16)}, ["y"], {"w": w}), tmp_path / "w.onnx")
    (layer,) = one_object(run("check", str(tmp_path / "w.onnx"), "--json", "-")[1])["layers"]
    assert layer["zeros"]["share"] == 0.25 and layer["zeros"]["group"] is None and layer["zeros"]["macs"] == layer["macs"]
    assert "square: 25.0% zeros, computed densely by Winograd's filtering" in run("check", str(tmp_path / "w.onnx"))[1]


def test_check_names_what_does_not_compile(run, tmp_path):
    m = model([helper.make_node("NonMaxSuppression", ["b", "s"], ["y"], name="nms")],
              {"b": n(1, 4, 4), "s": n(1, 1, 4)}, ["y"])
    onnx.save(m, tmp_path / "nms.onnx")
    code, out, err = run("check", str(tmp_path / "nms.onnx"))
    assert code == 2 and "nms" in out + err


def test_inspect(run):
    code, out, _ = run("inspect", "net.ekb")
    assert code == 0 and "inner" in out and "arena" in out
    assert one_object(run("inspect", "net.ekb", "--json", "-")[1])["kind"] == "bundle"
    assert one_object(run("inspect", "net.onnx", "--json", "-")[1])["kind"] == "model"


def test_targets(run):
    code, out, _ = run("targets")
    assert code == 0 and "android-arm64" in out
    found = {t["name"]: t for t in one_object(run("targets", "--json", "-")[1])["targets"]}
    assert found["host"]["can_run"] and not found["ios-arm64"]["can_run"]


def test_demo_prints_its_tables(run, monkeypatch, tmp_path):
    import edgekit.demo
    monkeypatch.setattr(edgekit.demo, "main", lambda output, progress: {"text": f"in {output.name}", "numbers": [np.float32(1)]})
    assert run("demo", "-o", str(tmp_path / "d"))[:2] == (0, "in d\n")
    assert one_object(run("demo", "--json", "-")[1])["numbers"] == [1.0]


@pytest.mark.parametrize(("raised", "code", "words"), [
    (errors.MissingToolError("no runner", fix="pip install x"), 3, "pip install x"), (errors.InputError("bad", where="there"), 2, "there: bad"),
    (errors.VerificationError("off"), 1, "off"), (KeyboardInterrupt(), 130, "interrupted"), (ValueError("boom"), 70, "bug"),
    (PermissionError(13, "Permission denied", "f"), 2, "Permission denied")])
def test_whatever_goes_wrong_is_a_message_and_a_code(run, monkeypatch, raised, code, words):
    import edgekit.inspection

    def fail():
        raise raised
    monkeypatch.setattr(edgekit.inspection, "devices", fail)
    got, out, err = run("targets")
    assert got == code and words in err and "Traceback" not in err and not out
    got, out, _ = run("targets", "--json", "-")
    assert got == code and (not out or one_object(out)["error"]["exit_code"] == code)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_native_code_swallowed_ends_the_command_at_its_next_word(run, monkeypatch, number):
    import edgekit.demo

    def main(output, progress):
        progress("at work")
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            pass
        progress("still at work")
        return {"text": "done"}
    monkeypatch.setattr(edgekit.demo, "main", main)
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]  # a background job's are others than a terminal's
    code, out, err = run("demo")
    assert code == 128 + number and "still" not in err and not out
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_an_interrupt_that_an_import_turned_into_an_error(run, monkeypatch):
    import edgekit.inspection

    def devices():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise errors.MissingToolError("onnx is not installed") from None
    monkeypatch.setattr(edgekit.inspection, "devices", devices)
    code, out, err = run("targets")
    assert code == 130 and "interrupted" in err and "installed" not in err and not out


def test_a_bug_shows_its_traceback_when_asked(run, monkeypatch):
    import edgekit.inspection
    monkeypatch.setenv("EDGEKIT_DEBUG", "1")
    monkeypatch.setattr(edgekit.inspection, "devices", lambda: 1 / 0)
    assert "Traceback" in run("targets")[2]


def test_names_of_strangers_do_not_reach_the_terminal(run, monkeypatch):
    import edgekit.inspection

    def fail():
        raise errors.InputError("bad \x1b[31m name")
    monkeypatch.setattr(edgekit.inspection, "devices", fail)
    assert "\x1b" not in run("targets")[2]


@pytest.mark.parametrize("arguments", [[], ["export"], ["bench"], ["fly"], ["export", "x.onnx", "-o", "y", "--group", "few"]])
def test_bad_usage(arguments, capsys):
    with pytest.raises(SystemExit) as e:
        cli.main(arguments)
    assert e.value.code == 2 and "usage" in capsys.readouterr().err


@pytest.mark.parametrize("given", [["--input-shape", "x"], ["--input-shape", "x=a"], ["--input-shape", "x=1", "--input-shape", "x=2"], ["--state", "h"],
                                   ["--state", "h=a", "--state", "h=b"], ["--sparsity", "1.5"], ["--group", "0"]])
def test_arguments_that_say_nothing(run, given, tmp_path):
    code, _, err = run("export", "net.onnx", "-o", str(tmp_path / "o.ekb"), *given)
    assert code == 2 and "error" in err and not (tmp_path / "o.ekb").exists()


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_reader_that_goes_away(made):
    process = subprocess.Popen([sys.executable, "-m", "edgekit", "inspect", str(made / "net.ekb"), "--json", "-"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, cwd=os.getcwd())
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert process.returncode in (0, 141) and b"Traceback" not in err
