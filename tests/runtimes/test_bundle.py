"""The Bundle that users hold: what `run` accepts, which entry it takes, state, verification, recovery."""
import os
import shutil
import signal
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

import edgekit
from edgekit.bundle import TOLERANCES, Bundle, compare
from edgekit.errors import BundleError, InputError, MissingToolError, RuntimeStatusError, ShapeError
from edgekit.runtimes.abi import bundle as format_
from edgekit.runtimes.session import DTYPES, Port, as_array

X = np.array([[1, 2, 3]], np.float32)
BIG = 100_000


@pytest.fixture
def bundle(files):
    with edgekit.open(files.root) as opened:
        yield opened


def rewritten(files, tmp_path, **changes):
    """The bundle with other contents of some files, its hashes in order."""
    contents = {n: files.file(n) for n in files.manifest["files"]} | changes
    return Bundle(format_.write(tmp_path / "changed.ekb", files.manifest, contents))


def test_what_it_tells(bundle):
    assert bundle.name == "tiny" and bundle.targets == ("host", "android-arm64", "arm64", "wasm")
    assert [e.name for e in bundle.entries] == ["run", "two", "decode", "crash"]
    assert [str(p) for p in bundle.entries[0].inputs] == ["x float32[1,3]", "k int32[]"]
    assert "'tiny'" in repr(bundle) and "decode(z float32[100000]) -> w float32[100000]" in repr(bundle)


def test_opening_executes_nothing(files, tmp_path):
    code = (".so", ".wasm", ".dll", ".dylib", ".onnx")
    garbage = {n: b"garbage" for n in files.manifest["files"] if n.endswith(code)}
    broken = rewritten(files, tmp_path, **garbage)
    again = edgekit.open(broken.files.root)
    assert not again._sessions and repr(again)
    for target in ("host", "arm64", "wasm", "onnx"):
        with pytest.raises(BundleError):
            again.run(X, 5, target=target)


def test_a_zip_runs_as_a_folder_does(files, tmp_path):
    contents = {n: files.file(n) for n in files.manifest["files"]}
    format_.write(tmp_path / "tiny.zip", files.manifest, contents)
    with edgekit.open(tmp_path / "tiny.zip") as zipped:
        for target in ("host", "arm64", "wasm", "onnx"):
            np.testing.assert_array_equal(zipped.run(X, 5, target=target)[0], 2 * X)


def test_ways_to_give_inputs(bundle):
    ways = [(X, np.int32(5)), (X, 5), ([[1, 2, 3]], 5), ([[1.0, 2.0, 3.0]], np.array(5, np.int32)), (((1, 2, 3),), 5),
            ({"x": X, "k": 5},), ({"k": np.array(5, np.int32), "x": [[1, 2, 3]]},)]
    for way in ways:
        bundle.reset()
        y, m = bundle.run(*way)
        np.testing.assert_array_equal(y, 2 * X)
        np.testing.assert_array_equal(m, [5, 3])


@pytest.mark.parametrize("inputs,error,said", [
    ((), InputError, "0 inputs given, 2 wanted.*\n.*x float32"), ((X,), InputError, "1 inputs given"),
    ((X, 5, 5), InputError, "3 inputs"),
    ((X.astype(np.float64), 5), InputError, "float64"), ((X, 5.5), InputError, "'k' has dtype float64"),
    ((X, np.int64(5)), InputError, "'k' has dtype int64"), ((X, 1 << 40), InputError, "'k' is no array of int32"),
    ((X, [5]), ShapeError, None), (([[1, 2], [3]], 5), InputError, "'x' is no array of float32"),
    ((None, 5), InputError, None),
    (("x", 5), InputError, None), ((X, {}), InputError, None), ((X.astype(complex), 5), InputError, "complex128"),
    (({"x": X},), InputError, r"\(x\) given"), (({"x": X, "q": 5},), InputError, r"\(x, q\) given"),
    ((np.zeros((5, 3), np.float32), 5), ShapeError,
     r"no entry takes.*\n.*run\(x float32\[1,3\].*two\(x float32\[2,3\]"),
    ((object(), 5), InputError, None),
])
@pytest.mark.parametrize("target", ["host", "wasm"])
def test_inputs_that_do_not_fit(bundle, target, inputs, error, said):
    with pytest.raises(error, match=said):
        bundle.run(*inputs, target=target)
    np.testing.assert_array_equal(bundle.run(X, 5, target=target)[0], 2 * X)


def test_shape_variants_choose_themselves(bundle):
    rows = np.vstack([X, X])
    assert bundle.run(rows, 5)[0].shape == (2, 3)
    bundle.reset()
    np.testing.assert_array_equal(bundle.run({"k": 5, "x": rows})[0], 2 * rows)
    with pytest.raises(ShapeError, match=r"\(2, 3\), wanted \(1, 3\)"):
        bundle.run(rows, 5, entry="run")
    with pytest.raises(InputError, match="no entry 'other'"):
        bundle.run(X, 5, entry="other")
    z = np.zeros(BIG, np.float32)
    with pytest.raises(InputError, match="1 inputs given, 2 wanted"):  # another function is never chosen by shape
        bundle.run(z)
    np.testing.assert_array_equal(bundle.run(z, entry="decode")[0], z + 1)


def test_results_are_never_written_again(bundle):
    kept = [bundle.run(np.full(1, k, np.float32), entry="crash")[0] for k in range(10)]
    assert [k.item() for k in kept] == list(range(10))
    kept[0][...] = 99
    assert bundle.run(np.ones(1, np.float32), entry="crash")[0].item() == 1


def test_state(bundle):
    bundle.run(X, 5)
    bundle.run(X, 5, target="wasm")
    kept = bundle.save()
    second = bundle.run(X, 5)[0]
    bundle.restore(kept)
    np.testing.assert_array_equal(bundle.run(X, 5)[0], second)
    bundle.restore(kept, target="arm64")
    np.testing.assert_array_equal(bundle.run(X, 5, target="arm64")[0], second)
    bundle.reset()
    for target in ("host", "wasm", "arm64"):
        np.testing.assert_array_equal(bundle.run(X, 5, target=target)[0], 2 * X)
    with pytest.raises(RuntimeStatusError, match="EK_STATE|EK_BYTES"):
        bundle.restore(b"nonsense")


def test_close_and_open_again(files):
    with edgekit.open(files.root) as opened:
        opened.run(X, 5)
        opened.close()
        np.testing.assert_array_equal(opened.run(X, 5)[0], 2 * X)
        opened.run(X, 5, target="arm64")
        child = opened.session("arm64")._machine._child
    assert child.returncode is not None and not opened._sessions


def test_many_threads_open_one_session(bundle):
    results, start = [], threading.Barrier(8)

    def work(n):
        start.wait()
        a = np.array([n], np.float32)
        for target in ("host", "wasm"):
            results.extend(bundle.run(a, entry="crash", target=target)[0].item() == n for _ in range(50))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 800 and all(results)


def test_threads_option(files):
    z = np.arange(BIG, dtype=np.float32)
    with edgekit.open(files.root, threads=2) as opened:
        np.testing.assert_array_equal(opened.run(z, entry="decode")[0], z + 1)
        np.testing.assert_array_equal(opened.run(z, entry="decode", target="wasm")[0], z + 1)


# --- verification


def test_verify(bundle):
    bundle.run(X, 5)
    found = bundle.verify()
    assert list(found) == ["host", "arm64", "wasm"]
    for matches in found.values():
        assert [(m.entry, m.output) for m in matches] == [
            ("run", "y"), ("run", "m"), ("two", "y"), ("two", "m"), ("decode", "w"), ("crash", "b")]
        assert all(m.ok and m.max_abs_error == 0 for m in matches)
    assert all(m.ok for m in bundle.verify(["onnx"])["onnx"]) and list(bundle.verify("host")) == ["host"]
    np.testing.assert_array_equal(bundle.run(X, 5)[0], 4 * X)  # the state of `run` is its own
    with pytest.raises(MissingToolError):
        bundle.verify("android-arm64")
    with pytest.raises(InputError, match="no target"):
        bundle.verify("toaster")


@pytest.mark.parametrize("entry,wrong", [("", "y"), (".two", "m"), (".decode", "w")])
def test_verify_sees_one_wrong_number(files, tmp_path, entry, wrong):
    vectors = dict(np.load(files.file(f"vectors{entry}.npz")))
    array = vectors[f"expected_{wrong}"]
    array.reshape(-1)[-1] += max(1, abs(array).max() * 1e-3)
    np.savez(tmp_path / "v.npz", **vectors)
    changed = rewritten(files, tmp_path, **{f"vectors{entry}.npz": tmp_path / "v.npz"})
    bad = [(m.entry, m.output) for m in changed.verify("host")["host"] if not m.ok]
    assert bad == [({"": "run"}.get(entry, entry[1:]), wrong)]


def test_verify_with_vectors_that_lack_an_output(files, tmp_path):
    vectors = dict(np.load(files.file("vectors.npz")))
    del vectors["expected_m"]
    np.savez(tmp_path / "v.npz", **vectors)
    with pytest.raises(BundleError, match="lack the output 'm'"):
        rewritten(files, tmp_path, **{"vectors.npz": tmp_path / "v.npz"}).verify("host")


floats = hn.arrays(np.float32, hn.array_shapes(max_dims=3, max_side=4),
                   elements=st.floats(width=32, min_value=-2.0**100, max_value=2.0**100))


@given(floats, st.floats(0, 2))
def test_compare_holds_the_rule(expected, size):
    """Off by `size` tolerances of the largest number, anywhere: fine up to one, wrong beyond."""
    scale = float(np.abs(expected.astype(np.float64)).max())
    got = expected.astype(np.float64)
    got.reshape(-1)[-1] += size * TOLERANCES["float32"] * scale
    match = compare("run", "y", got, expected.astype(np.float64))
    if abs(size - 1) > 1e-6:
        assert match.ok == (size < 1 or scale == 0)
    assert match.max_rel_error == (match.max_abs_error / scale if scale else 0)


@given(floats)
def test_compare_special_numbers(array):
    flat = np.concatenate([array.ravel(), np.array([np.nan, np.inf, -np.inf], np.float32)])
    assert compare("run", "y", flat, flat.copy()).ok
    for k in (-1, -2, -3):
        other = flat.copy()
        other[k] = 0
        for a, b in ((flat, other), (other, flat)):
            match = compare("run", "y", a, b)
            assert not match.ok and match.max_rel_error == float("inf")
    assert not compare("run", "y", flat, flat[1:]).ok and not compare("run", "y", flat, flat.astype(np.float64)).ok


def test_compare_integers_exactly():
    a = np.array([1, 10_000_000], np.int64)
    assert compare("run", "m", a, a.copy()).ok and not compare("run", "m", a, a + [1, 0]).ok
    assert not compare("run", "m", np.array([True]), np.array([False])).ok
    empty = np.zeros((0, 3), np.float32)
    assert compare("run", "y", empty, empty).ok
    assert not compare("run", "y", np.ones(2, np.float32), np.zeros(2, np.float32)).ok


def _port(dtype):
    return Port("x", np.dtype(dtype), (2,), DTYPES[dtype])


numbers = st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats()


@given(st.sampled_from(sorted(DTYPES)), st.lists(numbers, min_size=2, max_size=2))
def test_lists_are_converted_only_where_nothing_is_lost(dtype, values):
    """No float becomes an integer, no integer wraps; anything else is an InputError or left as it is."""
    port = _port(dtype)
    try:
        array = as_array(values, port, "run")
    except InputError:
        return
    if array.dtype == port.dtype and port.dtype.kind in "iub":
        assert array.tolist() == values
    if array.dtype == port.dtype and port.dtype.kind == "f":
        assert all(np.isfinite(a) or not np.isfinite(v) for a, v in zip(array, values))
    if any(isinstance(v, float) for v in values) and port.dtype.kind in "iub":
        assert array.dtype != port.dtype


def test_arrays_are_never_converted():
    for given_, dtype in ((np.ones(2), "float32"), (np.ones(2, np.int64), "int32"), (np.ones(2, bool), "uint8")):
        assert as_array(given_, _port(dtype), "run") is given_


# --- crashes


@pytest.mark.parametrize("target", ["arm64", "wasm"])
def test_a_crash_is_an_error_and_the_next_call_starts_afresh(bundle, target):
    bundle.run(X, 5, target=target)
    with pytest.raises(RuntimeStatusError, match="stopped") as e:
        bundle.run(np.array([666], np.float32), entry="crash", target=target)
    assert e.value.status == "FAULT"
    np.testing.assert_array_equal(bundle.run(X, 5, target=target)[0], 2 * X)


def test_code_that_never_ends(bundle, monkeypatch):
    monkeypatch.setattr("edgekit.runtimes.arm.LIMIT", 0.3)
    with pytest.raises(RuntimeStatusError, match="did not end within 0.3 s"):
        bundle.run(np.array([667], np.float32), entry="crash", target="arm64")
    np.testing.assert_array_equal(bundle.run(X, 5, target="arm64")[0], 2 * X)


def test_a_killed_emulator(bundle):
    bundle.run(X, 5, target="arm64")
    os.kill(bundle.session("arm64")._machine._child.pid, signal.SIGKILL)
    with pytest.raises(RuntimeStatusError, match="process ended"):
        bundle.run(X, 5, target="arm64")
    np.testing.assert_array_equal(bundle.run(X, 5, target="arm64")[0], 2 * X)


def test_bench_runs_on_the_bundle(bundle):
    result = bundle.bench(runs=30, warmup=2, period="2ms")
    assert result["target"] == "host" and result["measured"] and result["runs"] == 30
    assert bundle.bench("arm64", runs=1, warmup=0)["instructions"] > 0


def test_a_bundle_replaced_while_open_keeps_working(files, tmp_path):
    copy = tmp_path / "copy.ekb"
    shutil.copytree(files.root, copy)
    with edgekit.open(copy) as opened:
        opened.run(X, 5)
        shutil.rmtree(copy)
        np.testing.assert_array_equal(opened.run(X, 5)[0], 4 * X)
