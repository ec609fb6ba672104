"""Compiled kernels called directly, on the host, in the AArch64 emulator and in a wasm engine.

`load(kernels, target, folder)` gives a function call(kernel, *arrays) that runs all units of a kernel and updates the
arrays in place. Linking allows no undefined symbol but memcpy and its kind, so a kernel that calls a library does not load.
"""
import ctypes
import struct
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np

from edgekit.exporters.emit.compile import Compiled, compile_kernels
from edgekit.exporters.emit.link import compile_c
from edgekit.exporters.emit.zig import zig
from edgekit.exporters.kernels.spec import Kernel
from edgekit.targets import Target

Call = Callable[..., None]


def load(kernels: list[Kernel], target: Target, folder: Path) -> Call:
    folder = Path(tempfile.mkdtemp(dir=folder))
    compiled = compile_kernels(kernels, target, "t", folder)
    memory = folder / "ek_memory.c"  # what a loop that copies or fills may call
    memory.write_bytes(resources.files("edgekit.runtimes.abi").joinpath("ek_memory.c").read_bytes())
    compiled = replace(compiled, objects=(*compiled.objects, compile_c(memory, target)))
    return {"host": _host, "arm": _arm, "wasm": _wasm}[target.runner](compiled, folder)


def _objects(compiled: Compiled, folder: Path) -> str:
    """The objects by way of a response file: there may be hundreds."""
    listing = folder / "objects.txt"
    listing.write_text("\n".join(str(o) for o in compiled.objects))
    return f"@{listing}"


def _host(compiled: Compiled, folder: Path) -> Call:
    zig("cc", "-shared", "-nostdlib", "-Wl,-z,defs", "-o", folder / "kernels.so", _objects(compiled, folder))
    library = ctypes.CDLL(str(folder / "kernels.so"))

    def call(kernel: Kernel, *arrays: np.ndarray) -> None:
        symbol = compiled.symbols[kernel]
        getattr(library, symbol.name)(*(ctypes.c_void_p(a.ctypes.data) for a in arrays), 0, symbol.units, 0)
    return call


def _wasm(compiled: Compiled, folder: Path) -> Call:
    import wasmtime
    exports = [f"--export={s.name}" for s in compiled.symbols.values()]
    zig("wasm-ld", "--no-entry", "--export=__heap_base", "--initial-memory=33554432", *exports,
        "-o", folder / "kernels.wasm", _objects(compiled, folder))
    store = wasmtime.Store()
    module = wasmtime.Module.from_file(store.engine, str(folder / "kernels.wasm"))
    instance = wasmtime.Instance(store, module, []).exports(store)
    memory = instance["memory"]

    def call(kernel: Kernel, *arrays: np.ndarray) -> None:
        at, places = instance["__heap_base"].value(store) + 63 & ~63, []
        for a in arrays:
            memory.write(store, a.tobytes(), at)
            places.append(at)
            at += (a.nbytes + 63 & ~63) + 64
        symbol = compiled.symbols[kernel]
        instance[symbol.name](store, *places, 0, symbol.units, 0)
        for a, place in zip(arrays, places, strict=True):
            a[...] = np.frombuffer(memory.read(store, place, place + a.nbytes), a.dtype).reshape(a.shape)
    return call


def _arm(compiled: Compiled, folder: Path) -> Call:
    import unicorn
    from unicorn import arm64_const as r
    elf = folder / "kernels.elf"
    zig("cc", "-target", "aarch64-freestanding-none", "-nostdlib", "-static", "-Wl,-e,0", "-o", elf, _objects(compiled, folder))
    stop, stack, data = 0x1000, 0x40000000, 0x50000000
    image = elf.read_bytes()
    uc = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
    uc.ctl_set_cpu_model(r.UC_CPU_ARM64_MAX)  # with the half-precision instructions of a Cortex-A76
    uc.mem_map(0, 0x8000000)
    uc.mem_map(stack, 0x100000)
    uc.mem_map(data, 0x4000000)
    uc.reg_write(r.UC_ARM64_REG_CPACR_EL1, 3 << 20)  # floating point on
    heads, sections = struct.unpack_from("<QQ", image, 32)
    head_size, head_count, section_size, section_count = struct.unpack_from("<HHHH", image, 54)
    for k in range(head_count):
        kind, _, offset, address, _, size, _, _ = struct.unpack_from("<IIQQQQQQ", image, heads + k * head_size)
        if kind == 1:  # PT_LOAD
            uc.mem_write(address, image[offset:offset + size])
    table = [struct.unpack_from("<IIQQQQIIQQ", image, sections + k * section_size) for k in range(section_count)]
    names: dict[str, int] = {}
    for s in table:
        if s[1] == 2:  # SHT_SYMTAB
            strings = table[s[6]][4]
            for offset in range(s[4], s[4] + s[5], 24):
                name, _, _, _, value, _ = struct.unpack_from("<IBBHQQ", image, offset)
                names[image[strings + name:image.index(b"\0", strings + name)].decode()] = value

    def call(kernel: Kernel, *arrays: np.ndarray) -> None:
        at, places = data, []
        for a in arrays:
            uc.mem_write(at, a.tobytes())
            places.append(at)
            at += (a.nbytes + 63 & ~63) + 64
        symbol = compiled.symbols[kernel]
        arguments = [*places, 0, symbol.units, 0]
        for k, value in enumerate(arguments[:8]):
            uc.reg_write(r.UC_ARM64_REG_X0 + k, value)
        uc.mem_write(stack + 0xFF000, b"".join(struct.pack("<q", value) for value in arguments[8:]))
        uc.reg_write(r.UC_ARM64_REG_SP, stack + 0xFF000)
        uc.reg_write(r.UC_ARM64_REG_LR, stop)
        uc.emu_start(names[symbol.name], stop)
        for a, place in zip(arrays, places, strict=True):
            a[...] = np.frombuffer(uc.mem_read(place, a.nbytes), a.dtype).reshape(a.shape)
    return call
