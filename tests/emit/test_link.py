"""Libraries of every target: what their symbol tables say, and that the wasm module runs without a single import."""
import re
import struct

import pytest

from edgekit import targets
from edgekit.exporters.emit import c_source
from edgekit.exporters.emit.compile import Compiled
from edgekit.exporters.emit.link import emit_target
from edgekit.runtimes.abi import symbols
from edgekit.runtimes.abi.names import library_names
from tests.emit import tiny

API = {f"tiny_{f}" for f in ("init", "run", "run_wide", "run_in", "reset", "save", "restore", "load", "steps", "level")}
MEMORY = {"memcpy", "memmove", "memset", "memcmp"}


@pytest.fixture(scope="module")
def emitted(tmp_path_factory):
    """emitted(target): its folder, made once."""
    made = {}

    def get(target: str):
        if target not in made:
            made[target] = tiny.emit(tmp_path_factory.mktemp(target), target)
        return made[target]
    return get


@pytest.mark.parametrize("target", targets.names())
def test_every_target_links(emitted, target):
    folder = emitted(target)
    shared, static = library_names(targets.load(target), "tiny")
    assert (folder / target / static).read_bytes()[:8] == b"!<arch>\n"
    assert {f.name for f in (folder / "include").iterdir()} == {"edgekit.h", "ek_threads.h", "tiny.h"}
    if shared:
        magic = {".so": b"\x7fELF", ".wasm": b"\0asm", ".dylib": b"\xcf\xfa\xed\xfe", ".dll": b"MZ"}
        data = (folder / target / shared).read_bytes()
        assert data.startswith(magic[shared[shared.index("."):]])
        assert str(folder).encode() not in data, "no path of the machine that linked it"
    assert str(folder).encode() not in (folder / target / static).read_bytes()


@pytest.mark.parametrize("target", ["host", "arm64", "wasm", "android-arm64", "android-x64", "linux-musl"])
def test_static_libraries_have_the_prefix_on_everything(emitted, target):
    found = symbols.read((emitted(target) / target / "libtiny.a").read_bytes())
    kernels = {"host": [""], "arm64": [""], "android-arm64": [""], "wasm": ["_simd128"], "android-x64": ["_avx512", "_avx2", "_sse4"],
               "linux-musl": ["_avx512", "_avx2", "_sse2"]}[target]
    assert found.defined == API | {f"tiny{level}_k{i}" for level in kernels for i in range(5)}
    assert found.undefined <= MEMORY


@pytest.mark.parametrize("target", ["host", "arm64", "android-arm64", "android-x64", "linux-musl"])
def test_shared_libraries_want_nothing_and_show_the_interface(emitted, target):
    data = (emitted(target) / target / "libtiny.so").read_bytes()
    assert symbols.read(data) == symbols.Symbols(frozenset(API), frozenset())
    sections = _elf_names(data)
    assert not {s for s in sections if s.startswith((".debug", ".init_array", ".ctors")) or s == ".symtab"}
    assert ".dynamic" in sections


@pytest.mark.parametrize("module", ["tiny.wasm", "tiny.relaxed.wasm"])
def test_wasm_modules_import_nothing(emitted, module):
    found = symbols.read((emitted("wasm") / "wasm" / module).read_bytes())
    assert found == symbols.Symbols(frozenset(API | {"tiny_pool", "tiny_work", "memory", "__heap_base", "__stack_pointer"}), frozenset())


def _elf_names(data: bytes) -> set[str]:
    """Section names."""
    start, = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    strings, = struct.unpack_from("<Q", data, start + names * size + 24)
    places = [strings + struct.unpack_from("<I", data, start + k * size)[0] for k in range(count)]
    return {data[p:data.index(b"\0", p)].decode() for p in places}


@pytest.mark.parametrize("target", ["android-arm64", "android-x64"])
def test_android_pages(emitted, target):
    data = (emitted(target) / target / "libtiny.so").read_bytes()
    start, = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    loads = [struct.unpack_from("<Q", data, start + k * size + 48)[0] for k in range(count)
             if struct.unpack_from("<I", data, start + k * size) == (1,)]
    assert loads and all(a % 16384 == 0 for a in loads)


def test_windows_exports_the_interface_alone(emitted):
    data = (emitted("windows-x64") / "windows-x64" / "tiny.dll").read_bytes()
    pe, = struct.unpack_from("<I", data, 60)
    count, optional = struct.unpack_from("<H12xH", data, pe + 6)
    exports, imports = struct.unpack_from("<I4xI", data, pe + 24 + 112)
    assert imports == 0, "it needs no other DLL"
    sections = [struct.unpack_from("<IIII", data, pe + 24 + optional + 40 * k + 8) for k in range(count)]

    def at(address: int) -> int:
        return next(raw + address - start for size, start, _, raw in sections if start <= address < start + size)
    found, names = struct.unpack_from("<I4xI", data, at(exports) + 24)
    assert found == len(API)
    places = struct.iter_unpack("<I", data[at(names):at(names) + 4 * len(API)])
    assert {data[at(p):data.index(b"\0", at(p))].decode() for p, in places} == API


def test_the_wasm_module_runs_within_its_memory(emitted):
    wasmtime = pytest.importorskip("wasmtime")
    folder = emitted("wasm")
    store = wasmtime.Store()
    module = wasmtime.Module(store.engine, (folder / "wasm" / "tiny.wasm").read_bytes())
    exports = wasmtime.Instance(store, module, []).exports(store)
    memory, base = exports["memory"], -(-exports["__heap_base"].value(store) // 64) * 64
    assert base >= 1 << 20, "a stack of a megabyte lies below"
    plan, weights = tiny.plan(), (folder / "weights.bin").read_bytes()
    memory.grow(store, 4)
    before = memory.size(store)
    m, w, a = base, base + 128, base + 4096
    views = a + plan.arena_bytes
    x, y = views + 64, views + 128
    memory.write(store, weights, w)
    memory.write(store, struct.pack("<4f", 1, 2, 3, 4), x)
    memory.write(store, struct.pack("<IIIIII", x, 16, 1, y, 16, 1), views)
    assert exports["tiny_run_in"](store, m, views, 1, views + 12, 1) == 2, "not initialised"
    assert exports["tiny_init"](store, m, w, len(weights) - 1, a, plan.arena_bytes, 0) == 9, "truncated"
    assert exports["tiny_init"](store, m, w, len(weights), a, plan.arena_bytes, 0) == 0
    assert exports["tiny_run_in"](store, m, views, 1, views + 12, 1) == 0
    assert struct.unpack("<4f", memory.read(store, y, y + 16)) == (1, 4, 9, 16)
    memory.write(store, b"\xff", w + 200)
    assert exports["tiny_init"](store, m, w, len(weights), a, plan.arena_bytes, 0) == 13, "damaged"
    assert memory.size(store) == before


def test_the_same_bytes_every_time(tmp_path):
    target = targets.load("arm64")
    compiled = tiny.compiled(tmp_path, target)
    for k in "ab":
        emit_target(tiny.plan(), compiled, target, tmp_path / k)
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()]
    assert len(files) == 6
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_a_kernel_that_is_missing_is_an_error(tmp_path):
    from edgekit.errors import CompilerError
    target = targets.load("arm64")
    compiled = tiny.compiled(tmp_path, target)
    with pytest.raises(CompilerError, match="tiny_k"):
        emit_target(tiny.plan(), [Compiled((), compiled[0].symbols)], target, tmp_path / "out")


def test_no_zig_no_traceback(tmp_path, monkeypatch):
    from edgekit.errors import MissingToolError
    from edgekit.exporters.emit import zig
    target = targets.load("wasm")
    compiled = tiny.compiled(tmp_path, target)
    monkeypatch.setattr(zig, "find_spec", lambda name: None)
    with pytest.raises(MissingToolError, match="ziglang") as caught:
        emit_target(tiny.plan(), compiled, target, tmp_path)
    assert "edgekit-deploy[export]" in caught.value.fix


def test_symbols_of_damaged_files(emitted):
    from edgekit.errors import InputError
    for target, name in (("host", "libtiny.so"), ("host", "libtiny.a"), ("wasm", "tiny.wasm"), ("wasm", "libtiny.a")):
        data = (emitted(target) / target / name).read_bytes()
        for size in range(0, len(data), 97):
            try:
                found = symbols.read(data[:size])
            except InputError:
                continue
            assert found.defined <= symbols.read(data).defined
    with pytest.raises(InputError):
        symbols.read(b"MZ")


def test_the_interface_is_what_the_header_declares(emitted):
    text = (emitted("host") / "include" / "tiny.h").read_text()
    declared = set(re.findall(r"^EK_API ek_status (\w+)\(", text, re.MULTILINE))
    assert declared == API == set(c_source.api_symbols(tiny.plan()))
