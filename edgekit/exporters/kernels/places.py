"""Where a product takes its elements from. On AArch64 by addresses that move on, vectors side by side with one instruction.

Two functions are LLVM's own text: TVM has no type for what LLVM's loads of several vectors give, and no assembly in line.
"""
from tvm import tirx
from tvm.ir import Call, PointerType, PrimType

from edgekit.exporters.kernels.loops import Code, shuffle, vector

NAMES = {"float32": ("float", "f32"), "float16": ("half", "f16")}  # of a type in LLVM's text, and in names of functions


class Place:
    """An index into a buffer, or where `Pointer` stands."""

    def __init__(self, code: Code, buffer, index=None):
        self._code, self._buffer, self._index = code, buffer, index

    def load(self, distance: int, lanes: int = 1):
        """`lanes` elements, `distance` of them on."""
        if self._index is None:
            return self._code.load_from(self._buffer, distance, lanes)
        return self._code.load(self._buffer, self._index + self._code.i(distance), lanes)

    def vectors(self, count: int, lanes: int) -> list:
        """`count` vectors side by side."""
        code = self._code
        if self._index is not None or count not in (3, 4) or lanes != code.machine.lanes:  # two are a pair of loads
            return [code.let(self.load(k * lanes, lanes)) for k in range(count)]
        name, text = _loads(self._buffer.dtype, lanes, count)
        long = PrimType(vector(self._buffer.dtype, lanes * count))
        loaded = code.let(code.call(name, text, [tirx.address_of(self.load(0))], long))
        return [code.let(shuffle([loaded], range(k * lanes, (k + 1) * lanes))) for k in range(count)]


class Pointer:
    """An address in a register that moves through a buffer; AArch64 moves it on as it loads from it."""

    def __init__(self, code: Code, buffer, address=None):
        """From the start of the buffer, or an address in it."""
        self._code, self._buffer, self._held = code, buffer, code.register("int64")
        self._set(code.laundered(tirx.address_of(code.load(buffer, 0))) if address is None else address)

    def _set(self, address) -> None:
        self._held.set(Call("tirx.reinterpret", [address], ret_ty=PrimType("int64")))

    def _address(self, distance):
        here = Call("tirx.reinterpret", [self._held.value], ret_ty=PointerType(PrimType(self._buffer.dtype)))
        return tirx.address_of(self._code.load_from(self._code.at(self._buffer, here), distance, 1))

    def place(self, distance) -> Place:
        """`distance` elements on."""
        return Place(self._code, self._code.at(self._buffer, self._address(distance)))

    def moved(self, distance) -> "Pointer":
        """Another one, `distance` elements on."""
        return Pointer(self._code, self._buffer, self._address(distance))

    def advance(self, distance, after: list) -> None:
        """Moves on; to LLVM the new address is not known before the vectors `after`. It would load ahead, and what it loads
        has to fit into registers that follow each other: sums would go to the stack."""
        code, address = self._code, self._address(distance)
        after = after[:code.machine.accumulators + 4]  # assembly cannot take more than there are registers
        if not after:
            self._set(code.laundered(address))
            return
        name, text = _waits(str(after[0].ty.dtype), len(after))
        self._set(code.call(name, text, [address, *after], address.ty))


def _waits(dtype: str, count: int) -> tuple[str, str]:
    """Name and text of a function that gives a pointer back, after `count` vectors of dtype: an empty piece of assembly."""
    base, _, lanes = dtype.partition("x")
    kind, short = NAMES[base]
    name, values = f"ek_after{count}x{lanes}{short}", [f"<{lanes} x {kind}> %v{n}" for n in range(count)]
    taken, constraints = ", ".join(["ptr %p", *values]), ",".join(["=r,0", *["w"] * count])
    return name, f'define ptr @{name}({taken}) {{\n%q = call ptr asm "", "{constraints}"({taken})\nret ptr %q\n}}'


def _loads(dtype: str, lanes: int, count: int) -> tuple[str, str]:
    """Name and text of a function that loads `count` vectors side by side, as a long one, by LLVM's ld1xN."""
    kind, short = NAMES[dtype]
    name, one = f"ek_load{count}x{lanes}{short}", f"<{lanes} x {kind}>"
    parts, load = f"{{{', '.join([one] * count)}}}", f"@llvm.aarch64.neon.ld1x{count}.v{lanes}{short}.p0"
    lines, size = [f"%s = call {parts} {load}(ptr %p)", f"%a0 = extractvalue {parts} %s, 0"], lanes
    for k in range(1, count):  # each onto those before it, by way of a vector as long as they are
        long, numbers = f"<{size} x {kind}>", [f"i32 {n}" for n in range(size + lanes)]
        widened = ", ".join(n if at < lanes else "i32 poison" for at, n in enumerate(numbers[:size]))
        lines += [f"%v{k} = extractvalue {parts} %s, {k}",
                  f"%w{k} = shufflevector {one} %v{k}, {one} poison, <{size} x i32> <{widened}>",
                  f"%a{k} = shufflevector {long} %a{k - 1}, {long} %w{k}, <{size + lanes} x i32> <{', '.join(numbers)}>"]
        size += lanes
    body = "\n".join([*lines, f"ret <{size} x {kind}> %a{count - 1}"])
    return name, f"declare {parts} {load}(ptr)\ndefine <{size} x {kind}> @{name}(ptr %p) {{\n{body}\n}}"
