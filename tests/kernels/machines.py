"""Compiled kernels called directly, on the host, in the AArch64 emulator and in a wasm engine, their operands amid poison.

`load(kernels, target, folder)` gives a function call(kernel, *arrays) that runs all units of a kernel and updates the
arrays in place. Linking allows no undefined symbol but memcpy and its kind, so a kernel that calls a library does not load.

Every operand lies alone in pages filled with POISON, which is NaN in every float: what is read there and used shows in
the results, what is written there is found afterwards. Where memory has rights (not in wasm) the pages around cannot be
touched: a kernel runs twice, its operands up against the page behind them, but for the SLACK that it may read, and
against the page before them.
"""
import ctypes
import mmap
import struct
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np

from edgekit.exporters.emit.compile import Compiled, compile_kernels
from edgekit.exporters.emit.link import compile_c
from edgekit.exporters.emit.zig import zig
from edgekit.exporters.kernels.spec import Kernel
from edgekit.targets import Target

Call = Callable[..., None]
Enter = Callable[[str, Sequence[bytes], Sequence[int], int], list[bytes]]  # see `_amid_poison`
POISON, SLACK, PAGE = 0xFF, 64, 4096


def load(kernels: list[Kernel], target: Target, folder: Path) -> Call:
    folder = Path(tempfile.mkdtemp(dir=folder))
    compiled = compile_kernels(kernels, target, "t", folder)
    memory = folder / "ek_memory.c"  # what a loop that copies or fills may call
    memory.write_bytes(resources.files("edgekit.runtimes.abi").joinpath("ek_memory.c").read_bytes())
    linked = replace(compiled, objects=(*compiled.objects, compile_c(memory, target)))
    arm = partial(_arm, half="+fullfp16" in target.features)
    return _amid_poison({"host": _host, "arm": arm, "wasm": _wasm}[target.runner](linked, folder), compiled)


def _amid_poison(enter: Enter, compiled: Compiled) -> Call:
    """enter(symbol, regions, offsets, units) runs a kernel whose operands lie at the offsets of the regions, whole pages
    each, and gives the regions back."""
    def call(kernel: Kernel, *arrays: np.ndarray) -> None:
        symbol, results = compiled.symbols[kernel], []
        for behind in (True, False):
            sizes = [(a.nbytes + SLACK + PAGE - 1) // PAGE * PAGE for a in arrays]
            offsets = [size - SLACK - a.nbytes if behind else 0 for size, a in zip(sizes, arrays, strict=True)]
            regions = [bytes([POISON]) * at + a.tobytes() + bytes([POISON]) * (size - at - a.nbytes)
                       for size, at, a in zip(sizes, offsets, arrays, strict=True)]
            after = enter(symbol.name, regions, offsets, symbol.units)
            for k, (region, at, a) in enumerate(zip(after, offsets, arrays, strict=True)):
                assert not (region[:at] + region[at + a.nbytes:]).strip(bytes([POISON])), f"operand {k} of {kernel}: written outside"
            results.append([region[at:at + a.nbytes] for region, at, a in zip(after, offsets, arrays, strict=True)])
        assert results[0] == results[1], f"{kernel}: results depend on where operands lie"
        for a, data in zip(arrays, results[0], strict=True):
            a[...] = np.frombuffer(data, a.dtype).reshape(a.shape)
    return call


def _objects(compiled: Compiled, folder: Path) -> str:
    """The objects by way of a response file: there may be hundreds."""
    listing = folder / "objects.txt"
    listing.write_text("\n".join(str(o) for o in compiled.objects))
    return f"@{listing}"


def _host(compiled: Compiled, folder: Path) -> Enter:
    zig("cc", "-shared", "-nostdlib", "-Wl,-z,defs", "-o", folder / "kernels.so", _objects(compiled, folder))
    library, libc = ctypes.CDLL(str(folder / "kernels.so")), ctypes.CDLL(None)

    def enter(symbol: str, regions: Sequence[bytes], offsets: Sequence[int], units: int) -> list[bytes]:
        maps = [mmap.mmap(-1, len(region) + 2 * PAGE) for region in regions]
        views = [(ctypes.c_char * len(m)).from_buffer(m) for m in maps]
        places = [ctypes.addressof(v) + PAGE for v in views]
        for place, region in zip(places, regions, strict=True):
            ctypes.memmove(place, region, len(region))
            for guard in (place - PAGE, place + len(region)):
                assert libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(PAGE), 0) == 0
        getattr(library, symbol)(*(ctypes.c_void_p(p + at) for p, at in zip(places, offsets, strict=True)), 0, units, 0)
        after = [ctypes.string_at(p, len(region)) for p, region in zip(places, regions, strict=True)]
        del views
        return after
    return enter


def _wasm(compiled: Compiled, folder: Path) -> Enter:
    import wasmtime
    exports = [f"--export={s.name}" for s in compiled.symbols.values()]
    zig("wasm-ld", "--no-entry", "--export=__heap_base", "--initial-memory=33554432", *exports,
        "-o", folder / "kernels.wasm", _objects(compiled, folder))
    store = wasmtime.Store()
    module = wasmtime.Module.from_file(store.engine, str(folder / "kernels.wasm"))
    instance = wasmtime.Instance(store, module, []).exports(store)
    memory = instance["memory"]

    def enter(symbol: str, regions: Sequence[bytes], offsets: Sequence[int], units: int) -> list[bytes]:
        at, places = instance["__heap_base"].value(store) + 63 & ~63, []
        for region in regions:
            memory.write(store, region, at)
            places.append(at)
            at += len(region)
        instance[symbol](store, *(p + offset for p, offset in zip(places, offsets, strict=True)), 0, units, 0)
        return [bytes(memory.read(store, p, p + len(region))) for p, region in zip(places, regions, strict=True)]
    return enter


def _arm(compiled: Compiled, folder: Path, half: bool) -> Enter:
    import unicorn
    from unicorn import arm64_const as r
    elf = folder / "kernels.elf"
    zig("cc", "-target", "aarch64-freestanding-none", "-nostdlib", "-static", "-Wl,-e,0", "-o", elf, _objects(compiled, folder))
    stop, stack, data = 0x1000, 0x40000000, 0x50000000
    image = elf.read_bytes()
    uc = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
    uc.ctl_set_cpu_model(r.UC_CPU_ARM64_MAX if half else r.UC_CPU_ARM64_A72)  # an A72 has what ARMv8.0 has
    uc.mem_map(0, 0x8000000)
    uc.mem_map(stack, 0x100000)
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

    def enter(symbol: str, regions: Sequence[bytes], offsets: Sequence[int], units: int) -> list[bytes]:
        at, places = data, []
        for region in regions:
            uc.mem_map(at, len(region))
            uc.mem_write(at, region)
            places.append(at)
            at += len(region) + PAGE  # which is not mapped
        arguments = [*(p + offset for p, offset in zip(places, offsets, strict=True)), 0, units, 0]
        for k, value in enumerate(arguments[:8]):
            uc.reg_write(r.UC_ARM64_REG_X0 + k, value)
        uc.mem_write(stack + 0xFF000, b"".join(struct.pack("<q", value) for value in arguments[8:]))
        uc.reg_write(r.UC_ARM64_REG_SP, stack + 0xFF000)
        uc.reg_write(r.UC_ARM64_REG_LR, stop)
        try:
            uc.emu_start(names[symbol], stop)
            return [bytes(uc.mem_read(p, len(region))) for p, region in zip(places, regions, strict=True)]
        finally:
            for p, region in zip(places, regions, strict=True):
                uc.mem_unmap(p, len(region))
    return enter
