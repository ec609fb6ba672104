"""Where a command stands: the current folder's files, the standard streams, the cache, and who is told of the model."""
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

POSIX = pytest.mark.skipif(os.name != "posix", reason="file descriptors of POSIX")


@pytest.fixture
def net(tmp_path) -> Path:
    """The path of a model x (1, 8) -> y (1, 8), in a folder of its own."""
    weights = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "net", ports[:1], ports[1:],
                              [numpy_helper.from_array(weights, "w")])
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def edgekit(*arguments: object, cwd: Path, env: dict[str, str] | None = None, **options) -> subprocess.CompletedProcess:
    """What the installed command does: `-P`, for `-m` alone would look for modules in the current folder."""
    root = str(Path(__file__).resolve().parents[2])
    streams = {} if {"stdout", "preexec_fn"} & options.keys() else {"stdout": subprocess.PIPE}
    return subprocess.run([sys.executable, "-P", "-m", "edgekit", *map(str, arguments)], cwd=cwd, text=True, timeout=300,
                          env=os.environ | {"PYTHONPATH": root} | (env or {}), check=False,
                          **({"stderr": subprocess.PIPE} | streams | options))


def test_files_of_the_current_folder_are_not_imported(net):
    folder = net.parent / "here"
    folder.mkdir()
    for name in ("edgekit", "enum", "json", "numpy", "onnx", "onnxruntime", "subprocess", "tvm", "typing", "ziglang"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name} of the current folder')")
    cold = {"EDGEKIT_CACHE": str(net.parent / "cache")}
    done = edgekit("export", net, "-o", "out.ekb", cwd=folder, env=cold)
    assert done.returncode == 0, done.stderr
    done = edgekit("export", "nosuch:thing", "-o", "other.ekb", cwd=folder)
    assert done.returncode in (2, 3) and "of the current folder" not in done.stderr


@POSIX
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_standard_streams(net, closed):
    """Nothing is printed into a file that got the number of a closed stream."""
    def close() -> None:
        for number in closed:
            os.close(number)
    done = edgekit("export", net, "-o", "out.ekb", "--json", "-", cwd=net.parent, preexec_fn=close)
    assert done.returncode == 0, done.stderr
    done = edgekit("verify", "out.ekb", cwd=net.parent)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("arguments", [(), ("--json", "-")])
def test_standard_output_on_a_full_disk(net, arguments):
    with open("/dev/full", "w") as full:
        done = edgekit("targets", *arguments, cwd=net.parent, stdout=full)
    assert done.returncode == 2 and "No space left" in done.stderr and "Traceback" not in done.stderr


def test_a_result_that_cannot_be_written_names_its_place(net):
    done = edgekit("targets", "--json", "nosuch/targets.json", cwd=net.parent)
    assert done.returncode == 2 and "error: nosuch/targets.json: cannot be written" in done.stderr.replace("\\", "/")


def test_a_cache_that_cannot_be_written(net):
    (net.parent / "cache").write_text("a file")
    done = edgekit("export", net, "-o", "out.ekb", cwd=net.parent, env={"EDGEKIT_CACHE": str(net.parent / "cache")})
    assert done.returncode == 2 and "set EDGEKIT_CACHE" in done.stderr and not (net.parent / "out.ekb").exists()


@pytest.mark.parametrize("name", ["x" * 300, "edgekit", "string"])
def test_names_that_files_or_headers_cannot_have(net, name):
    done = edgekit("export", net, "-o", "out.ekb", "--name", name, "--json", "-", cwd=net.parent)
    assert done.returncode == 0, done.stderr
    headers = {p.name for p in (net.parent / "out.ekb" / "include").iterdir()}
    assert len(headers) == 3 and "string.h" not in headers
    assert 0 < len(json.loads(done.stdout)["name"]) <= 200


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="where onnxruntime keeps its identifier differs")
def test_onnxruntime_tells_nobody_of_the_model(net):
    """Its official builds report models to its maker, and keep an identifier of the machine in the user's cache folder."""
    home, scratch = net.parent / "home", net.parent / "tmp"
    for folder in (home, scratch):
        folder.mkdir()
    env = {"HOME": str(home), "TMPDIR": str(scratch)}
    env |= {name: "" for name in ("CI", "ORT_RUNNING_UNIT_TESTS", "XDG_CACHE_HOME") if name in os.environ}
    done = edgekit("export", net, "-o", "out.ekb", cwd=net.parent, env=env)
    assert done.returncode == 0, done.stderr
    assert not (home / ".cache" / "Microsoft").exists() and not list(scratch.iterdir())


MEMORY = """
import sys
import numpy as np
import edgekit as ek

def peak():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))
bare = peak()
with ek.open("out.ekb") as bundle:
    for _ in range(3):
        bundle.run(np.ones((64, 2048), np.float32))
    print(peak() - bare, bundle.manifest["weights_bytes"] + bundle.manifest["arena_bytes"])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_a_session_takes_the_memory_of_weights_and_arena(tmp_path):
    """Weights are mapped, not read; inputs and outputs are copied once: 4 MiB over weights and arena, at most."""
    weights = numpy_helper.from_array(np.ones((2048, 2048), np.float32), "w")
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 2048]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "net", ports[:1], ports[1:], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "net.onnx")
    assert edgekit("export", "net.onnx", "-o", "out.ekb", cwd=tmp_path).returncode == 0
    env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    run = subprocess.run([sys.executable, "-c", MEMORY], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    taken, wanted = map(int, run.stdout.split())
    assert 16 << 20 < taken <= wanted + (4 << 20), (taken, wanted)
