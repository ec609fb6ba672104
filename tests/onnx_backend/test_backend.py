"""ONNX's own backend tests through `edgekit.onnx_backend`, against the list of what is known not to pass (expected.txt)."""
import os
import re
import tempfile
import unittest
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import EdgekitError, InputError, ShapeError, UnsupportedError

pytest.importorskip("onnx", reason="needs the [export] extra")
pytest.importorskip("tvm", reason="needs the [export] extra")

import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test import BackendTest
from onnx.backend.test.loader import load_model_tests

import edgekit.onnx_backend as backend

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
PASSING = {"node": 1493, "simple": 15, "pytorch-converted": 82, "pytorch-operator": 35}  # of onnx 1.23
pytestmark = pytest.mark.filterwarnings("ignore")


def expected() -> dict[str, str]:
    """{kind/name: reason} of the cases that do not pass."""
    reason, found = "", {}
    for line in Path(__file__).with_name("expected.txt").read_text("utf-8").splitlines():
        if line.startswith("["):
            reason = line.strip("[]")
        elif line and not line.startswith("#"):
            found[line] = reason
    return found


def _array(value):
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else value


def _stored(path: Path, info: onnx.ValueInfoProto):
    tensor = TensorProto()
    if not info.type.HasField("tensor_type"):
        return None  # a sequence or an optional
    tensor.ParseFromString(path.read_bytes())
    return numpy_helper.to_array(tensor)


def data(case) -> tuple[onnx.ModelProto, list, list]:
    """(model, inputs, outputs) of a case, which is in memory or in a folder."""
    if case.model is not None:
        inputs, outputs = case.data_sets[0]
        return case.model, [*map(_array, inputs)], [*map(_array, outputs)]
    folder = Path(case.model_dir)
    model, values = onnx.load(folder / "model.onnx"), folder / "test_data_set_0"
    sides = [[_stored(p, v) for k, v in enumerate(infos) if (p := values / f"{side}_{k}.pb").exists()]
             for side, infos in (("input", model.graph.input), ("output", model.graph.output))]
    return model, *sides


def cases(pattern: str = "") -> Iterator[tuple[str, object]]:
    for kind in KINDS:
        for case in load_model_tests(kind=kind):
            if re.search(pattern, case.name):
                yield f"{kind}/{case.name}", case


def outcome(case) -> str:
    """"" if the backend gives the expected outputs, else what happened."""
    model, inputs, outputs = data(case)
    try:
        found = backend.prepare(model).run(inputs)
    except (UnsupportedError, ShapeError) as error:
        return f"unsupported: {error}"
    except EdgekitError as error:
        return f"{type(error).__name__}: {error}"
    for got, want in zip(found, outputs, strict=True):
        if got.dtype != want.dtype or got.shape != want.shape:
            return f"wrong: {got.dtype}{got.shape} instead of {want.dtype}{want.shape}"
        try:
            np.testing.assert_allclose(got, want, rtol=case.rtol, atol=case.atol)
        except AssertionError as error:
            return f"wrong: {' '.join(str(error).split())[:200]}"
    return ""


def surprises(found: dict[str, str]) -> dict[str, str]:
    """Outcomes that are not as expected.txt says."""
    known, odd = expected(), {}
    for name, what in found.items():
        reason = known.get(name, "")
        kind = "wrong" if reason.startswith("rounding") else "unsupported" if reason else ""
        if what.partition(":")[0] != kind:
            odd[name] = what or f"passes, though it is listed under {reason!r}"
    return odd


SAMPLE = (r"^test_(add|gemm_all_attributes|basic_conv_with_padding|convtranspose_pads|lstm_with_peepholes|gru_seq_length|simple_rnn_batchwise|"
          r"reduce_sum_do_not_keepdims_random|resize_upsample_scales_linear_align_corners|softmax_axis_1|layer_normalization_2d_axis1|"
          r"gathernd_example_float32|scatter_elements_with_reduction_max|top_k|einsum_batch_diagonal|qlinearconv|dynamicquantizelinear|"
          r"gridsample_bicubic|maxpool_with_argmax_2d_precomputed_pads|attention_4d_gqa|cast_FLOAT_to_FLOAT8E5M2|nonzero_example|"
          r"string_concat|bernoulli|scan_sum|identity_sequence|dft_inverse|Linear|Conv2d_groups|operator_mm|single_relu_model)$")


def test_a_sample_of_onnx_s_tests():
    _compile_kernels(SAMPLE)
    found = {name: outcome(case) for name, case in cases(SAMPLE)}
    assert len(found) > 25
    assert not surprises(found)


@pytest.mark.slow
def test_every_tenth_of_onnx_s_tests():
    """EDGEKIT_EVERY_CASE=1 runs all of them and counts: ten to twenty minutes."""
    every = os.environ.get("EDGEKIT_EVERY_CASE") == "1"
    chosen = list(cases())[::1 if every else 10]
    names = "|".join(re.escape(case.name) for _, case in chosen)
    _compile_kernels(rf"^({names})$")
    found = {name: outcome(case) for name, case in chosen}
    assert len(found) > 150 and not surprises(found)
    if every:
        passed = Counter(name.partition("/")[0] for name, what in found.items() if not what)
        assert passed == PASSING
    assert not set(expected()) - {name for name, _ in cases()}, "names that ONNX does not have"


def _compile_kernels(pattern: str = "") -> None:
    """The kernels of all models at once, in one process: the cases then find them in the cache."""
    from edgekit import targets
    from edgekit.exporters.emit import compile_kernels
    from edgekit.exporters.load import load
    from edgekit.exporters.lower import lower, supported
    kernels = []
    for _, case in cases(pattern):
        model, inputs, _ = data(case)
        try:
            named = dict(zip([v.name for v in model.graph.input], inputs, strict=False))
            loaded = load(backend._bound(model, named), keep=supported(), name="model")
            kernels += [s.kernel for s in lower("model", [(v.name, v.model) for v in loaded.variants])[0].entries[0].steps]
        except (EdgekitError, AttributeError, TypeError):  # `outcome` says what is wrong
            continue
    with tempfile.TemporaryDirectory() as work:
        compile_kernels(kernels, targets.load("host"), "all", Path(work))


def test_through_onnx_s_own_runner():
    """The classes that `onnx.backend.test` makes of a backend."""
    made = BackendTest(backend, __name__).include(r"^test_(relu|reduce_max_default_axes_keepdims_example)_cpu$").test_cases
    suite = unittest.TestSuite(case(name) for case in made.values() for name in dir(case) if re.match(r"test_(relu|reduce_max_d.*example)_cpu$", name))
    result = unittest.TestResult()
    suite.run(result)
    assert result.testsRun >= 2 and not result.errors and not result.failures, (result.errors, result.failures)


def test_a_model_of_open_shapes_compiles_for_each():
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])])
    made = backend.prepare(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    for n in (1, 4, 1):
        a = np.random.default_rng(n).normal(size=(n, 3)).astype(np.float32)
        np.testing.assert_array_equal(made.run([a]).y, np.maximum(a, 0))
        np.testing.assert_array_equal(made.run({"x": a})[0], np.maximum(a, 0))


def test_run_node_and_devices():
    node = helper.make_node("Split", ["x", "sizes"], ["a", "b"], axis=1)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    a, b = backend.run_node(node, [x, np.array([1, 2])])
    np.testing.assert_array_equal(a, x[:, :1])
    np.testing.assert_array_equal(b, x[:, 1:])
    assert backend.supports_device("CPU") and backend.supports_device("CPU:0") and not backend.supports_device("CUDA")


def test_bad_use_is_an_error():
    node = helper.make_node("Add", ["a", "b"], ["c"])
    one = np.ones(2, np.float32)
    with pytest.raises(InputError, match="reads 2"):
        backend.run_node(node, [one])
    with pytest.raises(UnsupportedError, match="CUDA"):
        backend.run_node(node, [one, one], device="CUDA")
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info(n, 1, [2]) for n in "ab"], [helper.make_tensor_value_info("c", 1, [2])])
    made = backend.prepare(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    with pytest.raises(InputError, match="3 inputs"):
        made.run([one] * 3)
    with pytest.raises(UnsupportedError, match="no array"):
        made.run([one, "text"])
    with pytest.raises(InputError):
        made.run([one, np.ones(3, np.float32)])
    with pytest.raises(InputError):
        made.run([one])
