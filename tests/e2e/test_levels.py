"""Code levels: each of them run on this machine, and the best one by itself."""
import shutil
import subprocess

import numpy as np
import pytest
from onnx import helper

import edgekit as ek
from edgekit import targets
from edgekit.errors import InputError, RuntimeStatusError
from edgekit.pack import pack
from edgekit.runtimes import open_session
from tests.lower.graphs import model

MADD = b"\xfd\x85\x02"  # f32x4.relaxed_madd


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A convolution and a product, and what SSE2 has no instruction for: rounding."""
    g = np.random.default_rng(0)
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], name="conv"), helper.make_node("Floor", ["c"], ["f"], name="floor"),
             helper.make_node("Sub", ["c", "f"], ["d"], name="fraction"), helper.make_node("Flatten", ["d"], ["r"], name="row"),
             helper.make_node("Gemm", ["r", "v"], ["y"], name="head")]
    constants = {"w": g.standard_normal((24, 8, 1, 1)).astype(np.float32), "v": g.standard_normal((24 * 35, 16)).astype(np.float32)}
    m = model(nodes, {"x": g.standard_normal((1, 8, 5, 7)).astype(np.float32)}, ["y"], constants)
    return ek.export(m, targets=["x64", "wasm"], output=tmp_path_factory.mktemp("levels") / "m.ekb", name="m")


@pytest.mark.skipif(not targets.load("x64").runner, reason="not an x86-64 Linux machine")
def test_every_level_of_one_library(bundle):
    x = np.random.default_rng(1).standard_normal((1, 8, 5, 7)).astype(np.float32)
    seen = {}
    for level in ("", "avx512", "avx2", "sse2"):
        try:
            session = open_session(bundle.files, "x64", level=level)
        except RuntimeStatusError as e:
            assert e.status == "EK_CPU" and level in ("avx512", "avx2")
            continue
        seen[level] = session.run({"x": x}, "run")["y"]
        session.close()
    best = next(level for level in ("avx512", "avx2", "sse2") if level in seen)
    assert np.array_equal(seen[""], seen[best])
    if best != "sse2":
        assert not np.array_equal(seen[best], seen["sse2"]), "without FMA the sums are rounded otherwise"
    assert all(np.allclose(y, seen["sse2"], rtol=1e-4, atol=1e-4) for y in seen.values())
    assert bundle.manifest["targets"]["x64"]["verified"]
    assert [x["name"] for x in bundle.manifest["targets"]["x64"]["levels"]] == ["avx512", "avx2", "sse2"]
    with pytest.raises(InputError, match="code level"):
        open_session(bundle.files, "x64", level="avx")


def test_both_modules(bundle, tmp_path):
    relaxed, plain = (bundle.files.file(f"wasm/{n}").read_bytes() for n in ("m.relaxed.wasm", "m.wasm"))
    assert relaxed.count(MADD) >= 8 and MADD not in plain
    assert bundle.manifest["targets"]["wasm"]["verified"]
    chosen, forced = open_session(bundle.files, "wasm"), open_session(bundle.files, "wasm", level="relaxed")
    x = {"x": np.ones((1, 8, 5, 7), np.float32)}
    assert np.array_equal(chosen.run(x, "run")["y"], forced.run(x, "run")["y"])
    if shutil.which("node"):
        pack(bundle.files.root, "npm", tmp_path / "npm")
        for flags in ([], ["--experimental-wasm-relaxed-simd"]):
            done = subprocess.run(["node", *flags, "test.mjs"], cwd=tmp_path / "npm", capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0 and ": ok, " in done.stdout, done.stdout + done.stderr
