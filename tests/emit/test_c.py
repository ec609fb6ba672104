"""The C interface from C: check.c is built as apps build, by zig cc and by gcc, plain and with sanitizers, and run."""
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.exporters.emit import c_source
from edgekit.exporters.emit.zig import zig
from edgekit.runtimes.abi import symbols
from edgekit.targets import load
from tests.emit import tiny

HERE = Path(__file__).parent
STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic"]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="check.c uses POSIX threads")
needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc here")


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """Folders tiny and other, each as in a bundle."""
    folder = tmp_path_factory.mktemp("two")
    tiny.emit(folder / "tiny")
    tiny.emit(folder / "other", name="other", scale=10)
    return folder


def flags(two: Path) -> list[str]:
    return [f"-I{two / 'tiny' / 'include'}", f"-I{two / 'other' / 'include'}", "-pthread"]


def libraries(two: Path) -> list[Path]:
    return [two / "tiny" / "host" / "libtiny.a", two / "other" / "host" / "libother.a"]


def check(program: Path, two: Path) -> None:
    run = subprocess.run([program, two / "tiny" / "weights.bin", two / "other" / "weights.bin"], capture_output=True,
                         text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_c99_with_zig(two, tmp_path):
    pool = two / "tiny" / "src" / "ek_threads.c"
    zig("cc", "-c", "-std=c11", "-O2", *STRICT, *flags(two), pool, "-o", tmp_path / "pool.o")
    zig("cc", "-std=c99", "-O1", *STRICT, *flags(two), HERE / "check.c", tmp_path / "pool.o", *libraries(two),
        "-o", tmp_path / "check")
    check(tmp_path / "check", two)


def test_cpp_with_zig(two, tmp_path):
    (tmp_path / "app.cpp").write_text("""
#include "ek_threads.h"
#include "other.h"
#include "tiny.h"
int main()
{
    tiny m = tiny();
    other o = other();
    const float x[4] = {1, 2, 3, 4};
    float y[4];
    return tiny_predict_in(&m, x, y) == EK_NOT_INITIALIZED && other_predict_in(&o, x, y) == EK_NOT_INITIALIZED ? 0 : 1;
}
""")
    for standard in ("c++11", "c++20"):
        zig("cc", "-x", "c++", f"-std={standard}", "-nostdinc++", "-O1", *STRICT, *flags(two)[:2],
            "-c", tmp_path / "app.cpp", "-o", tmp_path / "app.o")
        assert {"tiny_run_in", "other_run_in"} <= symbols.read((tmp_path / "app.o").read_bytes()).undefined


@needs_gcc
@pytest.mark.parametrize("optimise", ["-O0", "-O3"])
def test_c99_with_gcc(two, tmp_path, optimise):
    pool = two / "tiny" / "src" / "ek_threads.c"
    subprocess.run(["gcc", "-c", "-std=c11", "-O2", *STRICT, *flags(two), pool, "-o", tmp_path / "pool.o"], check=True)
    subprocess.run(["gcc", "-std=c99", optimise, *STRICT, *flags(two), HERE / "check.c", tmp_path / "pool.o",
                    *libraries(two), "-o", tmp_path / "check"], check=True)
    check(tmp_path / "check", two)


@needs_gcc
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_sanitizers_find_nothing(two, tmp_path, sanitizer):
    """The runtime, the generated code and the pool, compiled by gcc with every access watched."""
    trial = tmp_path / "trial.c"
    trial.write_text("int main(void) { return 0; }")
    command = ["gcc", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-g", "-O1"]
    if subprocess.run([*command, trial, "-o", tmp_path / "trial"], capture_output=True, check=False).returncode \
            or subprocess.run([tmp_path / "trial"], capture_output=True, check=False).returncode:
        pytest.skip(f"-fsanitize={sanitizer} does not work here")
    for name in ("tiny", "other"):
        host = load("host")
        kernels = tiny.compiled(tmp_path, host, name).symbols
        (tmp_path / f"{name}.c").write_text(c_source.source(tiny.plan(name), kernels, ()))
        (tmp_path / f"{name}_kernels.c").write_text(tiny.KERNELS_C.replace("P_", f"{name}_"))
    generated = [tmp_path / f"{n}{k}.c" for n in ("tiny", "other") for k in ("", "_kernels")]
    subprocess.run([*command, "-std=c11", "-D_POSIX_C_SOURCE=200809L", *STRICT, *flags(two), f"-I{tiny.ABI}",
                    HERE / "check.c", *generated, two / "tiny" / "src" / "ek_threads.c", "-o", tmp_path / "check"],
                   check=True)
    check(tmp_path / "check", two)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="cpuid")
@pytest.mark.parametrize("lacking", ["feature", "register state"])
def test_a_processor_that_lacks_something(two, tmp_path, lacking):
    """A cpuid leaf that no processor has, or registers that no system saves: EK_CPU, before anything is read."""
    text = c_source.source(tiny.plan("tiny"), tiny.compiled(tmp_path, load("host")).symbols, ["sse3"])
    before, after = {"feature": ("{0x1u, 0, 2, 0}", "{0x7fffffffu, 0, 2, 0}"),
                     "register state": ("1, 0x0,\n};", "1, 0x80000000,\n};")}[lacking]
    assert text.count(before) == 1
    text = text.replace(before, after)
    (tmp_path / "tiny.c").write_text(text)
    (tmp_path / "main.c").write_text("""
#include <stdlib.h>
#include "tiny.h"
int main(void)
{
    tiny m;
    _Alignas(64) static unsigned char weights[TINY_WEIGHTS_BYTES], arena[TINY_ARENA_BYTES];
    return tiny_init(&m, weights, sizeof weights, arena, sizeof arena, NULL) == EK_CPU ? 0 : 1;
}
""")
    zig("cc", "-std=c11", "-O1", *flags(two), f"-I{tiny.ABI}", tmp_path / "main.c", tmp_path / "tiny.c",
        tmp_path / "host.o", "-o", tmp_path / "a")
    assert subprocess.run([tmp_path / "a"], check=False).returncode == 0
