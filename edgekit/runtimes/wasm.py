"""The shipped WebAssembly module in wasmtime, in this process: in its sandbox a stranger's bundle is safe to run.

A module of edgekit imports nothing; one that does is refused before it is instantiated. Its memory grows past
`__heap_base` for the weights and the arena. A trap ends as a `RuntimeStatusError`.
"""
import ctypes
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import BundleError, MissingToolError, RuntimeStatusError

PAGE = 65536


class Sandbox:
    """A `Memory` (guest.py) of a WebAssembly instance."""

    pointer = 4
    measured = True

    def __init__(self, module: bytes):
        self._wasmtime = wasmtime = _wasmtime()
        engine = wasmtime.Engine()
        try:
            compiled = wasmtime.Module(engine, module)
        except wasmtime.WasmtimeError as e:
            raise BundleError(f"the WebAssembly module is damaged ({str(e).splitlines()[0]})", where="wasm",
                              fix="export the bundle again") from None
        if compiled.imports:
            wanted = ", ".join(f"{i.module}.{i.name}" for i in compiled.imports)
            raise BundleError(f"the WebAssembly module asks for imports ({wanted}); those of edgekit never do",
                              where="wasm", fix="do not trust this bundle")
        self._store = wasmtime.Store(engine)
        try:
            exports = wasmtime.Instance(self._store, compiled, []).exports(self._store)
        except (wasmtime.WasmtimeError, wasmtime.Trap) as e:
            raise BundleError(f"the WebAssembly module does not start ({_last(e)})", where="wasm") from None
        self._functions = {name: f for name, f in exports.items() if isinstance(f, wasmtime.Func)}
        self.symbols = frozenset(self._functions)
        memory, heap = exports.get("memory"), exports.get("__heap_base")
        if not isinstance(memory, wasmtime.Memory) or not isinstance(heap, wasmtime.Global):
            raise BundleError("the WebAssembly module exports no memory or no __heap_base", where="wasm")
        self._memory, self._top = memory, heap.value(self._store)

    def alloc(self, size: int, data: bytes = b"", writable: bool = True) -> int:
        """Address of `size` zeroed bytes, 64-aligned, that start with `data`. All of wasm's memory is writable."""
        address = -(-self._top // 64) * 64
        end = address + max(size, len(data)) + 64
        missing = end - self._memory.data_len(self._store)
        if missing > 0:
            try:
                self._memory.grow(self._store, -(-missing // PAGE))
            except (self._wasmtime.WasmtimeError, OverflowError):
                raise RuntimeStatusError(f"the WebAssembly memory does not grow to {end} bytes", where="wasm",
                                         fix="use a smaller model: wasm32 ends at 4 GiB", status="MEMORY") from None
        self._top = end
        self.write(address, data)
        return address

    def write(self, address: int, data: bytes) -> None:
        """Stores bytes."""
        ctypes.memmove(self._at(address, len(data)), data, len(data))

    def read(self, address: int, size: int) -> bytes:
        """Loads bytes."""
        return ctypes.string_at(self._at(address, size), size)

    def call(self, symbol: str, *args: int) -> int:
        """Calls a function with integer arguments; its int32 result."""
        function = self._function(symbol)
        try:
            return function(self._store, *(ctypes.c_int32(arg).value for arg in args))
        except (self._wasmtime.Trap, self._wasmtime.WasmtimeError) as e:
            raise RuntimeStatusError(f"the WebAssembly code stopped ({_last(e)})", where=f"wasm, {symbol}",
                                     status="FAULT") from None

    def clock(self, symbol: str, *args: int) -> tuple[int, float]:
        """Like `call`, with its seconds. The C function of wasmtime is called without the layers of its Python package,
        which add some 30 us a call: more than a small net takes."""
        from wasmtime import _ffi as ffi
        function = self._function(symbol)
        given, result = (ffi.wasmtime_val_t * len(args))(), (ffi.wasmtime_val_t * 1)()
        returned = len(function.type(self._store).results)
        for value, arg in zip(given, args):
            value.kind, value.of.i32 = 0, ctypes.c_int32(arg).value
        trap = ctypes.POINTER(ffi.wasm_trap_t)()
        run, store = ffi.wasmtime_func_call, self._store._context()
        where, out = ctypes.byref(function._func), ctypes.byref(trap)
        start = time.perf_counter()
        error = run(store, where, given, len(args), result, returned, out)
        seconds = time.perf_counter() - start
        if error or trap:
            raise RuntimeStatusError("the WebAssembly code stopped", where=f"wasm, {symbol}", status="FAULT")
        return result[0].of.i32, seconds

    def close(self) -> None:
        """Gives the instance's memory back."""
        self._functions = {}
        self._store.close()

    def _function(self, symbol: str):
        if symbol not in self._functions:
            raise BundleError(f"the WebAssembly module has no function {symbol!r}", fix="export the bundle again")
        return self._functions[symbol]

    def _at(self, address: int, size: int) -> int:
        if address < 0 or address + size > self._memory.data_len(self._store):
            raise RuntimeStatusError("an address outside the WebAssembly memory", where="wasm", status="FAULT")
        return ctypes.addressof(self._memory.data_ptr(self._store).contents) + address


def choose(modules: Sequence[Path]) -> bytes:
    """The first of the modules of which the engine has every instruction; the last one unseen."""
    wasmtime = _wasmtime()
    for path in modules[:-1]:
        module = path.read_bytes()
        try:
            wasmtime.Module.validate(wasmtime.Engine(), module)
            return module
        except wasmtime.WasmtimeError:
            continue
    return modules[-1].read_bytes()


def _wasmtime() -> Any:
    try:
        import wasmtime
        return wasmtime
    except ImportError:
        raise MissingToolError("wasm code runs here in 'wasmtime', which is not installed",
                               fix="pip install 'edgekit-deploy[wasm]'") from None


def _last(error: Exception) -> str:
    """The cause in wasmtime's message: its last line."""
    return str(error).strip().splitlines()[-1].strip().removeprefix("1: ").removeprefix("wasm trap: ")
