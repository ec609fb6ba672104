"""Everything that can be wrong with what a user gives: a clear error, the right exit code, nothing half-written."""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgekit as ek
from edgekit import errors

CLI = [sys.executable, "-m", "edgekit"]
POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX limits and signals")


def edgekit(*arguments: object, cwd: Path, timeout: float = 120, **options) -> subprocess.CompletedProcess:
    """The command line in a process of its own."""
    command = [*CLI, *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False, **environment(**options)
    )


def environment(env: dict[str, str] | None = None, **options) -> dict:
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join(filter(None, [(env or {}).pop("PYTHONPATH", ""), str(root)]))
    return options | {"env": os.environ | {"PYTHONPATH": path} | (env or {})}


def refused(done: subprocess.CompletedProcess, code: int, *words: str) -> None:
    """It ended with that exit code and said each of these words in a message for people."""
    said = done.stderr
    assert done.returncode == code, f"exit code {done.returncode}: {said}"
    assert "Traceback" not in said and "Traceback" not in done.stdout
    assert [w for w in words if w.lower() not in said.lower()] == [], said


def mlp(width: int = 32, layers: int = 2, seed: int = 0) -> onnx.ModelProto:
    """x (1, width) -> y (1, width)."""
    rng = np.random.default_rng(seed)
    nodes, weights, x = [], [], "x"
    for i in range(layers):
        w = (rng.standard_normal((width, width)) / np.sqrt(width)).astype(np.float32)
        weights.append(numpy_helper.from_array(w, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [x, f"w{i}"], [f"m{i}"], name=f"matmul{i}"))
        nodes.append(helper.make_node("Relu", [f"m{i}"], ["y" if i == layers - 1 else f"r{i}"], name=f"relu{i}"))
        x = f"r{i}"
    return model(nodes, weights, {"x": [1, width]}, {"y": [1, width]})


def model(nodes, weights, inputs: dict, outputs: dict, dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    def values(described):
        return [helper.make_tensor_value_info(name, dtype, shape) for name, shape in described.items()]

    graph = helper.make_graph(nodes, "net", values(inputs), values(outputs), weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def save(made: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "net.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def export_refused(folder: Path, code: int, *words: str, arguments: tuple = (), name: str = "net.onnx", **options) -> None:
    """`edgekit export` of folder/name is refused, and leaves the folder as it was."""
    before = sorted(folder.rglob("*"))
    done = edgekit("export", name, "-o", "out.ekb", "-t", "host", *arguments, cwd=folder, **options)
    refused(done, code, *words)
    assert sorted(folder.rglob("*")) == before


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A small bundle for the host, made through the command line."""
    folder = tmp_path_factory.mktemp("good")
    save(mlp(), folder)
    done = edgekit("export", "net.onnx", "-o", "net.ekb", "-t", "host", "--sparsity", 0.5, "--json", "-", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["targets"]
    return folder / "net.ekb"


# --- models -------------------------------------------------------------------------------------------------------


def test_an_unsupported_operator_is_named_with_its_node(tmp_path):
    node = helper.make_node("Det", ["x"], ["y"], name="determinant")
    save(model([node], [], {"x": [4, 4]}, {"y": []}), tmp_path)
    export_refused(tmp_path, 2, "Det", "determinant")


def test_an_operator_of_another_domain(tmp_path):
    made = model([helper.make_node("Mystery", ["x"], ["y"], name="m", domain="org.example")], [], {"x": [4]}, {"y": [4]})
    made.opset_import.append(helper.make_opsetid("org.example", 1))
    save(made, tmp_path)
    export_refused(tmp_path, 2, "Mystery", "org.example")


def test_a_dynamic_dimension_is_asked_for_by_name(tmp_path):
    node = helper.make_node("Relu", ["x"], ["y"], name="relu")
    save(model([node], [], {"x": ["people", 4]}, {"y": ["people", 4]}), tmp_path)
    export_refused(tmp_path, 2, "people", "--input-shape")


@pytest.mark.parametrize("given", ["x=1,5", "x=1", "other=1,4", "x=1,-4", "x=a,b", "x", "=3", "x=1,99999999999"])
def test_an_input_shape_that_does_not_fit(tmp_path, given):
    save(mlp(4), tmp_path)
    export_refused(tmp_path, 2, arguments=("--input-shape", given))


@pytest.mark.parametrize("dtype", ["COMPLEX64", "STRING", "BFLOAT16"])
def test_a_dtype_that_is_not_compiled(tmp_path, dtype):
    node = helper.make_node("Reshape", ["x", "shape"], ["y"], name="reshape")
    shape = numpy_helper.from_array(np.array([2, 2]), "shape")
    save(model([node], [shape], {"x": [4]}, {"y": [2, 2]}, getattr(TensorProto, dtype)), tmp_path)
    export_refused(tmp_path, 2, "x")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(tmp_path, value):
    made = mlp()
    weights = numpy_helper.to_array(made.graph.initializer[1]).copy()
    weights[3, 5] = value
    made.graph.initializer[1].CopyFrom(numpy_helper.from_array(weights, "w1"))
    save(made, tmp_path)
    export_refused(tmp_path, 2, "w1", "nan" if np.isnan(value) else "inf")


@pytest.mark.parametrize("keep", [0, 1, 100, -1000, -1])
def test_a_truncated_model(tmp_path, keep):
    whole = mlp().SerializeToString()
    (tmp_path / "net.onnx").write_bytes(whole[:keep])
    export_refused(tmp_path, 2, "net.onnx")


@pytest.mark.parametrize("content", [b"\0" * 64, b"not a model at all\n", bytes(range(256)) * 8, b"\x08" * 40])
def test_garbage_instead_of_a_model(tmp_path, content):
    (tmp_path / "net.onnx").write_bytes(content)
    export_refused(tmp_path, 2, "net.onnx")


def test_a_model_that_is_not_there(tmp_path):
    export_refused(tmp_path, 2, "net.onnx")


def test_a_folder_instead_of_a_model(tmp_path):
    (tmp_path / "net.onnx").mkdir()
    export_refused(tmp_path, 2, "net.onnx")


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "net.tflite").write_bytes(b"TFL3")
    export_refused(tmp_path, 2, "net.tflite", "onnx", name="net.tflite")


def test_a_pt2_file_asks_for_trust(tmp_path):
    (tmp_path / "net.pt2").write_bytes(b"PK\x03\x04")
    export_refused(tmp_path, 2, "--trust-model", name="net.pt2")


@pytest.mark.parametrize(
    "name", ["no_such_module:make", pytest.param("json:no_such_function", marks=pytest.mark.slow), "json:", ":make"]
)
def test_a_callable_that_is_not_there(tmp_path, name):
    export_refused(tmp_path, 2, name=name)


@pytest.mark.parametrize("where", ["../secret.bin", "sub/../../secret.bin", "ABSOLUTE", "link.bin"])
def test_external_data_outside_its_folder(tmp_path, where):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.ones((32, 32), np.float32).tobytes())
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "link.bin").symlink_to(secret)
    made = mlp()
    weight = made.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", str(secret) if where == "ABSOLUTE" else where
    save(made, folder)
    export_refused(folder, 2)


def test_external_data_that_is_not_there(tmp_path):
    made = mlp()
    weight = made.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", "absent.bin"
    save(made, tmp_path)
    export_refused(tmp_path, 2, "absent.bin")


# --- arguments ----------------------------------------------------------------------------------------------------


def test_an_unknown_target_names_those_there_are(tmp_path):
    save(mlp(), tmp_path)
    export_refused(tmp_path, 2, "toaster", "host", "arm64", "wasm", arguments=("-t", "toaster"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--sparsity", "1.5"), ("--sparsity", "-0.1"), ("--sparsity", "half"), ("--sparsity", "nan"),
        ("--group", "0"), ("--group", "many"), ("--dtype", "int3"), ("--state", "h"), ("--state", "no=such"),
        ("--no-such-option",), ("--calibration", "absent.npz"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_an_argument_that_makes_no_sense(tmp_path, arguments):
    save(mlp(), tmp_path)
    export_refused(tmp_path, 2, arguments=arguments)


@pytest.mark.parametrize("rule", ["p99<=", "p98.6<=3ms", "speed<=1ms", "p99<=10", "p99<=tenms", "p99>=-1ms"])
def test_a_budget_that_cannot_be_read(good, rule):
    refused(edgekit("bench", good, "--runs", 10, "--budget", rule, cwd=good.parent), 2, rule)


def test_no_verb_and_an_unknown_verb(tmp_path):
    refused(edgekit(cwd=tmp_path), 2, "usage", "VERB")
    refused(edgekit("explode", cwd=tmp_path), 2, "explode")


def test_an_existing_bundle_is_kept_unless_told(good, tmp_path):
    save(mlp(seed=1), tmp_path)
    out = tmp_path / "out.ekb"
    shutil.copytree(good, out)
    before = {p.name: p.read_bytes() for p in files(out)}
    export_refused(tmp_path, 2, "out.ekb", "--overwrite")
    assert {p.name: p.read_bytes() for p in files(out)} == before
    done = edgekit("export", "net.onnx", "-o", "out.ekb", "-t", "host", "--overwrite", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {p.name: p.read_bytes() for p in files(out)} != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "out.ekb"]


@pytest.mark.parametrize("arguments", [(), ("--overwrite",)])
def test_what_is_not_a_bundle_is_never_overwritten(tmp_path, arguments):
    save(mlp(), tmp_path)
    (tmp_path / "out.ekb").mkdir()
    (tmp_path / "out.ekb" / "precious.txt").write_text("mine")
    export_refused(tmp_path, 2, "out.ekb", arguments=arguments)
    assert (tmp_path / "out.ekb" / "precious.txt").read_text() == "mine"


def test_an_output_inside_a_file(tmp_path):
    save(mlp(), tmp_path)
    refused(edgekit("export", "net.onnx", "-o", "net.onnx/out.ekb", "-t", "host", cwd=tmp_path), 2, "net.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize("name", ["../up", *(pytest.param(n, marks=pytest.mark.slow) for n in ("/up", "a b", "int", "1st"))])
def test_a_name_that_is_no_name_harms_nothing(tmp_path, name):
    """It becomes a C identifier, in files and symbols alike."""
    save(mlp(8, 1), tmp_path)
    done = edgekit("export", "net.onnx", "-o", "out.ekb", "-t", "host", "--name", name, cwd=tmp_path)
    assert done.returncode in (0, 2) and "Traceback" not in done.stderr, done.stderr
    assert {p.name for p in tmp_path.iterdir()} <= {"net.onnx", "out.ekb"}
    assert not (tmp_path.parent / "up").exists()
    if done.returncode == 0:
        (y,) = ek.open(tmp_path / "out.ekb").run(np.ones((1, 8), np.float32))
        assert np.isfinite(y).all()


# --- what the machine lacks ---------------------------------------------------------------------------------------


def without(folder: Path, *packages: str) -> dict[str, str]:
    """An environment in which these packages are not installed."""
    site = folder / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(
        "import importlib.machinery, importlib.metadata, sys\n"
        f"absent = {packages!r}\n"
        "class Finder(importlib.machinery.PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        "        return None if name.partition('.')[0] in absent else super().find_spec(name, path, target)\n"
        "sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Finder\n"
        "found = importlib.metadata.distribution\n"
        "def distribution(name):\n"
        "    if name.removeprefix('apache-').replace('-', '_') in absent:\n"
        "        raise importlib.metadata.PackageNotFoundError(name)\n"
        "    return found(name)\n"
        "importlib.metadata.distribution = distribution\n"
    )
    return {"PYTHONPATH": str(site)}


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "tvm", "ziglang"])
def test_export_without_its_extra(tmp_path, package):
    save(mlp(), tmp_path)
    env = without(tmp_path, package)
    cold = env | {"EDGEKIT_CACHE": str(tmp_path / "site" / "cache")}  # a kernel in the cache needs no compiler
    done = edgekit("export", "net.onnx", "-o", "out.ekb", "-t", "host", cwd=tmp_path, env=cold)
    refused(done, 3, "pip install", "edgekit-deploy[export]")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "site"]


@pytest.mark.parametrize(("target", "package", "extra"), [("wasm", "wasmtime", "wasm"), ("arm64", "unicorn", "arm64")])
def test_verify_without_the_runner_of_a_target(tmp_path_factory, tmp_path, target, package, extra):
    save(mlp(), tmp_path)
    done = edgekit("export", "net.onnx", "-o", "net.ekb", "-t", "host", "-t", target, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = edgekit("verify", "net.ekb", "-t", target, cwd=tmp_path, env=without(tmp_path, package))
    refused(done, 3, "pip install", f"edgekit-deploy[{extra}]")


def test_bundles_need_no_extra(good, tmp_path):
    env = without(tmp_path, "onnx", "onnx_ir", "onnxruntime", "tvm", "tvm_ffi", "ziglang", "wasmtime", "unicorn", "torch")
    for verb in ("inspect", "verify"):
        done = edgekit(verb, good, "--json", "-", cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        json.loads(done.stdout)


# --- bundles ------------------------------------------------------------------------------------------------------


def files(bundle: Path) -> list[Path]:
    return sorted(p for p in bundle.rglob("*") if p.is_file())


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << position % 8
    path.write_bytes(content)


def test_one_flipped_byte_in_any_file_is_seen(good, tmp_path):
    chance = random.Random(3)
    for path in files(good):
        size = path.stat().st_size
        for position in {0, size - 1, *(chance.randrange(size) for _ in range(8))}:
            damaged = tmp_path / "net.ekb"
            shutil.copytree(good, damaged)
            flip(damaged / path.relative_to(good), position)
            with pytest.raises(errors.BundleError):
                ek.open(damaged)
            shutil.rmtree(damaged)


def test_every_byte_of_the_manifest_counts(good, tmp_path):
    damaged = tmp_path / "net.ekb"
    shutil.copytree(good, damaged)
    for name in ("manifest.json", "manifest.sha256"):
        whole = (damaged / name).read_bytes()
        for position in range(0, len(whole), max(1, len(whole) // 400)):
            flip(damaged / name, position)
            with pytest.raises(errors.BundleError):
                ek.open(damaged)
            (damaged / name).write_bytes(whole)
    ek.open(damaged)


@pytest.mark.parametrize("verb", ["verify", "bench", "inspect"])
@pytest.mark.parametrize("name", ["manifest.json", "weights.bin"])
def test_a_damaged_bundle_on_the_command_line(good, tmp_path, verb, name):
    damaged = tmp_path / "net.ekb"
    shutil.copytree(good, damaged)
    flip(damaged / name, 100)
    refused(edgekit(verb, damaged, cwd=tmp_path), 2, name.split(".")[0])


def test_a_bundle_without_one_of_its_files(good, tmp_path):
    for path in files(good):
        damaged = tmp_path / "net.ekb"
        shutil.copytree(good, damaged)
        (damaged / path.relative_to(good)).unlink()
        with pytest.raises(errors.BundleError):
            ek.open(damaged)
        shutil.rmtree(damaged)


@pytest.mark.parametrize("verb", ["verify", "bench", "inspect"])
@pytest.mark.parametrize("kind", ["absent", "empty folder", "text file", "not a zip"])
def test_what_is_no_bundle(tmp_path, verb, kind):
    path = tmp_path / "net.ekb"
    if kind == "empty folder":
        path.mkdir()
    elif kind != "absent":
        path.write_bytes(b"hello" if kind == "text file" else b"PK\x03\x04" + bytes(50))
    refused(edgekit(verb, path, cwd=tmp_path), 2, "net.ekb")


def test_a_target_that_the_bundle_lacks(good):
    refused(edgekit("verify", good, "-t", "wasm", cwd=good.parent), 2, "wasm", "host")


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((1, 31), np.float32), np.zeros((2, 32), np.float32), np.zeros(32, np.float32), np.zeros((1, 32), np.int32),
        np.zeros((1, 32), np.complex64), np.array([["a"] * 32]), None, "x",
    ],
    ids=lambda x: f"{getattr(x, 'dtype', type(x).__name__)}{getattr(x, 'shape', '')}",
)  # fmt: skip
def test_an_input_that_does_not_fit(good, x):
    bundle = ek.open(good)
    with pytest.raises(errors.InputError):
        bundle.run(x)
    with pytest.raises(errors.InputError):
        bundle.run({"z": np.zeros((1, 32), np.float32)})
    assert np.isfinite(bundle.run(np.ones((1, 32), np.float32))[0]).all(), "usable after a refusal"


# --- the disk, the user -------------------------------------------------------------------------------------------


@POSIX
@pytest.mark.parametrize("limit", [5000, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 1000, 20_000))])
def test_a_disk_that_fills(tmp_path, good, limit):
    """The export ran before, so what fails now is writing the bundle; once the disk is free again it succeeds."""
    import resource

    save(mlp(width=96), tmp_path)  # weights.bin alone is larger than any of the limits
    done = edgekit("export", "net.onnx", "-o", "first.ekb", "-t", "host", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path / "first.ekb")

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = edgekit("export", "net.onnx", "-o", "out.ekb", "-t", "host", cwd=tmp_path, preexec_fn=fill)
    assert done.returncode in (2, 3), done.stderr
    assert "Traceback" not in done.stderr and done.stderr.strip()
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]
    done = edgekit("export", "net.onnx", "-o", "out.ekb", "-t", "host", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@POSIX
@pytest.mark.parametrize("delay", [1.0, *(pytest.param(s, marks=pytest.mark.slow) for s in (0.0, 0.3, 3.0))])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_midway(tmp_path, delay, number):
    save(mlp(width=64, layers=4, seed=int(10 * delay)), tmp_path)
    (tmp_path / "temporary").mkdir()
    cache = {"EDGEKIT_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "temporary")}
    command = [*CLI, "export", "net.onnx", "-o", "out.ekb", "-t", "host", "-t", "arm64", "-t", "wasm"]
    options = environment(cwd=tmp_path, env=cache, text=True, start_new_session=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) as process:
        first = process.stderr.readline()  # it is at work
        assert first
        time.sleep(delay)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does: to the children too
        else:
            process.terminate()
        _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number, first + said
    assert "Traceback" not in said and "interrupted" in said.lower()
    assert {p.name for p in tmp_path.iterdir()} <= {"net.onnx", "cache", "temporary"}
    assert not list((tmp_path / "temporary").iterdir())
    with pytest.raises(ProcessLookupError):  # nobody of its group is left
        for _ in range(50):
            os.killpg(process.pid, 0)
            time.sleep(0.1)
