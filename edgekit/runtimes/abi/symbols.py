"""Symbol tables read from files: ELF objects, libraries and archives of them, WebAssembly modules and objects."""
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from edgekit.errors import InputError


@dataclass(frozen=True)
class Symbols:
    """Names that a file offers to others and names that it wants from them; of wasm modules exports and imports."""

    defined: frozenset[str]
    undefined: frozenset[str]


def read(data: bytes) -> Symbols:
    """Symbols of the content of a file. A .so's are those of its dynamic table; an archive's those of all members
    together, where what one member defines is not undefined. InputError for other files."""
    try:
        if data[:8] == b"!<arch>\n":
            parts = [read(m) for m in members(data)]
            defined = frozenset().union(*(m.defined for m in parts))
            return Symbols(defined, frozenset().union(*(m.undefined for m in parts)) - defined)
        if data[:4] == b"\x7fELF":
            return _elf(data)
        if data[:8] == b"\0asm\1\0\0\0":
            return _wasm(data)
    except (struct.error, IndexError, ValueError) as e:
        raise InputError(f"a damaged object file: {e}") from None
    raise InputError("not an ELF or wasm file nor an archive of them")


def members(data: bytes) -> Iterator[bytes]:
    """Object files of an archive (System V or BSD names), without its tables."""
    at = 8
    while at + 60 <= len(data):
        name, size = data[at:at + 16].rstrip(), int(data[at + 48:at + 58])
        body = data[at + 60:at + 60 + size]
        if name.startswith(b"#1/"):
            length = int(name[3:])
            name, body = body[:length].rstrip(b"\0"), body[length:]
        if name not in (b"/", b"//", b"/SYM64/") and not name.startswith(b"__.SYMDEF"):
            yield body
        at += 60 + size + size % 2


def _elf(data: bytes) -> Symbols:
    """ELF64, little-endian: the dynamic symbols of a library, all global ones of an object."""
    if data[4] != 2 or data[5] != 1:
        raise InputError("only 64-bit little-endian ELF files are read here")
    kind, = struct.unpack_from("<H", data, 16)
    start, = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, start + k * size) for k in range(count)]
    wanted = 11 if kind == 3 else 2  # SHT_DYNSYM of ET_DYN, else SHT_SYMTAB
    defined: set[str] = set()
    undefined: set[str] = set()
    for section in sections:
        if section[1] != wanted:
            continue
        strings = sections[section[6]][4]
        for at in range(section[4], section[4] + section[5], 24):
            name, info, other, index = struct.unpack_from("<IBBH", data, at)
            hidden = kind == 3 and other & 3 in (1, 2)
            if info >> 4 in (1, 2) and name and not hidden:  # global or weak
                text = data[strings + name:data.index(b"\0", strings + name)].decode()
                (defined if index else undefined).add(text)
    return Symbols(frozenset(defined), frozenset(undefined))


def _wasm(data: bytes) -> Symbols:
    """Exports and imports of a module; of an object file the symbol table of its "linking" section."""
    reader = _Reader(data, 8)
    defined: set[str] = set()
    undefined: set[str] = set()
    linked: Symbols | None = None
    functions: list[str] = []  # imported ones, by number
    while reader.at < len(data):
        section, size = reader.byte(), reader.number()
        end = reader.at + size
        if section == 0 and reader.text() == "linking":
            linked = _linking(reader, end, functions)
        elif section == 2:
            for _ in range(reader.number()):
                module, name = reader.text(), reader.text()
                undefined.add(f"{module}.{name}")
                if reader.import_type() == 0:
                    functions.append(name)
        elif section == 7:
            for _ in range(reader.number()):
                defined.add(reader.text())
                reader.byte()
                reader.number()
        reader.at = end
    return linked or Symbols(frozenset(defined), frozenset(undefined))


def _linking(reader: "_Reader", end: int, functions: list[str]) -> Symbols:
    """The symbol table of a wasm object (tool-conventions, Linking.md): data and functions. What belongs to the linker,
    the stack pointer and the function table, is left out."""
    defined: set[str] = set()
    undefined: set[str] = set()
    reader.number()  # version
    while reader.at < end:
        kind, size = reader.byte(), reader.number()
        after = reader.at + size
        for _ in range(reader.number() if kind == 8 else 0):
            symbol, flags = reader.byte(), reader.number()
            local, absent, named = flags & 2, flags & 0x10, flags & 0x40
            name = ""
            if symbol == 1:
                name = reader.text()
                for _ in range(0 if absent else 3):
                    reader.number()
            else:
                number = reader.number()
                if symbol != 3 and (named or not absent):  # 3: a section
                    name = reader.text()
                if symbol == 0 and not name:
                    name = functions[number]
            if name and not local and symbol in (0, 1):
                (undefined if absent else defined).add(name)
        reader.at = after
    return Symbols(frozenset(defined), frozenset(undefined))


class _Reader:
    """Numbers and names of the wasm binary format, one after another."""

    def __init__(self, data: bytes, at: int):
        self.data, self.at = data, at

    def byte(self) -> int:
        """The next byte."""
        self.at += 1
        return self.data[self.at - 1]

    def number(self) -> int:
        """The next LEB128 number."""
        value = shift = 0
        while True:
            b = self.byte()
            value |= (b & 127) << shift
            shift += 7
            if b < 128:
                return value

    def text(self) -> str:
        """The next name."""
        size = self.number()
        self.at += size
        return self.data[self.at - size:self.at].decode()

    def import_type(self) -> int:
        """Skips what an import is; its kind, 0 for functions."""
        kind = self.byte()
        if kind == 1:
            self.byte()
        if kind == 3:
            self.at += 2
        elif kind in (1, 2):
            limits = self.byte()
            self.number()
            if limits & 1:
                self.number()
        else:
            self.number()
        return kind
