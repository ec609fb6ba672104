"""The same promises kept by every driver, on one small bundle (conftest.py)."""
import dataclasses
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from edgekit import targets as devices
from edgekit.errors import BundleError, InputError, MissingToolError, RuntimeStatusError, ShapeError, UnsupportedError
from edgekit.runtimes import arm, open_session
from edgekit.runtimes.abi.names import library_names

EXTRAS = {"host": None, "arm64": "unicorn", "wasm": "wasmtime", "onnx": "onnxruntime"}
TARGETS = list(EXTRAS)
BIG = 100_000  # elements of `decode`
X = np.array([[1, 2, 3]], np.float32)
K = np.array(5, np.int32)


def opened(files, target, threads=1):
    if EXTRAS[target]:
        pytest.importorskip(EXTRAS[target])
    return open_session(files, target, threads)


@pytest.fixture(params=TARGETS)
def session(request, files):
    made = opened(files, request.param)
    yield made
    made.close()


def test_results_state_and_fresh_arrays(session):
    outs = [session.run({"x": X, "k": K}, "run") for _ in range(3)]
    for n, out in enumerate(outs, 1):  # the state adds 2x each time; earlier results stay what they were
        assert list(out) == ["y", "m"]
        assert out["y"].dtype == np.float32 and out["m"].dtype == np.int64
        np.testing.assert_array_equal(out["y"], 2 * n * X)
        np.testing.assert_array_equal(out["m"], [5, 3])
        assert out["y"].flags.writeable
    session.reset()
    np.testing.assert_array_equal(session.run({"k": K, "x": X}, "run")["y"], 2 * X)


def test_every_entry_and_state_shared_between_them(session):
    rows = np.vstack([X, -X])
    session.run({"x": X, "k": K}, "run")
    out = session.run({"x": rows, "k": K}, "two")
    np.testing.assert_array_equal(out["y"], 2 * rows + 2 * X)
    np.testing.assert_array_equal(session.run({"x": X, "k": K}, "run")["y"], 2 * X + 4 * X)
    z = np.linspace(-1, 1, BIG, dtype=np.float32)
    np.testing.assert_array_equal(session.run({"z": z}, "decode")["w"], z + np.float32(1))
    with pytest.raises(InputError, match="no entry 'encode'.*\n.*run, two, decode"):
        session.run({"x": X, "k": K}, "encode")


def test_large_arrays_of_any_layout_and_results_that_stay(session):
    z = np.linspace(-1, 1, 3 * BIG, dtype=np.float32)
    z.flags.writeable = False
    inputs = [z[:BIG], z[::3], z[::-3]]
    outs = [session.run({"z": x}, "decode")["w"] for x in inputs]
    for x, out in zip(inputs, outs):
        np.testing.assert_array_equal(out, x + np.float32(1))


def test_save_and_restore(session):
    session.run({"x": X, "k": K}, "run")
    kept = session.save()
    second = session.run({"x": X, "k": K}, "run")["y"]
    session.reset()
    session.restore(kept)
    np.testing.assert_array_equal(session.run({"x": X, "k": K}, "run")["y"], second)


def test_a_state_that_is_none_is_refused_and_changes_nothing(session):
    session.run({"x": X, "k": K}, "run")
    kept = session.save()
    flipped = bytearray(kept)
    flipped[-1] ^= 1
    for wrong in (b"", kept[:-1], bytes(len(kept)), bytes(flipped), b"x" + kept[1:], os.urandom(1 << 20)):
        with pytest.raises(RuntimeStatusError) as e:
            session.restore(wrong)
        assert e.value.status in ("EK_STATE", "EK_BYTES")
    assert session.save() == kept


@pytest.mark.parametrize("source", TARGETS)
def test_states_travel_between_targets(files, source):
    first = opened(files, source)
    first.run({"x": X, "k": K}, "run")
    kept = first.save()
    for target in TARGETS:
        other = opened(files, target)
        other.restore(kept)
        assert other.save() == kept
        np.testing.assert_array_equal(other.run({"x": X, "k": K}, "run")["y"], 4 * X)
        other.close()
    first.close()


@pytest.mark.parametrize("inputs,error,said", [
    ({}, InputError, r"\(x, k\) wanted"),
    ({"x": X}, InputError, r"\(x\) given"),
    ({"x": X, "k": K, "l": K}, InputError, r"\(x, k, l\) given"),
    ({"x": X, "z": K}, InputError, r"\(x, z\) given"),
    ({"x": X[0], "k": K}, ShapeError, r"shape \(3,\), wanted \(1, 3\)"),
    ({"x": np.zeros((1, 4), np.float32), "k": K}, ShapeError, r"shape \(1, 4\)"),
    ({"x": np.zeros((0, 3), np.float32), "k": K}, ShapeError, r"shape \(0, 3\)"),
    ({"x": X, "k": np.array([5], np.int32)}, ShapeError, r"wanted \(\)"),
    ({"x": X.astype(np.float64), "k": K}, InputError, "dtype float64, wanted float32"),
    ({"x": X.astype(">f4"), "k": K}, InputError, "dtype >f4, wanted float32"),
    ({"x": X, "k": np.array(5)}, InputError, "dtype int64, wanted int32"),
    ({"x": [[1.0, 2.0, 3.0]], "k": K}, InputError, "list, not a numpy array"),
    ({"x": None, "k": K}, InputError, "NoneType"),
])
def test_inputs_that_do_not_fit(session, inputs, error, said):
    for use in (session.run, session.time if session.measured else session.run):
        with pytest.raises(error, match=said):
            use(inputs, "run")
    np.testing.assert_array_equal(session.run({"x": X, "k": K}, "run")["y"], 2 * X)  # and no state has moved


def test_strange_but_right_inputs(session):
    wide = np.arange(12, dtype=np.float32).reshape(3, 4).T
    for x in (wide[1:2], np.asfortranarray(np.vstack([X, X]))[:1], np.broadcast_to(np.float32(3), (1, 3)), X[:, ::-1]):
        session.reset()
        np.testing.assert_array_equal(session.run({"x": x, "k": K}, "run")["y"], 2 * x)
    frozen = X.copy()
    frozen.flags.writeable = False
    session.reset()
    np.testing.assert_array_equal(session.run({"x": frozen, "k": K}, "run")["y"], 2 * X)
    special = np.array([[np.nan, np.inf, -np.inf]], np.float32)
    session.reset()
    np.testing.assert_array_equal(session.run({"x": special, "k": K}, "run")["y"], special)


def test_time_and_steps(session):
    if not session.measured:
        for ask in (session.time, session.steps):
            with pytest.raises(UnsupportedError, match="arm64"):
                ask({"x": X, "k": K}, "run")
        return
    assert 0 < session.time({"x": X, "k": K}, "run") < 10
    np.testing.assert_array_equal(session.run({"x": X, "k": K}, "run")["y"], 4 * X)  # timing is a real inference
    if session.target == "onnx":
        with pytest.raises(UnsupportedError, match="by step"):
            session.steps({"x": X, "k": K}, "run")
        return
    seconds = session.steps({"x": X, "k": K}, "run")
    assert len(seconds) == 2 and all(0 < s < 10 for s in seconds)
    assert len(session.steps({"z": np.zeros(BIG, np.float32)}, "decode")) == 1
    np.testing.assert_array_equal(session.run({"x": X, "k": K}, "run")["y"], 6 * X)  # profiling is not


def test_instructions(session, files):
    if session.target != "arm64":
        with pytest.raises(UnsupportedError, match="instruction count"):
            session.instructions({"x": X, "k": K}, "run")
        return
    z = np.zeros(BIG, np.float32)
    counts = [session.instructions({"z": z}, "decode") for _ in range(2)]
    assert counts[0] == counts[1] > BIG / 16  # at least a load of four vectors each
    session.run({"x": X, "k": K}, "run")
    small = session.instructions({"x": X, "k": K}, "run")
    assert 20 < small < 2000
    steps = session.step_instructions({"x": X, "k": K}, "run")
    assert len(steps) == 2 and 20 < sum(steps) < 2 * small
    np.testing.assert_array_equal(session.run({"x": X, "k": K}, "run")["y"], 6 * X)


def test_memory(session, files):
    facts = session.memory()
    assert set(facts) == {"arena_bytes", "weights_bytes", "code_bytes"}
    if session.target == "onnx":  # which tells nothing of its working memory
        assert facts["arena_bytes"] is facts["code_bytes"] is None and facts["weights_bytes"] > 0
    else:
        assert facts["code_bytes"] == files.manifest["targets"][session.target]["code_bytes"] > 0
        assert facts["arena_bytes"] == 1 << 20


def test_close(session):
    session.close()
    session.close()
    for use in (lambda: session.run({"x": X, "k": K}, "run"), session.reset, session.save):
        with pytest.raises(BundleError, match="closed"):
            use()


def test_calls_from_several_threads_take_turns(session):
    wrong = []

    def work(seed):
        for k in range(20):
            a = np.array([seed * 100 + k], np.float32)
            if session.run({"a": a}, "crash")["b"] != a:
                wrong.append((seed, k))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_on_the_host(files, threads):
    session = opened(files, "host", threads)
    z = np.random.default_rng(0).standard_normal(BIG).astype(np.float32)
    for _ in range(50):
        np.testing.assert_array_equal(session.run({"z": z}, "decode")["w"], z + np.float32(1))
    np.testing.assert_array_equal(session.run({"x": X, "k": K}, "run")["y"], 2 * X)
    before = threading.active_count(), len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 0
    session.close()
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/task")) == before[1] - (threads - 1)


def test_what_cannot_be_opened(files, monkeypatch):
    with pytest.raises(InputError, match="no target 'toaster'.*\n.*host, arm64, wasm, android-arm64, onnx"):
        open_session(files, "toaster")
    with pytest.raises(MissingToolError, match="nothing here runs"):
        open_session(files, "android-arm64")
    for target in ("arm64", "wasm"):
        with pytest.raises(InputError, match="one thread"):
            open_session(files, target, threads=2)
    with pytest.raises(InputError, match="0 threads"):
        open_session(files, "host", threads=0)
    with pytest.raises(RuntimeStatusError, match="no pool of 1000 threads"):
        open_session(files, "host", threads=1000)
    few = {k: v for k, v in files.manifest["files"].items() if k not in ("model.onnx", "wasm/tiny.wasm")}
    lacking = dataclasses.replace(files, manifest=files.manifest | {"files": few})
    for target in ("onnx", "wasm"):
        with pytest.raises(BundleError, match="no file"):
            open_session(lacking, target)


@pytest.mark.parametrize("target,module,extra", [("wasm", "wasmtime", "wasm"), ("onnx", "onnxruntime", "export")])
def test_a_missing_extra_names_the_command(files, monkeypatch, target, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingToolError) as e:
        open_session(files, target)
    assert e.value.fix == f"pip install 'edgekit-deploy[{extra}]'" and e.value.exit_code == 3


def test_the_emulator_missing(files, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingToolError) as e:
        open_session(files, "arm64")
    assert e.value.fix == "pip install 'edgekit-deploy[arm64]'"


# --- damage


def changed(files, tmp_path, name, change):
    """A copy of the bundle with one file changed."""
    folder = tmp_path / "copy"
    shutil.copytree(files.root, folder)
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    return dataclasses.replace(files, root=folder)


@pytest.mark.parametrize("target", ["host", "arm64", "wasm"])
@pytest.mark.parametrize("change,status", [
    (lambda w: w[:-1], "EK_WEIGHTS_SIZE"), (lambda w: w[:40], "EK_WEIGHTS_SIZE"),
    (lambda w: b"X" + w[1:], "EK_WEIGHTS_MAGIC"),
    (lambda w: w[:64] + bytes([w[64] ^ 1]) + w[65:], "EK_WEIGHTS_CHECKSUM"),
])
def test_damaged_weights(files, tmp_path, target, change, status):
    with pytest.raises(RuntimeStatusError) as e:
        opened(changed(files, tmp_path, "weights.bin", change), target)
    assert e.value.status == status and status in str(e.value)


def test_empty_weights(files, tmp_path):
    with pytest.raises(BundleError, match="empty"):
        open_session(changed(files, tmp_path, "weights.bin", lambda _: b""), "host")


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_libraries(files, tmp_path, target):
    name = "model.onnx" if target == "onnx" else f"{target}/{library_names(devices.load(target), 'tiny')[0]}"
    with pytest.raises(BundleError):
        session = opened(changed(files, tmp_path, name, lambda data: data[:300]), target)
        session.run({"x": X, "k": K}, "run")


def test_arm_code_full_of_garbage_is_an_error_here(files, tmp_path):
    pytest.importorskip("unicorn")
    from edgekit.runtimes import elf

    def spoil(data):
        code = next(s for s in elf.parse(data).segments if s.flags & 1)
        at = data.index(code.data)
        return data[:at] + os.urandom(len(code.data)) + data[at + len(code.data):]

    for _ in range(3):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        arm_limit, arm.LIMIT = arm.LIMIT, 1.0
        try:
            with pytest.raises((BundleError, RuntimeStatusError)):
                open_session(changed(files, tmp_path, "arm64/libtiny.so", spoil), "arm64")
        finally:
            arm.LIMIT = arm_limit


# --- leaks


def _facts():
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmRSS:") + 1]), len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def _children():
    return [p for p in Path("/proc").glob("[0-9]*/stat") if _parent(p) == os.getpid()]


def _parent(stat):
    try:
        return int(stat.read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("target,times", [
    ("host", 200), ("wasm", 200), ("onnx", 200), ("arm64", 10), pytest.param("arm64", 200, marks=pytest.mark.slow)])
def test_opening_and_closing_leaves_nothing(files, target, times):
    children = len(_children())

    def once():
        session = opened(files, target, threads=2 if target == "host" else 1)
        session.run({"x": X, "k": K}, "run")
        session.close()

    for _ in range(max(5, times // 10)):
        once()
    few = times // 2  # the test runner has a thread that comes and goes
    for _ in range(3):  # what a process that ran other tests frees late is no leak; a leak grows every time
        rss, handles, tasks = _facts()
        for _ in range(times):
            once()
        after = _facts()
        assert after[1] <= handles and after[2] < tasks + few, (rss, handles, tasks, after)
        if after[0] - rss < 8000:
            break
    else:
        pytest.fail(f"{times} sessions kept {after[0] - rss} kB each time")
    assert len(_children()) == children


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_sessions_that_fail_to_open_leave_nothing(files, tmp_path):
    bad = changed(files, tmp_path, "weights.bin", lambda w: w[:-1])
    children = len(_children())
    for target in ("host", "arm64", "wasm"):
        for _ in range(3):
            with pytest.raises(RuntimeStatusError):
                opened(bad, target)
    assert len(_children()) == children


# --- the static library on other runners

PROGRAM = r"""
#include <stdio.h>
#include "tiny.h"
static _Alignas(64) unsigned char weights[TINY_WEIGHTS_BYTES], arena[TINY_ARENA_BYTES];
int main(int argc, char **argv)
{
    static tiny m;
    float x[3] = {1, 2, 3}, y[3];
    int32_t k = 5;
    int64_t n[2];
    FILE *f = argc > 1 ? fopen(argv[1], "rb") : 0;
    if (!f || fread(weights, 1, sizeof weights, f) != sizeof weights) return 2;
    if (tiny_init(&m, weights, sizeof weights, arena, sizeof arena, 0)) return 3;
    for (int i = 0; i < 2; i++) if (tiny_predict(&m, x, &k, y, n)) return 4;
    printf("%g %g %g %d %d\n", y[0], y[1], y[2], (int)n[0], (int)n[1]);
    return 0;
}
"""


@pytest.mark.slow
@pytest.mark.parametrize("target,runner", [("host", []), ("arm64", ["qemu-aarch64"])])
def test_a_static_program(files, tmp_path, target, runner):
    """On this machine, and, where qemu is installed, a second opinion on the AArch64 code."""
    if runner and not shutil.which(runner[0]):
        pytest.skip("qemu-aarch64 is not installed")
    (tmp_path / "main.c").write_text(PROGRAM)
    where = ["-target", "aarch64-linux-musl", "-mcpu=cortex_a76", "-static"] if runner else []
    subprocess.run([sys.executable, "-m", "ziglang", "cc", *where, f"-I{files.root}/include", str(tmp_path / "main.c"),
                    str(files.root / target / "libtiny.a"), "-o", str(tmp_path / "program")],
                   check=True, capture_output=True)
    ran = subprocess.run([*runner, str(tmp_path / "program"), str(files.root / "weights.bin")], check=True,
                         capture_output=True, text=True)
    assert ran.stdout == "4 8 12 5 3\n"
