"""A reader of AArch64 ELF shared libraries: what to put where in memory, which words to patch, where the functions are.

Pure functions over the bytes of the file (ELF64 little endian, the AArch64 ELF ABI); every offset is checked, so that a
damaged file is a `BundleError` and never an exception of another kind. Libraries of edgekit import nothing, so a symbol
that is needed but not defined here is refused too.
"""
import struct
from dataclasses import dataclass

from edgekit.errors import BundleError

PAGE = 0x10000  # Linux on AArch64 has pages of up to 64 KiB
_AARCH64, _SHARED = 183, 3
_LOAD, _DYNAMIC = 1, 2
_HASH, _STRTAB, _SYMTAB, _RELA, _RELASZ, _JMPREL, _PLTRELSZ, _GNU_HASH = 4, 5, 6, 7, 8, 23, 2, 0x6FFFFEF5
_ABS64, _GLOB_DAT, _JUMP_SLOT, _RELATIVE = 257, 1025, 1026, 1027
_LIMIT = 1 << 30  # a library of more than a gigabyte is a damaged header


@dataclass(frozen=True)
class Segment:
    """Bytes at `address` (relative to the load address), zero-filled to `size`; `flags`: 1 execute, 2 write, 4 read."""

    address: int
    data: bytes
    size: int
    flags: int


@dataclass(frozen=True)
class Image:
    """segments: to be mapped. words: (address, value) of 64-bit words to store. symbols: name -> address of what it
    defines. size: the end of the last segment. Addresses and values are relative to the load address."""

    segments: tuple[Segment, ...]
    words: tuple[tuple[int, int], ...]
    symbols: dict[str, int]
    size: int


def parse(elf: bytes) -> Image:
    """The image of an AArch64 shared library; BundleError where it is damaged or needs a symbol that it lacks."""
    try:
        return _parse(elf)
    except (struct.error, ValueError, IndexError, OverflowError, MemoryError) as e:
        raise BundleError(f"the AArch64 library is damaged ({e})", fix="export the bundle again") from None


def _parse(elf: bytes) -> Image:
    if elf[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<HH", elf, 16) != (_SHARED, _AARCH64):
        raise ValueError("not a little-endian 64-bit AArch64 shared object")
    phoff, = struct.unpack_from("<Q", elf, 32)
    phsize, phnum = struct.unpack_from("<HH", elf, 54)
    headers = [struct.unpack_from("<IIQQQQQQ", elf, phoff + k * phsize) for k in range(phnum)]
    segments, dynamic = [], None
    for kind, flags, offset, address, _, in_file, in_memory, _ in headers:
        if kind not in (_LOAD, _DYNAMIC):
            continue
        if offset + in_file > len(elf) or in_file > in_memory or address + in_memory > _LIMIT:
            raise ValueError("a segment lies outside the file")
        if kind == _LOAD:
            segments.append(Segment(address, elf[offset:offset + in_file], in_memory, flags))
        else:
            dynamic = elf[offset:offset + in_file]
    if not segments or dynamic is None:
        raise ValueError("nothing to load")
    tags = dict(struct.unpack_from("<QQ", dynamic, k) for k in range(0, len(dynamic) - 15, 16))
    names, table = _symbols(segments, tags)
    words = []
    for start, size in ((_RELA, _RELASZ), (_JMPREL, _PLTRELSZ)):
        count = tags.get(size, 0) if start in tags else 0
        records = _bytes(segments, tags[start], count) if count else b""
        for address, info, addend in struct.iter_unpack("<QQq", records):
            words.append((address, _value(info, addend, names, table)))
    for address, value in words:
        if value < 0 or not any(s.address <= address and address + 8 <= s.address + s.size for s in segments):
            raise ValueError("a relocation lies outside the library")
    symbols = {name: value for name, (value, defined) in zip(names, table) if defined and name}
    return Image(tuple(segments), tuple(words), symbols, max(s.address + s.size for s in segments))


def _value(info: int, addend: int, names: list[str], table: list[tuple[int, bool]]) -> int:
    kind, number = info & 0xFFFFFFFF, info >> 32
    if kind == _RELATIVE:
        return addend
    if kind not in (_ABS64, _GLOB_DAT, _JUMP_SLOT):
        raise ValueError(f"relocation type {kind}")
    value, defined = table[number]
    if not defined:
        raise BundleError(f"the AArch64 library needs the symbol {names[number]!r}, which it does not contain",
                          fix="export the bundle again: a library of edgekit needs nothing from outside")
    return value + addend


def _symbols(segments: list[Segment], tags: dict[int, int]) -> tuple[list[str], list[tuple[int, bool]]]:
    """Names and (address, defined) of the dynamic symbols; their number is found in the hash table."""
    if _SYMTAB not in tags or _STRTAB not in tags:
        raise ValueError("no dynamic symbols")
    names, table = [], []
    for k in range(_symbol_count(segments, tags)):
        name, _, _, section, value, _ = struct.unpack("<IBBHQQ", _bytes(segments, tags[_SYMTAB] + 24 * k, 24))
        names.append(_string(segments, tags[_STRTAB] + name))
        table.append((value, section != 0))
    return names, table


def _symbol_count(segments: list[Segment], tags: dict[int, int]) -> int:
    if _HASH in tags:
        return struct.unpack("<II", _bytes(segments, tags[_HASH], 8))[1]
    if _GNU_HASH not in tags:
        raise ValueError("no symbol hash table")
    at = tags[_GNU_HASH]
    buckets, first, blooms, _ = struct.unpack("<IIII", _bytes(segments, at, 16))
    at += 16 + 8 * blooms
    last = max(struct.unpack(f"<{buckets}I", _bytes(segments, at, 4 * buckets)), default=0)
    if last < first:  # every bucket is empty: only imported symbols, if any
        return first
    chain = at + 4 * buckets
    while not struct.unpack("<I", _bytes(segments, chain + 4 * (last - first), 4))[0] & 1:
        last += 1
    return last + 1


def _bytes(segments: list[Segment], address: int, size: int) -> bytes:
    for s in segments:
        if s.address <= address and address + size <= s.address + len(s.data):
            return s.data[address - s.address:address - s.address + size]
    raise ValueError("a table lies outside the library")


def _string(segments: list[Segment], address: int) -> str:
    for s in segments:
        if s.address <= address < s.address + len(s.data):
            end = s.data.index(b"\0", address - s.address)
            return s.data[address - s.address:end].decode()
    raise ValueError("a name lies outside the library")
