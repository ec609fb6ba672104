"""Random graphs against onnxruntime: as plans in numpy, many; compiled and run for real, some.

What they have found stands at the end, small.
"""
import random
from math import prod

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

import edgekit as ek
from edgekit.exporters.emit import pack_weights
from edgekit.exporters.sparsify import prune_onnx
from tests.lower.drawing import EMPTY, SMALL, WIDE
from tests.lower.graphs import model, plan_of, reference
from tests.lower.random_graphs import random_graph
from tests.reference import Machine

FLOATS = 1e-3  # of an output's largest value: rounding is amplified in deep graphs, mistakes are larger


def same(got: np.ndarray, expected: np.ndarray, what: str) -> None:
    assert got.shape == expected.shape and got.dtype == expected.dtype, what
    scale = max(0.1, np.abs(expected.astype(np.float64)).max(initial=0))
    difference = np.abs(got.astype(np.float64) - expected.astype(np.float64)).max(initial=0)
    assert difference <= FLOATS * scale, f"{what}: {difference} of {scale}"


def in_numpy(m: onnx.ModelProto, feeds: dict) -> None:
    plan, weights = plan_of(m)
    got = Machine(plan, weights).run(plan.entries[0], feeds)
    makers = {o: n.op_type for n in m.graph.node for o in n.output}
    for name, expected in reference(m, feeds).items():
        same(got[name], expected, f"{name} of {makers[name]}")
    again, more = plan_of(m)
    assert again == plan and repr(again) == repr(plan) and pack_weights(again, more) == pack_weights(plan, weights)


def largest(m: onnx.ModelProto) -> int:
    """Elements of the largest tensor."""
    return max((prod(d.dim_value for d in v.type.tensor_type.shape.dim) for v in m.graph.value_info), default=0)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False), st.integers(0, 1 << 30), st.sampled_from([SMALL, SMALL, EMPTY, WIDE]))
def test_plans_of_random_graphs(r, seed, sizes):
    in_numpy(*random_graph(r, seed, sizes))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [SMALL, EMPTY, WIDE], ids=["small", "empty", "wide"])
def test_plans_of_many_random_graphs(sizes):
    for seed in range(300):
        m, feeds = random_graph(random.Random(seed), seed, sizes)
        if largest(m) > 1 << 22:
            continue  # a broadcast of a broadcast: gigabytes in numpy
        try:
            in_numpy(m, feeds)
        except Exception as e:
            raise AssertionError(f"random_graph(random.Random({seed}), {seed})") from e


def named_apart(m: onnx.ModelProto, feeds: dict, prefix: str) -> tuple[onnx.ModelProto, dict]:
    """The model and its inputs, whose names get a prefix."""
    names = {n: prefix + n for n in feeds}
    for node in m.graph.node:
        for k, n in enumerate(node.input):
            node.input[k] = names.get(n, n)
    for port in m.graph.input:
        port.name = names[port.name]
    return m, {names[n]: a for n, a in feeds.items()}


def compiled(seeds, output, sparsity=0.0, **how):
    """One bundle of many random graphs, and their inputs by entry."""
    models, feeds = {}, {}
    for seed in seeds:
        entry = f"g{seed}"
        m, f = random_graph(random.Random(seed), seed, (SMALL, WIDE, EMPTY, WIDE)[seed % 4])
        models[entry], feeds[entry] = named_apart(m, f, entry)
    if sparsity:  # by magnitude: one case a graph is no calibration
        models = {entry: prune_onnx([m], sparsity=sparsity, group=8).models[0] for entry, m in models.items()}
    calibration = {n: np.asarray(a)[None] for f in feeds.values() for n, a in f.items()}
    return ek.export(models, calibration=calibration, output=output, name="random", **how), feeds


def run_all(bundle, feeds, target="host", like=None):
    """Every entry against onnxruntime on the bundle's own model, or bit by bit against another bundle."""
    for entry in bundle.entries:
        inputs = {n: feeds[entry.name][n] for n in (p.name for p in entry.inputs)}
        got = bundle.run(inputs, entry=entry.name, target=target)
        expected = (like or bundle).run(inputs, entry=entry.name, target="host" if like else "onnx")
        for port, a, b in zip(entry.outputs, got, expected, strict=True):
            if like:
                assert a.tobytes() == b.tobytes(), f"{entry.name}.{port.name}: other bits"
            else:
                same(a, b, f"{entry.name}.{port.name}")


def test_random_graphs_compiled_give_the_same_on_one_thread_and_two(tmp_path):
    bundle, feeds = compiled(range(10), tmp_path / "random.ekb", sparsity=0.5)
    run_all(bundle, feeds)
    with ek.open(tmp_path / "random.ekb", threads=2) as two:
        run_all(two, feeds, like=bundle)


@pytest.mark.slow
@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_many_random_graphs_compiled(sparsity, tmp_path):
    bundle, feeds = compiled(range(100, 260), tmp_path / "random.ekb", sparsity=sparsity)
    run_all(bundle, feeds)
    with ek.open(tmp_path / "random.ekb", threads=2) as two:
        run_all(two, feeds, like=bundle)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["arm64", "wasm"])
def test_random_graphs_on_other_machines(target, tmp_path):
    bundle, feeds = compiled(range(300, 330), tmp_path / "random.ekb", targets=[target], sparsity=0.3)
    run_all(bundle, feeds, target)


# -- what they found -------------------------------------------------------------------------------------------------

def n(*shape, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(dtype)


def nodes(*lines: tuple) -> list[onnx.NodeProto]:
    """(operator, inputs, outputs, attributes) by line."""
    return [helper.make_node(op, i.split(), o.split(), name=f"{op}_{k}", **attrs) for k, (op, i, o, attrs) in enumerate(lines)]


def ints(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def test_images_whose_rows_are_reversed_or_broadcast(tmp_path):
    """Rows on top of each other divided a strip's size by zero."""
    flip = {"s": ints(-1), "e": ints(-100), "t": ints(-1)}
    cases = {
        "flip": ([("Slice", "flip_x s e a t", "v", {}), ("Conv", "v w", "y", {})], n(1, 3, 9, 20), {**flip, "a": ints(2), "w": n(8, 3, 3, 3)}),
        "batch": ([("Expand", "batch_x s", "v", {}), ("Conv", "v w", "y", {})], n(1, 3, 20), {"s": ints(4, 3, 20), "w": n(8, 3, 3)}),
        "rows": ([("Expand", "rows_x s", "v", {}), ("Conv", "v w", "y", {})], n(1, 3, 1, 20), {"s": ints(1, 3, 5, 20), "w": n(8, 3, 3, 3)}),
        "left": ([("Expand", "left_x s", "v", {}), ("MatMul", "w v", "y", {})], n(1, 7, 20), {"s": ints(4, 7, 20), "w": n(8, 7)}),
    }
    models = {k: model(nodes(*lines), {f"{k}_x": x}, ["y"], constants) for k, (lines, x, constants) in cases.items()}
    feeds = {k: {f"{k}_x": x} for k, (_, x, _) in cases.items()}
    calibration = {n: a[None] for f in feeds.values() for n, a in f.items()}
    run_all(ek.export(models, calibration=calibration, output=tmp_path / "rows.ekb", name="rows"), feeds)


def test_a_scalar_input_has_test_vectors(tmp_path):
    x = {"x": n(3), "k": np.asarray(0.5, np.float32)}
    bundle = ek.export(model(nodes(("Mul", "x k", "y", {})), x, ["y"]), output=tmp_path / "scalar.ekb", name="scalar")
    assert np.array_equal(bundle.run(x)[0], x["x"] * np.float32(0.5))


FOUND = {
    "a constant that widens a layer of one output": ([("Gemm", "x w", "g", {}), ("Add", "g c", "y", {})], {"x": n(9, 2)}, {"w": n(2, 1), "c": n(9)}),
    "product over nothing": ([("Slice", "x z z", "v", {}), ("Transpose", "v", "t", {}), ("MatMul", "t w", "p", {}), ("Gemm", "t w c", "g", {}),
                              ("Add", "p g", "y", {})], {"x": n(2, 3)}, {"z": ints(0), "w": n(0, 5), "c": n(5)}),
    "Gemm of float64": ([("Gemm", "x w c", "y", {"transB": 1, "alpha": 0.5, "beta": 2.0})], {"x": n(3, 4, dtype=np.float64)},
                        {"w": n(5, 4, dtype=np.float64), "c": n(5, dtype=np.float64)}),
    "integers through a product": ([("MatMul", "x x", "p", {}), ("Add", "p x", "s", {}), ("Cast", "s", "y", {"to": 1})],
                                   {"x": np.arange(9, dtype=np.int32).reshape(3, 3)}, {}),
    "the bias of a transposed convolution": ([("ConvTranspose", "x w c", "y", {})], {"x": n(1, 3, 4, 5), "c": n(4)}, {"w": n(3, 4, 3, 3)}),
    "an end before the beginning": ([("Slice", "x s e a", "v", {}), ("ReduceSum", "v a", "y", {})], {"x": n(5, 2)},
                                    {"s": ints(3), "e": ints(-1 << 63), "a": ints(0)}),
}


@pytest.mark.parametrize("name", FOUND)
def test_found(name):
    lines, feeds, constants = FOUND[name]
    in_numpy(model(nodes(*lines), feeds, ["y"], constants), feeds)


def test_a_power_of_a_product_computes_it_once():
    m = model(nodes(("MatMul", "x w", "p", {}), ("Pow", "p k", "y", {})), {"x": n(2, 8)}, ["y"], {"w": n(8, 8), "k": np.float32(3)})
    plan, _ = plan_of(m)
    assert len(plan.entries[0].steps) == 1
