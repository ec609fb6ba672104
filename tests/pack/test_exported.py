"""The demo's networks, exported by the product itself, in every form that runs here."""
import shutil
import subprocess
from pathlib import Path

import pytest

import edgekit as ek
from edgekit.pack import pack

pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["forecaster", "policy"])
def test_selftests(name, tmp_path):
    pytest.importorskip("ziglang", reason="needs the [export] extra")
    ek.export(Path(ek.__file__).parent / "demo" / f"{name}.onnx", targets=["host", "wasm"], sparsity=0.5, output=tmp_path / "m.ekb").close()
    ran = 0
    for form in ("cmake", "ros2") if shutil.which("cmake") and shutil.which("g++") else ():
        pack(tmp_path / "m.ekb", form, tmp_path / form)
        run("cmake", "-S", form, "-B", f"{form}-build", cwd=tmp_path)
        run("cmake", "--build", f"{form}-build", cwd=tmp_path)
        assert "100% tests passed" in run("ctest", "--test-dir", f"{form}-build", "--no-tests=error", cwd=tmp_path)
        ran += 1
    if shutil.which("node"):
        pack(tmp_path / "m.ekb", "npm", tmp_path / "npm")
        assert ": ok, " in run("node", "test.mjs", cwd=tmp_path / "npm")
        ran += 1
    if not ran:
        pytest.skip("no CMake and no Node here")
