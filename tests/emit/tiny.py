"""A small plan written by hand, with kernels in C: two states, three entries that share weights, parallel work.

    run   (x [4], count int64 [], flag bool [2]) -> (y [4], total int64 [], flags bool [2])
          h' = h + x;  y = w * h';  total = seen' = seen + count;  flags = flag
    wide  (x [64, 256]) -> (y [64, 256])        y = w[j % 4] * x, by 64 units
    in    (x [4]) -> (x [4])                    w * x: names that need care in C
"""
from pathlib import Path

import numpy as np

from edgekit.exporters.emit import c_source
from edgekit.exporters.emit.compile import Compiled, Symbol
from edgekit.exporters.emit.link import compile_c, emit_target
from edgekit.exporters.emit.weights import pack_weights
from edgekit.exporters.kernels.spec import Map, Op, Tensor
from edgekit.exporters.lower.plan import Buffer, Entry, Plan, Port, Ref, State, Step
from edgekit.runtimes.abi.names import model_name
from edgekit.targets import Target, load

ABI = Path(c_source.__file__).parents[2] / "runtimes" / "abi"  # where the headers are
ROWS, COLUMNS = 64, 256
W = np.array([1, 2, 3, 4], np.float32)


def _map(op: str, dtype: str, *shape: int, inputs: int = 2) -> Map:
    strides = tuple(int(np.prod(shape[k + 1:])) for k in range(len(shape)))
    t = Tensor(dtype, strides)
    return Map(shape, (t,) * inputs, (Op(op, tuple(range(inputs)), dtype),), t)


ADD, MUL = _map("add", "float32", 4), _map("mul", "float32", 4)
COUNT = _map("add", "int64")
FLAG = _map("identity", "bool", 2, inputs=1)
WIDE = _map("mul", "float32", ROWS, COLUMNS)
UNITS = {ADD: 1, MUL: 1, COUNT: 1, FLAG: 1, WIDE: ROWS}

KERNELS_C = f"""
#include <stdint.h>
void P_k0(float *a, float *b, float *c, int32_t begin, int32_t end, int32_t skew)
{{
    for (; begin < end; begin++) for (int i = 0; i < 4; i++) c[i] = a[i + skew] + b[i];
}}
void P_k1(float *a, float *b, float *c, int32_t begin, int32_t end, int32_t skew)
{{
    for (; begin < end; begin++) for (int i = 0; i < 4; i++) c[i] = a[i + skew] * b[i];
}}
void P_k2(int64_t *a, int64_t *b, int64_t *c, int32_t begin, int32_t end, int32_t skew)
{{
    for (; begin < end; begin++) c[0] = a[skew] + b[0];
}}
void P_k3(uint8_t *a, uint8_t *b, int32_t begin, int32_t end, int32_t skew)
{{
    for (; begin < end; begin++) for (int i = 0; i < 2; i++) b[i] = a[i + skew];
}}
void P_k4(float *a, float *b, float *c, int32_t begin, int32_t end, int32_t skew)
{{
    for (; begin < end; begin++)
        for (int i = 0; i < {COLUMNS}; i++) c[begin * {COLUMNS} + i] = a[begin * {COLUMNS} + i + skew] * b[i % 4];
}}
"""


def plan(name: str = "tiny") -> Plan:
    """The plan above."""
    h, seen = Buffer("h", "float32", (4,), "arena", 0, 16), Buffer("seen", "int64", (), "arena", 128, 8)

    def at(number: int, name: str, dtype: str, *shape: int) -> Buffer:
        nbytes = int(np.prod(shape)) * {"float32": 4, "int64": 8, "bool": 1}[dtype]
        return Buffer(name, dtype, shape, "arena", 256 + 128 * number, nbytes)
    ins = Port("x", "float32", (4,), "x"), Port("count", "int64", (), "n"), Port("flag", "bool", (2,), "f")
    outs = Port("y", "float32", (4,), "y"), Port("total", "int64", (), "total"), Port("flags", "bool", (2,), "g")
    run = Entry("run", ins, outs,
                (Step("/add", "Add", ADD, (Ref("h"), Ref("x"), Ref("h2"))),
                 Step("/mul */ evil\\", "Mul", MUL, (Ref("h2"), Ref("w", 4), Ref("y"))),
                 Step("/count", "Add", COUNT, (Ref("seen"), Ref("n"), Ref("total"))),
                 Step("/flag", "Identity", FLAG, (Ref("f"), Ref("g")))),
                (at(0, "x", "float32", 4), at(1, "n", "int64"), at(2, "f", "bool", 2), at(3, "h2", "float32", 4),
                 at(4, "y", "float32", 4), at(5, "total", "int64"), at(6, "g", "bool", 2)),
                (("h", "h2"), ("seen", "total")))
    big = ROWS * COLUMNS * 4
    wide = Entry("wide", (Port("x", "float32", (ROWS, COLUMNS), "x"),), (Port("y", "float32", (ROWS, COLUMNS), "y"),),
                 (Step("/wide", "Mul", WIDE, (Ref("x"), Ref("w", 4), Ref("y")), macs=1 << 20),),
                 (Buffer("x", "float32", (ROWS, COLUMNS), "arena", 256, big),
                  Buffer("y", "float32", (ROWS, COLUMNS), "arena", 320 + big, big)))
    awkward = Entry("in", (Port("x", "float32", (4,), "x"),), (Port("x", "float32", (4,), "y"),),
                    (Step("/in", "Mul", MUL, (Ref("x"), Ref("w", 4), Ref("y"))),),
                    (at(0, "x", "float32", 4), at(1, "y", "float32", 4)))
    return Plan(name, (run, wide, awkward), (Buffer("w", "float32", (8,), "weights", 64, 32),),
                (State("h", "float32", (4,), "h"), State("seen", "int64", (), "seen")), (h, seen),
                arena_bytes=320 + 2 * big + 64, state_bytes=256, weights_bytes=128)


def weights(name: str = "tiny", scale: float = 1) -> bytes:
    """weights.bin; w lies behind four floats that nobody reads."""
    return pack_weights(plan(name), {"w": np.concatenate([np.full(4, 99, np.float32), W * np.float32(scale)])})


def compiled(folder: Path, target: Target, name: str = "tiny") -> list[Compiled]:
    """The kernels as object files, once for every level of the target."""
    made = []
    for level in target.levels:
        prefix = model_name(name) + (f"_{level.level}" if target.better else "")
        source = folder / f"{target.name}{level.level}.c"
        source.write_text(KERNELS_C.replace("P_", prefix + "_"), "utf-8")
        symbols = {k: Symbol(f"{prefix}_k{i}", u) for i, (k, u) in enumerate(UNITS.items())}
        made.append(Compiled((compile_c(source, level),), symbols))
    return made


def emit(folder: Path, target: str = "host", name: str = "tiny", scale: float = 1) -> Path:
    """A folder as in a bundle: include/, src/, TARGET/ and weights.bin."""
    t = load(target)
    folder.mkdir(parents=True, exist_ok=True)
    emit_target(plan(name), compiled(folder, t, name), t, folder)
    (folder / "weights.bin").write_bytes(weights(name, scale))
    return folder
