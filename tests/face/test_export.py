"""Exporting: test vectors from the user's data, failures that leave nothing behind, forms of the output."""
from dataclasses import replace

import numpy as np
import pytest
from onnx import helper

import edgekit as ek
from edgekit import errors, vectors
from tests.lower.graphs import model

RNG = np.random.default_rng(0)


def n(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def net():
    nodes = [helper.make_node("Gemm", ["x", "w"], ["g"], name="g"), helper.make_node("Tanh", ["g"], ["y"], name="t")]
    return model(nodes, {"x": n(2, 8)}, ["y"], {"w": n(8, 4)})


@pytest.fixture(scope="module")
def stateful():
    nodes = [helper.make_node("Gemm", ["x", "w", "h"], ["a"], name="a"), helper.make_node("Tanh", ["a"], ["h2"], name="t"),
             helper.make_node("Relu", ["h2"], ["y"], name="r")]
    return model(nodes, {"x": n(1, 8), "h": n(1, 4)}, ["y", "h2"], {"w": n(8, 4)})


def test_vectors_come_from_the_users_data(net, tmp_path):
    x = n(3, 2, 8)
    np.savez(tmp_path / "x.npz", in_x=x)
    for given in ({"x": x}, tmp_path / "x.npz", str(tmp_path / "x.npz")):
        made = ek.export(net, output=tmp_path / "m.ekb", calibration=given, name="m", overwrite=True)
        known = vectors.load(made.files, "run")
        assert np.array_equal(np.stack([c["x"] for c in known.cases]), x) and np.array_equal(known.expected["y"], known.original["y"])


def test_calibration_inputs_prune_and_judge(net, tmp_path):
    x = n(40, 2, 8)
    made = ek.export(net, output=tmp_path / "m.ekb", calibration={"x": x}, sparsity={"g": 0.5}, group=4)
    pruning = made.manifest["pruning"]
    assert pruning["method"] == "reconstruction" and pruning["held_back"]["cases"] == 8 and pruning["held_back"]["fitted"] == 32
    output, = pruning["held_back"]["outputs"]
    assert output["output"] == "y" and 0 < output["error"] < output["trivial"]["mean"]
    assert any("on 8 held back 'y' is" in note for note in made.summary["notes"])
    with pytest.raises(errors.InputError, match="at least 4"):
        ek.export(net, output=tmp_path / "few.ekb", calibration={"x": x[:3]}, sparsity={"g": 0.5}, group=4)
    assert not (tmp_path / "few.ekb").exists()


def test_drawn_vectors_are_the_same_every_time(net):
    one, two = (vectors.make(net, net, (), 2) for _ in range(2))
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(one.cases, two.cases, strict=True))


def test_a_model_that_wants_positive_numbers_gets_them():
    m = model([helper.make_node("Log", ["x"], ["y"], name="l")], {"x": n(1, 50)}, ["y"])
    assert np.isfinite(vectors.make(m, m, (), 2).expected["y"]).all()


def test_state_is_carried_over_the_cases(stateful):
    made = vectors.make(stateful, stateful, (("h", "h2"),), {"x": np.ones((3, 1, 8), np.float32)})
    assert set(made.expected) == {"y"} and set(made.cases[0]) == {"x"}
    assert not np.allclose(made.expected["y"][0], made.expected["y"][1])


@pytest.mark.parametrize(("given", "words"), [
    ({"x": np.zeros((3, 2, 9), np.float32)}, "(cases, 2, 8)"), ({"x": np.zeros((0, 2, 8), np.float32)}, "shape"), ({"x": np.zeros(8, np.float32)}, "shape"),
    ({"x": np.full((1, 2, 8), np.nan, np.float32)}, "NaN"), ({"x": np.zeros((1, 2, 8), complex)}, "complex"),
    ({"y": np.zeros((1, 2, 8), np.float32)}, "name the arrays after the inputs: x")])
def test_calibration_that_does_not_fit(net, tmp_path, given, words):
    with pytest.raises(errors.InputError) as e:
        ek.export(net, output=tmp_path / "m.ekb", calibration=given)
    assert words in str(e.value) and not any(tmp_path.iterdir())


def test_calibration_for_some_inputs_only(stateful, tmp_path):
    with pytest.raises(errors.InputError, match="lack the input 'h'"):
        ek.export(stateful, output=tmp_path / "m.ekb", calibration={"x": n(2, 1, 8)})
    with pytest.raises(errors.InputError, match="different numbers"):
        ek.export(stateful, output=tmp_path / "m.ekb", calibration={"x": n(2, 1, 8), "h": n(3, 1, 4)})


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04garbage"])
def test_calibration_files_that_are_none(net, tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(errors.InputError):
        ek.export(net, output=tmp_path / "m.ekb", calibration=tmp_path / "x.npz")
    with pytest.raises(errors.InputError, match="no such file"):
        ek.export(net, output=tmp_path / "m.ekb", calibration=tmp_path / "y.npz")


def test_numbers_that_are_off_fail_loudly_and_leave_nothing(net, tmp_path, monkeypatch):
    right = vectors.make

    def wrong(*args):
        v = right(*args)
        return replace(v, expected={k: a + np.float32(0.01) for k, a in v.expected.items()})
    monkeypatch.setattr(vectors, "make", wrong)
    with pytest.raises(errors.VerificationError) as e:
        ek.export(net, output=tmp_path / "m.ekb", name="m")
    assert "'y'" in str(e.value) and "host" in str(e.value) and e.value.exit_code == 1
    assert not any(tmp_path.iterdir())


def test_a_failure_leaves_the_old_bundle(net, tmp_path, monkeypatch):
    old = ek.export(net, output=tmp_path / "m.ekb", name="m").manifest
    with pytest.raises(errors.ExistsError):
        ek.export(net, output=tmp_path / "m.ekb")
    with pytest.raises(errors.InputError):
        ek.export(net, output=tmp_path / "m.ekb", overwrite=True, calibration={"x": n(1)})
    assert ek.open(tmp_path / "m.ekb").manifest == old


def test_a_zip_and_no_source(net, tmp_path):
    x = n(2, 8)
    with ek.export(net, output=tmp_path / "m.zip", name="m", source=False, targets="host") as made:
        assert "model.onnx" not in made.manifest["files"]
        with ek.open(tmp_path / "m.zip") as again:
            assert np.array_equal(made.run(x)[0], again.run(x)[0])
            with pytest.raises(errors.EdgekitError):
                again.run(x, target="onnx")


@pytest.mark.parametrize("how", [{"targets": ()}, {"dtype": "float16"}, {"dtype": "float8", "targets": "arm64"}, {"targets": ["host", "toaster"]}, {"sparsity": 1.0}, {"sparsity": float("nan")}])
def test_what_makes_no_sense(net, tmp_path, how):
    with pytest.raises(errors.InputError):
        ek.export(net, output=tmp_path / "m.ekb", **how)
    assert not any(tmp_path.iterdir())


def test_products_in_float16(net, tmp_path):
    """On request, where the processor has the arithmetic: half the weights, a tolerance and an error that are stated."""
    single, half = (ek.export(net, output=tmp_path / f"{d}.ekb", name="m", targets="arm64", dtype=d) for d in ("float32", "float16"))
    wide, narrow = ([x["verified"]["max_rel_error"] for x in m.manifest["targets"].values()] for m in (single, half))
    assert wide < [1e-6] < narrow < [5e-3] and half.manifest["tolerance"] == half.tolerance == 5e-2
    assert half.manifest["dtype"] == "float16" and half.manifest["weights_bytes"] < single.manifest["weights_bytes"]
    assert all(m.ok for m in half.verify("arm64")["arm64"]) and not all(m.ok for m in half.verify("arm64", 1e-6)["arm64"])


def test_weights_that_float16_cannot_hold(tmp_path):
    m = model([helper.make_node("Gemm", ["x", "w"], ["y"], name="g")], {"x": n(2, 8)}, ["y"], {"w": n(8, 4) * 1e6})
    with pytest.raises(errors.UnsupportedError, match="float16"):
        ek.export(m, output=tmp_path / "m.ekb", targets="arm64", dtype="float16")


def test_the_same_export_gives_the_same_bundle(net, tmp_path):
    """Byte for byte where no clock is involved: code, weights, header, model, manifest."""
    made = [ek.export(net, output=tmp_path / f"{k}.ekb", name="m", targets=["host", "wasm"]).manifest["files"] for k in range(2)]
    assert {k: v for k, v in made[0].items() if not k.endswith(".npz")} == {k: v for k, v in made[1].items() if not k.endswith(".npz")}
