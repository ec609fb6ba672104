"""The CMake form, built and run: as a project, installed, in another project, and from C++."""
import shutil
import subprocess
from pathlib import Path

import pytest

from edgekit.pack import pack
from edgekit.runtimes.abi import bundle
from edgekit.runtimes.abi.names import model_name

STRICT = "-Wall -Wextra -Werror -pedantic"
needs_cmake = pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("g++")), reason="no cmake or g++ here")


def run(*command: object, cwd: Path, ok: bool = True) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def packed(either, tmp_path) -> tuple[Path, str]:
    pack(either, "cmake", tmp_path / "packed")
    return tmp_path / "packed", model_name(bundle.read(either).manifest["name"])


@needs_cmake
def test_selftest_and_install(packed, tmp_path):
    folder, name = packed
    run("cmake", "-S", folder, "-B", "build", f"-DCMAKE_C_FLAGS={STRICT}", "-DCMAKE_BUILD_TYPE=Release", cwd=tmp_path)
    run("cmake", "--build", "build", cwd=tmp_path)
    assert "100% tests passed" in run("ctest", "--test-dir", "build", "--no-tests=error", cwd=tmp_path)
    said = run(f"build/{name}_selftest", folder / f"share/{name}/weights.bin", folder / "test/vectors", cwd=tmp_path)
    assert said.count(": ok, ") == 5 and "WRONG" not in said
    run("cmake", "--install", "build", "--prefix", tmp_path / "prefix", cwd=tmp_path)
    app = tmp_path / "app"
    app.mkdir()
    (app / "main.cpp").write_text(f"""
#include "{name}.hpp"
int main(int, char **argv)
{{
    edgekit_{name}::Model model(argv[1]), moved(std::move(model));
    moved.reset();
    moved.restore(moved.save());
    try {{
        moved.restore(std::vector<unsigned char>(moved.save().size()));
    }} catch (const edgekit_{name}::Error &e) {{
        return e.status() != EK_STATE;
    }}
    return 1;
}}
""")
    (app / "CMakeLists.txt").write_text(f"""
cmake_minimum_required(VERSION 3.16)
project(app CXX)
enable_testing()
find_package({name} REQUIRED)
add_executable(app main.cpp)
target_compile_features(app PRIVATE cxx_std_17)
target_link_libraries(app PRIVATE {name}::{name})
add_test(NAME app COMMAND app "${{{name}_WEIGHTS}}")
""")
    run("cmake", "-S", app, "-B", "app-build", f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}",
        f"-DCMAKE_CXX_FLAGS={STRICT}", cwd=tmp_path)
    run("cmake", "--build", "app-build", cwd=tmp_path)
    assert "100% tests passed" in run("ctest", "--test-dir", "app-build", "--no-tests=error", cwd=tmp_path)
    assert not list(tmp_path.rglob("pwned"))


@needs_cmake
def test_the_selftest_can_fail(plain, tmp_path):
    pack(plain, "cmake", tmp_path / "packed")
    share, vectors = tmp_path / "packed/share/tiny", tmp_path / "packed/test/vectors"
    run("cmake", "-S", "packed", "-B", "build", cwd=tmp_path)
    run("cmake", "--build", "build", cwd=tmp_path)

    def selftest() -> tuple[int, str]:
        done = subprocess.run([tmp_path / "build/tiny_selftest", share / "weights.bin", vectors], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    good = (vectors / "run.bin").read_bytes()
    for at, byte in ((4 * 4 + 8 + 2 + 3, 0x7f), (len(good) - 1, good[-1] ^ 1), (len(good) - 10, good[-10] ^ 1)):  # float, bool, int64
        (vectors / "run.bin").write_bytes(good[:at] + bytes([byte]) + good[at + 1:])
        code, said = selftest()
        assert code == 1 and said.count("WRONG") == 1
    (vectors / "run.bin").write_bytes(good[:-1])
    assert selftest()[0] == 2 and "too short" in selftest()[1]
    (vectors / "run.bin").write_bytes(good + b"x")
    assert selftest()[0] == 2 and "too long" in selftest()[1]
    (vectors / "run.bin").write_bytes(good)
    assert selftest()[0] == 0
    weights = bytearray((share / "weights.bin").read_bytes())
    weights[100] ^= 1
    (share / "weights.bin").write_bytes(weights)
    assert selftest()[0] == 2 and "damaged" in selftest()[1]


@needs_cmake
def test_libraries_by_platform(plain, tmp_path):
    """A platform without a library is told so; one can be chosen by name."""
    pack(plain, "cmake", tmp_path / "packed")
    script = tmp_path / "which.cmake"
    script.write_text("""
function(add_library)
endfunction()
function(set_target_properties)
  message("linked: ${ARGV3}")
endfunction()
include("${FOLDER}/lib/cmake/tiny/tinyConfig.cmake")
message("${tiny_NOT_FOUND_MESSAGE}")
""")

    def linked(system: str, processor: str, *more: str) -> str:
        return run("cmake", f"-DFOLDER={tmp_path / 'packed'}", f"-DCMAKE_SYSTEM_NAME={system}",
                   f"-DCMAKE_SYSTEM_PROCESSOR={processor}", *more, "-P", script, cwd=tmp_path)

    for system, processor, target in (("Linux", "x86_64", "host"), ("Linux", "aarch64", "arm64"), ("Android", "aarch64", "android-arm64"),
                                      ("Android", "x86_64", "android-x64"), ("Darwin", "arm64", "macos-arm64"), ("iOS", "", "ios-arm64")):
        assert f"lib/tiny/{target}/libtiny.a" in linked(system, processor)
    for system, processor in (("Linux", "riscv64"), ("Windows", "AMD64"), ("Linux", "x86_64-aarch64")):
        said = linked(system, processor)
        assert "linked" not in said and f"no library for {system} on {processor}" in said and "arm64 (Linux aarch64)" in said
    assert "lib/tiny/arm64/" in linked("Linux", "x86_64", "-Dtiny_LIBRARY=arm64")
    assert "no library" in linked("Linux", "x86_64", "-Dtiny_LIBRARY=wasm")
