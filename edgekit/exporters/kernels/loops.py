"""Writing loop nests of TVM's `tirx` directly: statements in order, vectors explicit, unrolling done by Python's own loops.

No schedules: a kernel states its loops, its registers and its loads, and LLVM sees exactly those. Accumulators are
one-element local buffers of vector type, which LLVM keeps in registers; local arrays live on the stack.
"""
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from tvm import tirx
from tvm.ir import Call, PointerType, PrimType, StringImm
from tvm.target.codegen import llvm_lookup_intrinsic_id

from edgekit.exporters.kernels.schedule import Machine


def const(value, dtype: str):
    return tirx.const(value, dtype)


def vector(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def broadcast(value, lanes: int):
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def shuffle(vectors: Sequence, numbers: Sequence[int]):
    """Lanes of vectors laid end to end, by their numbers."""
    return tirx.Shuffle(list(vectors), [const(n, "int32") for n in numbers])


class Code:
    """A kernel being written. Operands are declared in the order of the C function's parameters."""

    def __init__(self, machine: Machine):
        self.machine = machine
        self._blocks: list[list] = [[]]
        self._params: list = []
        self._decls: list = []
        self._functions: dict[str, str] = {}  # in LLVM's text, by name
        self._count = 0
        self._skew = tirx.Var("skew", "int32")
        self.begin, self.end = tirx.Var("begin", "int32"), tirx.Var("end", "int32")

    def _name(self, stem: str) -> str:
        self._count += 1
        return f"{stem}{self._count}"

    def _add(self, stmt) -> None:
        self._blocks[-1].append(stmt)

    def operand(self, dtype: str):
        """The next parameter: a pointer. bool is stored as uint8."""
        stored = "uint8" if dtype == "bool" else dtype
        pointer = tirx.Var(self._name("a"), PointerType(PrimType(stored)))
        buffer = tirx.decl_buffer((1 << 30,), stored, self._name("b"))
        self._params.append(pointer)
        self._decls.append(tirx.DeclBuffer(buffer, data=pointer))
        return buffer

    def i(self, value):
        """A Python int or an integer expression in the dtype of address arithmetic."""
        if isinstance(value, int):
            return const(value, self.machine.index)
        lanes = value.ty.dtype.lanes if hasattr(value.ty, "dtype") and hasattr(value.ty.dtype, "lanes") else 1
        return value.astype(vector(self.machine.index, lanes))

    def opaque(self, value: int):
        """The number, which the compiler cannot know."""
        return self.i(value) + self.i(self._skew)

    def shifted(self, buffer, index):
        """The buffer from an index on, which is computed once, here."""
        return self.at(buffer, tirx.address_of(self.load(buffer, index)))

    def anchored(self, buffer, index):
        """The buffer from an index on, for `load_from` and `store_from`: by an address in a register of its own, which LLVM
        takes as it is, so that distances from it become offsets of loads and stores."""
        return self.at(buffer, self.laundered(tirx.address_of(self.load(buffer, index))))

    @staticmethod
    def laundered(address):
        """The address, which LLVM cannot take apart."""
        launder = const(llvm_lookup_intrinsic_id("llvm.launder.invariant.group"), "uint32")
        return Call("tirx.call_llvm_pure_intrin", [launder, address], ret_ty=address.ty)

    def at(self, buffer, address):
        """The buffer from an address on."""
        pointer = tirx.Var(self._name("a"), PointerType(PrimType(buffer.dtype)))
        self._add(tirx.Bind(pointer, address))
        rest = tirx.decl_buffer((1 << 30,), buffer.dtype, self._name("b"))
        self._add(tirx.DeclBuffer(rest, data=pointer))
        return rest

    def load_from(self, anchor, distance: int, lanes: int):
        """`lanes` elements, `distance` of them after what `anchored` gave."""
        at = self.i(distance)
        return tirx.BufferLoad(anchor, [at if lanes == 1 else tirx.Ramp(at, self.i(1), lanes)])

    def store_from(self, anchor, value, distance: int, lanes: int) -> None:
        at = self.i(distance)
        self._add(tirx.BufferStore(anchor, value, [at if lanes == 1 else tirx.Ramp(at, self.i(1), lanes)]))

    def call(self, name: str, text: str, arguments: Sequence, type_):
        """What a function makes of its arguments that is given as LLVM's text, which goes in line."""
        self._functions[name] = text
        return Call("tirx.call_pure_extern", [StringImm(name), *arguments], ret_ty=type_)

    def zero(self, number):
        """0, for all the compiler knows another one for every number."""
        return self.i(number) * self.i(self._skew)

    def load(self, buffer, index, lanes: int = 1, stride: int = 1):
        """`lanes` elements from `index` on, `stride` apart (0: one element, broadcast)."""
        at = self.i(index) + self.i(self._skew)
        if lanes == 1 or stride == 0:
            return broadcast(tirx.BufferLoad(buffer, [at]), lanes)
        if stride == 2:  # every other lane of two vectors: LLVM would load lane by lane
            halves = [tirx.BufferLoad(buffer, [tirx.Ramp(at + self.i(first), self.i(1), lanes)]) for first in (0, lanes)]
            return tirx.Shuffle(halves, [const(2 * k, "int32") for k in range(lanes)])
        return tirx.BufferLoad(buffer, [tirx.Ramp(at, self.i(stride), lanes)])

    def store(self, buffer, value, index, lanes: int = 1, stride: int = 1) -> None:
        at = self.i(index) + self.i(self._skew)
        self._add(tirx.BufferStore(buffer, value, [at if lanes == 1 else tirx.Ramp(at, self.i(stride), lanes)]))

    def zeros(self, lanes: int):
        """Zeros of float32 that the compiler does not know to be zeros: with known ones LLVM makes a shuffle an expand, four times as slow."""
        return broadcast(self._skew.astype("float32"), lanes)

    def let(self, value):
        """The value, computed once, here.

        It passes through a register, because TVM inlines plain bindings: work would double with every use, and floats
        would be simplified as if they were real numbers (x - x, (x + c) - c). LLVM removes the register.
        """
        dtype, _, lanes = str(value.ty).partition("x")
        if dtype == "bool":  # TVM's analyzer has no vectors of bool
            byte = vector("uint8", int(lanes or 1))
            return self.let(value.astype(byte)) != const(0, byte)
        held = self.register(dtype, int(lanes or 1), value)
        var = tirx.Var(self._name("t"), value.ty)
        self._add(tirx.Bind(var, held.value))
        return var

    def register(self, dtype: str, lanes: int = 1, init=None) -> "Register":
        buffer = tirx.decl_buffer((1,), vector(dtype, lanes), self._name("r"), scope="local")
        self._add(tirx.AllocBuffer(buffer))
        r = Register(self, buffer)
        if init is not None:
            r.set(init)
        return r

    def array(self, size: int, dtype: str):
        """A local array on the stack."""
        buffer = tirx.decl_buffer((size,), dtype, self._name("l"), scope="local")
        self._add(tirx.AllocBuffer(buffer))
        return buffer

    def local_load(self, array, index, lanes: int = 1):
        at = self.i(index)
        return tirx.BufferLoad(array, [at if lanes == 1 else tirx.Ramp(at, self.i(1), lanes)])

    def local_store(self, array, value, index, lanes: int = 1) -> None:
        at = self.i(index)
        self._add(tirx.BufferStore(array, value, [at if lanes == 1 else tirx.Ramp(at, self.i(1), lanes)]))

    @contextmanager
    def loop(self, extent, start=0) -> Iterator:
        """for (v = start; v < start + extent; v++)"""
        if isinstance(extent, int) and extent == 1:  # no loop, no variable
            yield self.i(start)
            return
        var = tirx.Var(self._name("i"), self.machine.index)
        self._blocks.append([])
        yield var
        body = self._seq(self._blocks.pop())
        if body is not None:
            self._add(tirx.For(var, self.i(start), self.i(extent), tirx.ForKind.SERIAL, body))

    def units(self) -> AbstractContextManager:
        """The loop over this call's share of the kernel's units."""
        return self.loop(self.i(self.end) - self.i(self.begin), self.begin)

    @contextmanager
    def when(self, condition) -> Iterator[None]:
        self._blocks.append([])
        yield
        body = self._seq(self._blocks.pop())
        if body is not None:
            self._add(tirx.IfThenElse(condition, body, None))

    @staticmethod
    def _seq(stmts: list):
        return None if not stmts else stmts[0] if len(stmts) == 1 else tirx.SeqStmt(stmts)

    def function(self):
        """The PrimFunc: a plain C function over raw pointers that do not alias."""
        body = self._seq(self._decls + self._blocks[0])
        for text in self._functions.values():
            body = tirx.AttrStmt(const(0, "int32"), "pragma_import_llvm", StringImm(text), body)
        f = tirx.PrimFunc([*self._params, self.begin, self.end, self._skew], body)
        return f.with_attr("calling_conv", 1).with_attr("tirx.noalias", True)

    def pieces(self, extent: int, size: int, count: int, number, visit: Callable) -> None:
        """visit(start, length) for piece `number` of an extent cut into `count` pieces of `size`, the last as long as is left:
        code of its own where that is another length."""
        start, last = self.let(number * self.i(size)) if count > 1 else self.i(0), extent - (count - 1) * size
        if last == size or count == 1:
            visit(start, last)
            return
        with self.when(number < self.i(count - 1)):
            visit(start, size)
        with self.when(number >= self.i(count - 1)):
            visit(self.i((count - 1) * size), last)

    def unrolled(self, n, times: int, visit: Callable) -> None:
        """visit(i) for n numbers (an int or an expression), `times` of them in each turn of the loop."""
        fixed = isinstance(n, int)
        whole = n // times if fixed else self.let(n // self.i(times))
        if not fixed or whole:
            with self.loop(whole) as turn:
                for k in range(times):
                    visit(turn * self.i(times) + self.i(k))
        done = whole * times if fixed else self.let(whole * self.i(times))
        if fixed:
            for k in range(n - done):
                visit(self.i(done + k))
        elif times > 1:
            with self.loop(n - done) as k:
                visit(done + k)

    @staticmethod
    def constant(value, dtype: str, lanes: int):
        """The value in every lane."""
        return broadcast(const(value, dtype), lanes)

    @staticmethod
    def lane(value, k: int):
        """One lane of a vector."""
        return tirx.Shuffle([value], [const(k, "int32")])

    def spans(self, n, lanes: int, visit: Callable) -> None:
        """visit(position, lanes) over n positions: a loop of whole vectors, then ever smaller ones (single ones where n is
        an expression)."""
        if not isinstance(n, int):
            whole = self.let(n // self.i(lanes))
            with self.loop(whole) as i:
                visit(i * self.i(lanes), lanes)
            done = self.let(whole * self.i(lanes))
            if lanes > 1:
                with self.loop(n - done) as i:
                    visit(done + i, 1)
            return
        whole = n // lanes
        if whole:
            with self.loop(whole) as i:
                visit(i * self.i(lanes), lanes)
        at, rest = whole * lanes, n % lanes
        while rest:
            lanes = 1 << (rest.bit_length() - 1)
            visit(self.i(at), lanes)
            at, rest = at + lanes, rest - lanes


class Register:
    """A variable that LLVM keeps in a register."""

    def __init__(self, code: Code, buffer):
        self._code, self._buffer = code, buffer

    @property
    def value(self):
        return tirx.BufferLoad(self._buffer, [const(0, "int32")])

    def set(self, value) -> None:
        self._code._add(tirx.BufferStore(self._buffer, value, [const(0, "int32")]))
