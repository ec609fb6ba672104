"""The emulated device and the wasm sandbox, under small C libraries: memory, calls, counts, faults, deaths."""
import os
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.errors import BundleError, MissingToolError, RuntimeStatusError
from edgekit.runtimes import arm, elf, wasm

pytest.importorskip("ziglang", reason="needs the [export] extra to compile its test libraries")

SOURCE = """
#include <stdint.h>
int add(int a, int b) { return a + b; }
int sum(const int *a, int n) { int s = 0; for (int i = 0; i < n; i++) s += a[i]; return s; }
int scale(const float *x, float *y, int n, float *z) { for (int i = 0; i < n; i++) y[i] = x[i] * 2.5f; return z == 0; }
static int one(int x) { return x + 1; }
static int two(int x) { return x + 2; }
int (*const table[])(int) = {one, two};
int pick(int k, int x) { return table[k](x); }
int peek(const int *p) { return *(const volatile int *)p; }
int poke(int *p) { *(volatile int *)p = 7; return 0; }
int forever(int x) { for (;;) __asm__ volatile(""); return x; }
int trap(void) { __builtin_trap(); return 0; }
int deep(int n) { volatile int x[100]; x[0] = n; return deep(n + 1) + x[0]; }
"""
COUNTED = """
.globl counted
.type counted, %function
counted:                   // 1 + 3 * x0 + 2 instructions
    mov x1, xzr
1:  add x1, x1, #2
    subs x0, x0, #1
    b.ne 1b
    mov x0, x1
    ret
"""


def zig(*args) -> None:
    subprocess.run([sys.executable, "-m", "ziglang", "cc", *map(str, args)], check=True, capture_output=True)


def shared_library(path: Path, source: str, *args: str) -> bytes:
    path.write_text(source)
    zig("-target", "aarch64-linux-gnu", "-O1", "-fno-builtin", "-shared", "-nostdlib", *args,
        "-o", path.with_suffix(".so"), path)
    return path.with_suffix(".so").read_bytes()


def wasm_module(path: Path, source: str, *args: str) -> bytes:
    path.write_text(source)
    names = re.findall(r"^int (\w+)\(", source, re.MULTILINE)
    zig("-target", "wasm32-freestanding", "-O1", "-fno-builtin", "-nostdlib", "-Wl,--no-entry",
        "-Wl,--export=__heap_base", *(f"-Wl,--export={n}" for n in names), *args, "-o", path.with_suffix(".wasm"), path)
    return path.with_suffix(".wasm").read_bytes()


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> bytes:
    return shared_library(tmp_path_factory.mktemp("arm") / "k.c", SOURCE)


@pytest.fixture(scope="module")
def module(tmp_path_factory) -> bytes:
    return wasm_module(tmp_path_factory.mktemp("wasm") / "k.c", SOURCE)


@pytest.fixture(params=["arm", "wasm"])
def machine(request):
    pytest.importorskip({"arm": "unicorn", "wasm": "wasmtime"}[request.param])
    made = (arm.Emulator(request.getfixturevalue("library"), limit=2.0) if request.param == "arm"
            else wasm.Sandbox(request.getfixturevalue("module")))
    yield made
    made.close()


def test_calls_memory_and_function_tables(machine):
    assert machine.call("add", 40, 2) == 42
    assert machine.call("add", -40, 2) == -38
    assert [machine.call("pick", k, 40) for k in (0, 1)] == [41, 42]  # a table of pointers needs relocations
    a = machine.alloc(4000, struct.pack("<1000i", *range(1000)), writable=False)
    b = machine.alloc(400)
    assert a % 64 == b % 64 == 0 and b != a
    assert machine.call("sum", a, 1000) == 499500
    assert machine.read(b, 400) == bytes(400)
    machine.write(b + 4, struct.pack("<f", 3.0))
    assert machine.call("scale", b, b + 100, 2, 0) == 1
    assert struct.unpack("<2f", machine.read(b + 100, 8)) == (0.0, 7.5)


def test_memory_grows(machine):
    first = machine.alloc(10)
    big = machine.alloc(50 << 20)
    machine.write(big + (50 << 20) - 4, b"\1\0\0\0")
    assert machine.call("peek", big + (50 << 20) - 4) == 1
    assert machine.read(first, 10) == bytes(10)


@pytest.mark.parametrize("symbol,args", [("peek", (-4096,)), ("trap", ()), ("deep", (1,))])
def test_a_fault_is_an_error_and_the_machine_lives_on(machine, symbol, args):
    with pytest.raises(RuntimeStatusError) as e:
        machine.call(symbol, *args)
    assert e.value.status == "FAULT" and "stopped" in e.value.what
    assert machine.call("add", 1, 2) == 3


def test_unknown_function(machine):
    with pytest.raises(BundleError, match="no function 'nothing'"):
        machine.call("nothing")


def test_arm_faults_say_where(library):
    emulator = arm.Emulator(library)
    for symbol, address in (("peek", 0), ("poke", 0)):
        with pytest.raises(RuntimeStatusError, match=rf"in {symbol}\+0x"):
            emulator.call(symbol, address)
    constant = emulator.alloc(4, b"\1\2\3\4", writable=False)
    with pytest.raises(RuntimeStatusError, match="poke.*write-protected"):
        emulator.call("poke", constant)
    end = emulator.alloc(elf.PAGE) + elf.PAGE
    with pytest.raises(RuntimeStatusError, match="peek"):  # the page behind every region faults
        emulator.call("peek", end)
    emulator.close()


def test_arm_time_limit(library):
    emulator = arm.Emulator(library, limit=0.2)
    with pytest.raises(RuntimeStatusError, match="did not end within 0.2 s"):
        emulator.call("forever", 1)
    assert emulator.call("add", 1, 2) == 3
    emulator.close()


def test_arm_counts_are_exact(tmp_path):
    path = tmp_path / "counted.s"
    path.write_text(COUNTED)
    zig("-target", "aarch64-linux-gnu", "-shared", "-nostdlib", "-o", tmp_path / "counted.so", path)
    emulator = arm.Emulator((tmp_path / "counted.so").read_bytes())
    assert emulator.call("counted", 10) == 20  # translated once without the counter
    assert emulator.count("counted", 1) == (2, 6)
    assert emulator.count("counted", 1000) == (2000, 3003)
    assert emulator.call("counted", 5) == 10
    assert emulator.count("counted", 10) == (20, 33)
    emulator.close()


def test_arm_killed_child(library):
    emulator = arm.Emulator(library)
    os.kill(emulator._child.pid, signal.SIGKILL)
    with pytest.raises(RuntimeStatusError, match="process ended") as e:
        emulator.call("add", 1, 2)
    assert e.value.status == "DIED"
    with pytest.raises(RuntimeStatusError, match="closed"):
        emulator.call("add", 1, 2)
    emulator.close()


def test_ctrl_c_reaches_the_parent_only(library):
    """A terminal sends it to both; the parent decides what becomes of the child."""
    emulator = arm.Emulator(library)
    os.kill(emulator._child.pid, signal.SIGINT)
    assert emulator.call("add", 1, 2) == 3
    emulator.close()


def test_arm_child_that_hangs_is_ended(library, monkeypatch):
    emulator = arm.Emulator(library, limit=0.2)
    monkeypatch.setattr(arm, "GRACE", 0.1)
    os.kill(emulator._child.pid, signal.SIGSTOP)
    with pytest.raises(RuntimeStatusError, match="process ended"):
        emulator.call("add", 1, 2)
    assert emulator._child.returncode is not None


def test_arm_child_that_cannot_start_says_why(library, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeStatusError, match=r"process ended \(exit code 1\)"):
        arm.Emulator(library)


def test_arm_closed_by_garbage_collection(library):
    emulator = arm.Emulator(library)
    child = emulator._child
    del emulator
    assert child.returncode is not None


def test_the_parent_never_imports_the_emulator(library):
    text = "import sys; from edgekit.runtimes.arm import Emulator; e = Emulator(open(sys.argv[1], 'rb').read()); "
    text += "assert e.call('add', 1, 2) == 3; assert 'unicorn' not in sys.modules"
    with open(os.environ.get("TMPDIR", "/tmp") + f"/edgekit-test-{os.getpid()}.so", "wb") as f:
        f.write(library)
    try:
        subprocess.run([sys.executable, "-c", text, f.name], check=True, cwd=Path(elf.__file__).parents[2])
    finally:
        os.unlink(f.name)


def test_damaged_arm_libraries(library, tmp_path):
    for damaged in (b"", b"\x7fELF", library[:100], library[:700], b"\0" * 5000, library[:18] + b"\x3e" + library[19:]):
        with pytest.raises(BundleError, match="damaged"):
            elf.parse(damaged)
    with pytest.raises(BundleError, match="damaged"):
        arm.Emulator(library[:200])
    needy = shared_library(tmp_path / "needy.c", "int nowhere(int); int f(int x) { return nowhere(x); }")
    with pytest.raises(BundleError, match="needs the symbol 'nowhere'"):
        arm.Emulator(needy)


def test_every_damaged_byte_of_the_headers_is_harmless(library):
    """Reading a damaged library gives an image or a BundleError, whatever byte is wrong."""
    for at in range(min(len(library), 1200)):
        for flip in (0xFF, 0x01, 0x80):
            broken = bytearray(library)
            broken[at] ^= flip
            try:
                elf.parse(bytes(broken))
            except BundleError:
                pass


def test_symbol_tables_with_gnu_hash(tmp_path):
    for style in ("sysv", "gnu"):
        image = elf.parse(shared_library(tmp_path / f"{style}.c", SOURCE, f"-Wl,--hash-style={style}"))
        assert {"add", "pick", "table", "trap"} <= set(image.symbols)


def test_wasm_with_imports_is_refused(tmp_path):
    needy = wasm_module(tmp_path / "needy.c",
                        '__attribute__((import_module("env"), import_name("nowhere"))) int nowhere(int);\n'
                        "int f(int x) { return nowhere(x); }")
    with pytest.raises(BundleError, match=r"imports \(env\.nowhere\)"):
        wasm.Sandbox(needy)


def test_damaged_wasm(module):
    for damaged in (b"", b"\0asm", module[:50], module[:-10], b"\0" * 100):
        with pytest.raises(BundleError, match="damaged|no memory"):
            wasm.Sandbox(damaged)


def test_wasm_memory_bounds(module):
    sandbox = wasm.Sandbox(module)
    top = sandbox._memory.data_len(sandbox._store)
    for address, size in ((top - 2, 4), (-1, 1), (1 << 33, 1)):
        with pytest.raises(RuntimeStatusError, match="outside"):
            sandbox.read(address, size)
        with pytest.raises(RuntimeStatusError, match="outside"):
            sandbox.write(address, bytes(size))
    with pytest.raises(RuntimeStatusError, match="does not grow") as e:
        sandbox.alloc(5 << 30)
    assert e.value.status == "MEMORY"
    sandbox.close()


def test_wasm_clock(module):
    sandbox = wasm.Sandbox(module)
    result, seconds = sandbox.clock("add", 20, 22)
    assert result == 42 and 0 < seconds < 1
    with pytest.raises(RuntimeStatusError, match="stopped"):
        sandbox.clock("trap")
    assert sandbox.clock("add", 1, 2)[0] == 3
    sandbox.close()


def test_missing_extras(library, module, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingToolError, match=r"edgekit-deploy\[arm64\]"):
        arm.Emulator(library)
    monkeypatch.setitem(sys.modules, "wasmtime", None)
    with pytest.raises(MissingToolError, match=r"edgekit-deploy\[wasm\]"):
        wasm.Sandbox(module)
