"""A small bundle for all drivers: its kernels are written in C by hand, everything around them is what ships."""
from pathlib import Path

import numpy as np
import pytest

from edgekit import targets
from edgekit.runtimes.abi import bundle
from edgekit.runtimes.abi.names import library_names

KERNELS = r"""
#include <stdint.h>
/* y = w0 x + h */
void tiny_k0(const float *x, const float *w, const float *h, float *y, int32_t begin, int32_t end, int32_t skew)
{
    for (int32_t i = begin; i < end; i++) y[i] = w[0] * x[i] + h[i % 3];
}
/* m = (k, number of elements of y above 1) */
void tiny_k1(const int32_t *k, const float *y, int64_t *m, int32_t begin, int32_t end, int32_t skew)
{
    int64_t n = 0;
    for (int i = 0; i < 3; i++) n += y[i] > 1;
    m[0] = *k, m[1] = n;
}
/* w[i] = z[i] + 1, by many units of work */
void tiny_k2(const float *z, float *w, int32_t begin, int32_t end, int32_t skew)
{
    for (int32_t i = begin; i < end; i++) w[i] = z[i] + 1;
}
/* reads outside the arena where x[0] is 666, never ends where it is 667 */
void tiny_k3(const float *x, float *y, int32_t begin, int32_t end, int32_t skew)
{
    if (x[0] == 666) y[0] = *(volatile float *)(uintptr_t)0xfffffff0u;
    while (x[0] == 667) __asm__ volatile("");
    y[0] = x[0];
}
"""
BIG = 100_000


def make_plan():
    """tiny: two shape variants with a state, `decode` with a large vector, `crash` that misbehaves on request."""
    from edgekit.exporters.kernels.spec import Arg, Map, Op, Tensor
    from edgekit.exporters.lower.plan import Buffer, Entry, Plan, Port, Ref, State, Step
    f = Tensor("float32", (1,))
    kernels = [Map((n,), (f,), (Op("neg", (0,), "float32"),), f) for n in (3, 6, BIG, 1)]
    count = Arg((3,), "max", False, f, f)
    weights = Buffer("w", "float32", (1,), "weights", 0, 4)
    state = Buffer("h", "float32", (1, 3), "arena", 0, 12)

    def arena(name, dtype, shape, offset):
        return Buffer(name, dtype, shape, "arena", offset, int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize)

    def recurrent(name, rows, kernel):
        x, y = arena("x", "float32", (rows, 3), 128), arena("y", "float32", (rows, 3), 384)
        k, m = arena("k", "int32", (), 256), arena("m", "int64", (2,), 512)
        steps = (Step("scale", "Mul+Add", kernel, (Ref("x"), Ref("w"), Ref("h"), Ref("y")), 3 * rows, 3 * rows),
                 Step("count", "ReduceSum", count, (Ref("k"), Ref("y"), Ref("m"))))
        return Entry(name, (Port("x", "float32", (rows, 3), "x"), Port("k", "int32", (), "k")),
                     (Port("y", "float32", (rows, 3), "y"), Port("m", "int64", (2,), "m")),
                     steps, (x, k, y, m), (("h", "y"),))

    z, w = arena("z", "float32", (BIG,), 128), arena("wide", "float32", (BIG,), 128 + BIG * 4 + 64)
    decode = Entry("decode", (Port("z", "float32", (BIG,), "z"),), (Port("w", "float32", (BIG,), "wide"),),
                   (Step("plus", "Add", kernels[2], (Ref("z"), Ref("wide"))),), (z, w))
    a, b = arena("a", "float32", (1,), 128), arena("b", "float32", (1,), 256)
    crash = Entry("crash", (Port("a", "float32", (1,), "a"),), (Port("b", "float32", (1,), "b"),),
                  (Step("wild", "Identity", kernels[3], (Ref("a"), Ref("b"))),), (a, b))
    plan = Plan("tiny", (recurrent("run", 1, kernels[0]), recurrent("two", 2, kernels[1]), decode, crash), (weights,),
                (State("h", "float32", (1, 3), "h"),), (state,), 1 << 20, 64, 64)
    return plan, dict(zip([*kernels, count], ["tiny_k0", "tiny_k0", "tiny_k2", "tiny_k3", "tiny_k1"]))


def make_models():
    """The same entries as ONNX; state is an input and an output there."""
    from onnx import TensorProto, helper, numpy_helper
    info, node = helper.make_tensor_value_info, helper.make_node
    opset = [helper.make_opsetid("", 17)]

    def constant(name, value):
        return numpy_helper.from_array(np.asarray(value), name)

    def recurrent(rows):
        nodes = [node("Mul", ["x", "c"], ["cx"]), node("Add", ["cx", "h"], ["y"]), node("Greater", ["y", "one"], ["g"]),
                 node("Slice", ["y", "zero", "end", "axis"], ["h_out"]),
                 node("Cast", ["h_out_g"], ["gi"], to=TensorProto.INT64),
                 node("Greater", ["h_out", "one"], ["h_out_g"]),
                 node("ReduceSum", ["gi"], ["n"], keepdims=0), node("Reshape", ["n", "minus"], ["n1"]),
                 node("Cast", ["k"], ["kl"], to=TensorProto.INT64), node("Reshape", ["kl", "minus"], ["k1"]),
                 node("Concat", ["k1", "n1"], ["m"], axis=0)]
        nodes[4], nodes[5] = nodes[5], nodes[4]
        initial = [constant("c", np.float32(2)), constant("one", np.float32(1)), constant("zero", [0]),
                   constant("end", [1]), constant("axis", [0]), constant("minus", [-1])]
        graph = helper.make_graph(
            nodes, "g", [info("x", 1, [rows, 3]), info("k", 6, []), info("h", 1, [1, 3])],
            [info("y", 1, [rows, 3]), info("m", 7, [2]), info("h_out", 1, [1, 3])], initial)
        return helper.make_model(graph, opset_imports=opset, ir_version=8)

    decode = helper.make_graph([node("Add", ["z", "one"], ["w"])], "g", [info("z", 1, [BIG])], [info("w", 1, [BIG])],
                               [constant("one", np.float32(1))])
    crash = helper.make_graph([node("Identity", ["a"], ["b"])], "g", [info("a", 1, [1])], [info("b", 1, [1])])
    whole = {n: helper.make_model(g, opset_imports=opset, ir_version=8) for n, g in (("decode", decode), ("crash", crash))}
    return {"run": recurrent(1), "two": recurrent(2), **whole}


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """The bundle on disk, for host, arm64, wasm and a target that cannot run here."""
    for package in ("ziglang", "onnx"):
        pytest.importorskip(package, reason="needs the [export] extra to make its bundle")
    from edgekit.exporters.emit.compile import Compiled, Symbol
    from edgekit.exporters.emit.link import compile_c, emit_target
    from edgekit.exporters.emit.weights import pack_weights
    folder = tmp_path_factory.mktemp("bundle")
    plan, symbols = make_plan()
    units = {"tiny_k0": None, "tiny_k1": 1, "tiny_k2": BIG, "tiny_k3": 1}
    compiled_symbols = {k: Symbol(s, units[s] or k.shape[0]) for k, s in symbols.items()}
    about = {}
    for name in ("host", "arm64", "wasm", "android-arm64"):
        target, work = targets.load(name), tmp_path_factory.mktemp("work")
        (work / "kernels.c").write_text(KERNELS.replace("int32_t skew", "__attribute__((unused)) int32_t skew")
                                        .replace("int32_t begin", "__attribute__((unused)) int32_t begin")
                                        .replace("int32_t end", "__attribute__((unused)) int32_t end"))
        kernels = compile_c(work / "kernels.c", target)
        emit_target(plan, [Compiled((kernels,), compiled_symbols) for _ in target.levels], target, folder)
        shared = library_names(target, "tiny")[0]
        about[name] = {"files": [f"{name}/{shared}"], "verified": None, "cpu_features": [],
                       "code_bytes": (folder / name / shared).stat().st_size}
    (folder / "weights.bin").write_bytes(pack_weights(plan, {"w": np.array([2], np.float32)}))
    for k, (name, model) in enumerate(make_models().items()):
        (folder / ("model.onnx" if k == 0 else f"model.{name}.onnx")).write_bytes(model.SerializeToString())
    write_vectors(folder)
    port = lambda p: {"name": p.name, "dtype": p.dtype, "shape": list(p.shape)}
    state = {"name": "h", "dtype": "float32", "shape": [1, 3], "input": True, "output": "h_out"}
    entries = [{"name": e.name, "inputs": list(map(port, e.inputs)), "outputs": list(map(port, e.outputs)),
                "states": [state] if e.updates else [],
                "layers": [{"name": s.name, "op": s.op, "macs": s.macs, "dense_macs": s.dense_macs, "sparsity": 0.0,
                            "group": None, "kernel": "Map"} for s in e.steps]} for e in plan.entries]
    manifest = {"name": "tiny", "entries": entries, "targets": about, "arena_bytes": plan.arena_bytes,
                "state_bytes": 12, "weights_bytes": (folder / "weights.bin").stat().st_size, "layers": [], "pruning": {}}
    return bundle.write(tmp_path_factory.mktemp("made") / "tiny.ekb", manifest,
                        {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()})


def write_vectors(folder: Path) -> None:
    """Three cases an entry, in order from a reset; the state is the last y's first row."""
    for suffix, rows in (("", 1), (".two", 2)):
        x = np.arange(9 * rows, dtype=np.float32).reshape(3, rows, 3) - 2
        k, h, y, m = np.array([1, -5, 7], np.int32), np.zeros((1, 3), np.float32), [], []
        for case, number in zip(x, k):
            y.append(2 * case + h)
            h = y[-1][:1]
            m.append([number, (h > 1).sum()])
        np.savez(folder / f"vectors{suffix}.npz", in_x=x, in_k=k, expected_y=y, expected_m=np.array(m, np.int64))
    z = np.linspace(-1, 1, 2 * BIG, dtype=np.float32).reshape(2, BIG)
    np.savez(folder / "vectors.decode.npz", in_z=z, expected_w=z + 1)
    a = np.ones((2, 1), np.float32)
    np.savez(folder / "vectors.crash.npz", in_a=a, expected_b=a)
