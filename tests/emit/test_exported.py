"""Real bundles from C: the demo's networks in one C99 program that checks itself on their vectors."""
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

import edgekit as ek
from edgekit.exporters.emit.zig import zig
from edgekit.runtimes.abi import symbols

HERE = Path(__file__).parent
DEMO = Path(ek.__file__).parent / "demo"
MODELS = ("forecaster", "policy")
STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic"]
MEMORY = {"memcpy", "memmove", "memset", "memcmp"}
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="vectors.c uses POSIX memory")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Both networks for three targets, half of their weights pruned."""
    pytest.importorskip("ziglang", reason="needs the [export] extra")
    folder = tmp_path_factory.mktemp("bundles")
    for name in MODELS:
        ek.export(DEMO / f"{name}.onnx", targets=["host", "arm64", "wasm"], sparsity=0.5, name=name,
                  output=folder / f"{name}.ekb").close()
    return folder


@pytest.fixture(scope="module")
def program(bundles, tmp_path_factory):
    """(folder with models.h, compiler arguments, arguments of the program)."""
    folder = tmp_path_factory.mktemp("program")
    text, arguments = "", []
    for name in MODELS:
        bundle = ek.open(bundles / f"{name}.ekb")
        entry, vectors = bundle.manifest["entries"][0], np.load(bundles / f"{name}.ekb" / "vectors.npz")
        text += f'#include "{name}.h"\n'
        for kind, ports in (("in", entry["inputs"]), ("out", entry["outputs"])):
            assert all(p["dtype"] == "float32" for p in ports)
            rows = ", ".join(f"{{NULL, {4 * int(np.prod(p['shape']))}, EK_FLOAT32}}" for p in ports)
            text += f"static const ek_view {name}_{kind}[] = {{{rows}}};\nenum {{ {name}_n_{kind} = {len(ports)} }};\n"
        arrays = [vectors[f"in_{p['name']}"] for p in entry["inputs"]]
        arrays += [vectors[f"expected_{p['name']}"] for p in entry["outputs"]]
        raw = folder / f"{name}.bin"
        raw.write_bytes(b"".join(a[case].tobytes() for case in range(len(arrays[0])) for a in arrays))
        arguments += [bundles / f"{name}.ekb" / "weights.bin", raw]
        bundle.close()
    text += "#define MODELS(X) " + " ".join(f"X({n}, {n.upper()})" for n in MODELS) + "\n"
    (folder / "models.h").write_text(text)
    return folder, arguments


def build(bundles: Path, folder: Path) -> list[str | Path]:
    includes = [f"-I{folder}", *(f"-I{bundles / f'{n}.ekb' / 'include'}" for n in MODELS)]
    return [*includes, HERE / "vectors.c", *(bundles / f"{n}.ekb" / "host" / f"lib{n}.a" for n in MODELS), "-lm"]


def run(made: Path, arguments: list[Path]) -> subprocess.CompletedProcess:
    return subprocess.run([made, *arguments], capture_output=True, text=True, timeout=120, check=False)


def test_with_zig(bundles, program, tmp_path):
    folder, arguments = program
    zig("cc", "-std=c99", "-O1", *STRICT, *build(bundles, folder), "-o", tmp_path / "app")
    done = run(tmp_path / "app", arguments)
    assert done.returncode == 0, done.stderr
    wrong = bytearray(arguments[1].read_bytes())
    wrong[-4:] = np.float32(1e6).tobytes()
    (tmp_path / "wrong.bin").write_bytes(wrong)
    assert run(tmp_path / "app", [arguments[0], tmp_path / "wrong.bin", *arguments[2:]]).returncode == 6, "it does compare"


@pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc here")
def test_with_gcc(bundles, program, tmp_path):
    folder, arguments = program
    subprocess.run(["gcc", "-std=c99", "-O2", *STRICT, *build(bundles, folder), "-o", tmp_path / "app"], check=True)
    done = run(tmp_path / "app", arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", MODELS)
def test_symbol_tables_of_all_targets(bundles, name):
    """Nothing without the model's prefix goes out, and nothing but memory functions is wanted."""
    for target, library in (("host", f"lib{name}.so"), ("arm64", f"lib{name}.so"), ("wasm", f"{name}.wasm")):
        folder = bundles / f"{name}.ekb" / target
        static, shared = (symbols.read((folder / f).read_bytes()) for f in (f"lib{name}.a", library))
        assert any(s.endswith("_k0") for s in static.defined) and f"{name}_run" in static.defined
        assert [s for s in static.defined if not s.startswith(f"{name}_")] == []
        assert static.undefined <= MEMORY
        others = {"memory", "__heap_base", "__stack_pointer"} if target == "wasm" else set()
        assert shared.undefined == set() and {s for s in shared.defined if not s.startswith(f"{name}_")} == others
        assert f"{name}_k0" not in shared.defined


def test_no_place_of_this_machine_is_shipped(bundles):
    places = [str(Path(tempfile.gettempdir()) / "edgekit-").encode(), str(bundles).encode()]
    for path in (p for p in bundles.rglob("*") if p.is_file()):
        assert not any(place in path.read_bytes() for place in places), path
