"""Hot loops as LLVM makes them: instructions a multiply-add, and spills. A regression shows here without a clock."""
from dataclasses import replace
from importlib.util import find_spec

import pytest

from edgekit import targets
from edgekit.exporters.emit.compile import kernel_assembly
from edgekit.targets import native
from edgekit.tune import shapes
from tests.kernels.assembly import SYNTAXES, hot_loop

pytestmark = pytest.mark.skipif(find_spec("tvm") is None, reason="needs the compiler")


def x86(level: str) -> targets.Target:
    lanes, registers = native.VECTORS[level]
    features = ("-prefer-256-bit",) if level == "x86-64-v4" else ()
    return replace(targets.load("linux-musl"), cpu=level, features=features, lanes=lanes, registers=registers, better=(),
                   schedule=targets.schedule_of(level, features))


MACHINES = {"x86-64-v4": ("x86", x86("x86-64-v4")), "x86-64-v3": ("x86", x86("x86-64-v3")),
            "arm64": ("arm", targets.load("arm64")), "wasm": ("wasm", replace(targets.load("wasm"), better=()))}
# Of the hot loop: instructions a multiply-add (its loads and the loop's own included; on wasm a pair counts as one), and
# accesses to the stack a multiply-add.
BOUNDS = {
    "conv": {"x86-64-v4": (1.75, 0.08), "x86-64-v3": (2.05, 0.15), "arm64": (1.2, 0.0), "wasm": (3.2, 0.0)},
    "depthwise": {"x86-64-v4": (1.7, 0.0), "x86-64-v3": (1.7, 0.0), "arm64": (1.6, 0.0), "wasm": (2.1, 0.0)},
    "linear": {"x86-64-v4": (2.05, 0.0), "x86-64-v3": (2.25, 0.0), "arm64": (2.2, 0.0), "wasm": (5.3, 0.0)},
}
CASES = {"conv": ("1x1 256-256 at 14", "1x1 64-128 at 28, 50% zero", "3x3 64-64 at 28"), "depthwise": ("3x3 of 128 at 28",),
         "linear": ("512-512 of 1 rows", "128-384 of 64 rows", "512-512 of 1 rows, 50% zero")}


@pytest.mark.parametrize("machine", MACHINES)
def test_hot_loops(machine):
    syntax, target = MACHINES[machine]
    cases = [c for kind in CASES for c in shapes.representative(kind) if c.label in CASES[kind]]
    assert len(cases) == sum(map(len, CASES.values()))
    for case, file in zip(cases, kernel_assembly([(c.kernel, target) for c in cases]), strict=True):
        loop = hot_loop(file.read_text("utf-8"), SYNTAXES[syntax])
        instructions, stack = BOUNDS[case.kind][machine]
        said = f"{case.kind} {case.label}: {loop.products} products, {loop.instructions} instructions, {loop.stack} on the stack\n{loop.text}"
        assert loop.products >= 8 and loop.instructions <= instructions * loop.products and loop.stack <= stack * loop.products, said


X86 = """
kernel:
    movq %rsp, %rbp
.LBB0_1:                    # outer
    vxorps %zmm0, %zmm0, %zmm0
.LBB0_2:                    # inner
    vmovups (%rdi), %zmm1
    vfmadd231ps (%rsi), %zmm1, %zmm0
    vmovaps %zmm0, -64(%rbp)
    vmovaps 128(%rsp), %zmm2
    jne .LBB0_2
    jmp .LBB0_1
"""
ARM = """
.LBB0_1:
    ldr q0, [x1], #16       // a load
    str q1, [sp, #32]
    fmla v1.4s, v0.4s, v2.s[1]
    b.ne .LBB0_1
"""
WASM = """
    loop
    loop
    local.get 3
    v128.load 0
    f32x4.mul
    f32x4.add
    br_if 0
    end_loop
    end_loop
"""


@pytest.mark.parametrize("text, syntax, counts", [(X86, "x86", (1, 5, 2)), (ARM, "arm", (1, 4, 1)), (WASM, "wasm", (1, 3, 0))])
def test_what_is_counted(text, syntax, counts):
    loop = hot_loop(text, SYNTAXES[syntax])
    assert (loop.products, loop.instructions, loop.stack) == counts
