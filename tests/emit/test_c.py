"""The C interface from C: check.c is built as apps build, by zig cc and by gcc, plain and with sanitizers, and run."""
import platform
import shutil
import subprocess
import sys
from dataclasses import replace
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
        kernels = tiny.compiled(tmp_path, host, name)[0].symbols
        (tmp_path / f"{name}.c").write_text(c_source.source(tiny.plan(name), [c_source.Level(kernels)]))
        (tmp_path / f"{name}_kernels.c").write_text(tiny.KERNELS_C.replace("P_", f"{name}_"))
    generated = [tmp_path / f"{n}{k}.c" for n in ("tiny", "other") for k in ("", "_kernels")]
    subprocess.run([*command, "-std=c11", "-D_POSIX_C_SOURCE=200809L", *STRICT, *flags(two), f"-I{tiny.ABI}",
                    HERE / "check.c", *generated, two / "tiny" / "src" / "ek_threads.c", "-o", tmp_path / "check"],
                   check=True)
    check(tmp_path / "check", two)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="cpuid")
@pytest.mark.parametrize("lacking", ["feature", "register state"])
def test_a_processor_that_lacks_something(two, tmp_path, lacking):
    """A cpuid leaf that no processor has, or registers that no system saves: the next level runs, in `level` too; without
    one EK_CPU, before anything is read."""
    kernels = tiny.compiled(tmp_path, load("host"))[0].symbols
    wrong = {k: replace(s, name=s.name.replace("tiny_k1", "tiny_k0")) for k, s in kernels.items()}  # adds where it should multiply

    def without(levels: list[c_source.Level]) -> str:
        text = c_source.source(tiny.plan("tiny"), levels)
        before, after = {"feature": ("{0x1u, 0, 2, 0}", "{0x7fffffffu, 0, 2, 0}"),
                         "register state": ("ek_cpu_0, 1, 0x0}", "ek_cpu_0, 1, 0x80000000}")}[lacking]
        assert text.count(before) == 1
        return text.replace(before, after)
    best, plain = c_source.Level(wrong, ("sse3",)), c_source.Level(kernels)
    assert _run(tmp_path, two, without([best])) == 100 + 14
    assert _run(tmp_path, two, without([best, plain, c_source.Level(wrong)])) == 0
    assert _run(tmp_path, two, c_source.source(tiny.plan("tiny"), [best, plain, plain])) == 1, "the wrong kernel shows"


def _run(tmp_path: Path, two: Path, source: str) -> int:
    """What a program around this source of tiny returns: 100 + the status of init, or 0 where level 1 has been chosen,
    level 0 is refused, and level 2 computes a sum where level 1 computes the product."""
    (tmp_path / "tiny.c").write_text(source)
    (tmp_path / "main.c").write_text("""
#include <stdio.h>
#include "tiny.h"
int main(int argc, char **argv)
{
    tiny m;
    _Alignas(64) static unsigned char weights[TINY_WEIGHTS_BYTES], arena[TINY_ARENA_BYTES];
    const float x[4] = {1, 2, 3, 4};
    float y[4];
    FILE *f = fopen(argv[argc - 1], "rb");
    size_t got = fread(weights, 1, sizeof weights, f);
    ek_status status = tiny_init(&m, weights, got, arena, sizeof arena, NULL);
    if (status != EK_OK) return 100 + (int)status;
    if (tiny_predict_in(&m, x, y) != EK_OK || y[3] != 16) return 1;
    if (tiny_level(&m, 0) != EK_CPU || tiny_level(&m, 3) != EK_RANGE) return 2;
    if (tiny_level(&m, 2) != EK_OK || tiny_predict_in(&m, x, y) != EK_OK || y[3] != 8) return 3;
    if (tiny_level(&m, 1) != EK_OK || tiny_predict_in(&m, x, y) != EK_OK || y[3] != 16) return 4;
    return 0;
}
""")
    zig("cc", "-std=c11", "-O1", *flags(two), f"-I{tiny.ABI}", tmp_path / "main.c", tmp_path / "tiny.c",
        tmp_path / "host.o", "-o", tmp_path / "a")
    return subprocess.run([tmp_path / "a", two / "tiny" / "weights.bin"], check=False).returncode
