"""Broken, hostile and unusable models: a clear error each, no crash, no traceback of others."""

import os
import sys

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekit.errors import EdgekitError, InputError, MissingToolError
from edgekit.exporters.load import isolate, load
from edgekit.exporters.load.clean import clean
from edgekit.exporters.load.onnx_file import parse
from tests.load.load_cases import FLOAT, is_clean, model, node

F32 = np.float32


def small(**changes):
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.standard_normal((4, 2, 3, 3)).astype(F32),
        "b": np.zeros(4, F32),
        "s": np.int64([1, -1]),
        "v": rng.standard_normal((4, 4 * 9)).astype(F32),
    }
    return model(
        [
            node("Conv", "x w b", "c", pads=[1, 1, 1, 1], strides=[1, 1]),
            node("Relu", "c", "r"),
            node("Reshape", "r s", "f"),
            node("Gemm", "f v", "y", transB=1),
        ],
        {"x": [1, 2, 3, 3]},
        "y",
        constants | changes,
        13,
    )


def refused(source, *parts, **arguments):
    with pytest.raises(InputError) as caught:
        load(source, **arguments)
    text = str(caught.value)
    assert caught.value.fix
    for part in parts:
        assert part in text, text


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "empty"),
        (b"\0" * 100, "not an ONNX model"),
        (b"<!DOCTYPE html><html></html>", "not an ONNX model"),
        (b"PK\3\4" + bytes(200), "not an ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (bytes(range(256)) * 8, "not an ONNX model"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "holds no graph"),
        (small().SerializeToString()[:-100], "not an ONNX model"),
    ],
    ids=["empty", "zeros", "html", "zip", "lfs-pointer", "bytes", "no-graph", "truncated"],
)
def test_files_that_are_no_models(tmp_path, content, part):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    refused(path, "broken.onnx", part)


def test_files_that_are_not_there(tmp_path):
    refused(tmp_path / "absent.onnx", "absent.onnx", "No such file")
    refused(str(tmp_path / "absent"), "no file")
    (tmp_path / "folder.onnx").mkdir()
    refused(tmp_path / "folder.onnx", "folder")
    refused(tmp_path / "weights.pth", "checkpoint")


def test_files_over_two_gigabytes(tmp_path):
    path = tmp_path / "huge.onnx"
    with path.open("wb") as stream:
        stream.truncate(1 << 31)  # sparse: takes no space
    refused(path, "2 GB")


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "loop.onnx"
    path.symlink_to(path)
    refused(path, "cannot be read")


def changed(change):
    proto = small()
    change(proto)
    return proto


def cycle(proto):
    proto.graph.node[0].input[0] = "f"
    proto.graph.node[0].name = "looping"


def twice(proto):
    proto.graph.node[1].output[0] = "c"


def set_attribute(index, key, value):
    def change(proto):
        kept = [a for a in proto.graph.node[index].attribute if a.name != key]
        del proto.graph.node[index].attribute[:]
        proto.graph.node[index].attribute.extend([*kept, helper.make_attribute(key, value)])

    return change


BROKEN = {
    "cycle": (cycle, "cycle: "),
    "made-twice": (twice, "produced twice"),
    "missing-input": (
        lambda p: p.graph.node[1].input.__setitem__(0, "ghost"),
        "'ghost' is used but nothing produces it",
    ),
    "missing-output": (lambda p: p.graph.output[0].__setattr__("name", "ghost"), "'ghost': nothing produces it"),
    "no-outputs": (lambda p: p.graph.ClearField("output"), "no outputs"),
    "nothing": (lambda p: p.graph.Clear(), "no outputs and no nodes"),
    "newer-opset": (lambda p: p.opset_import[0].__setattr__("version", 999), "opset 999"),
    "opset-0": (lambda p: p.opset_import[0].__setattr__("version", 0), "opset 0"),
    "no-opset": (lambda p: p.ClearField("opset_import"), "opset"),
    "newer-ir": (lambda p: p.__setattr__("ir_version", 99), "IR version 99"),
    "unknown-attribute": (set_attribute(0, "colour", 3), "colour"),
    "wrong-attribute-type": (set_attribute(0, "pads", "wide"), "pads"),
    "unknown-operator": (lambda p: p.graph.node[1].__setattr__("op_type", "Frobnicate"), "Frobnicate"),
    "too-many-inputs": (lambda p: p.graph.node[1].input.append("b"), "Relu"),
    "stride-0": (set_attribute(0, "strides", [0, 0]), "Conv"),
    "negative-stride": (set_attribute(0, "strides", [-1, -1]), "Conv"),
    "group-0": (set_attribute(0, "group", 0), "Conv"),
    "channels": (
        lambda p: p.graph.input[0].type.tensor_type.shape.dim[1].__setattr__("dim_value", 3),
        "Conv does not accept",
    ),
    "kernel-larger-than-image": (set_attribute(0, "pads", [-3, -3, -3, -3]), "Conv"),
    "shapes-do-not-fit": (lambda p: p.graph.initializer[3].dims.__setitem__(1, 35), "v"),
    "short-weight": (lambda p: p.graph.initializer[0].__setattr__("raw_data", b"abc"), "w"),
}


@pytest.mark.parametrize(
    "proto",
    [
        model([node("Split", "x", "y z", num_outputs=1)], {"x": [5, 2]}, "y z", opset=18),
        model(
            [node("GRU", "x w r", "y h", hidden_size=4)],
            {"x": [0, 1, 3]},
            "y h",
            {"w": np.ones((1, 12, 3), F32), "r": np.ones((1, 12, 4), F32)},
            7,
        ),
        model([helper.make_node("Relu", ["x"], ["x"])], {"x": [1]}, "x", opset=13),
        model([node("Cast", "x", "y", to=127)], {"x": [1]}, "y", opset=13),
        model([node("Relu", "x", "y")], {"x": (127, [1])}, "y", opset=13),
    ],
    ids=["split-outputs", "empty-gru", "output-is-input", "cast-to-unknown", "input-of-unknown-type"],
)
def test_what_fuzzing_found(proto):
    """The first two end the process in onnx and onnxruntime if they get there."""
    survives(proto.SerializeToString())


@pytest.mark.parametrize("name", BROKEN)
def test_broken_graphs(tmp_path, name):
    change, part = BROKEN[name]
    path = tmp_path / "m.onnx"
    path.write_bytes(changed(change).SerializeToString())
    refused(path, "m.onnx", part)


def misfit(op, x, extra, constants, opset=17, **attrs):
    return model([node(op, f"x {extra}", "y", **attrs)], {"x": x}, "y", constants, opset)


@pytest.mark.parametrize(
    "proto",
    [
        misfit("Gemm", [2, 3], "w", {"w": np.ones((4, 5), F32)}),
        misfit("Gemm", [2, 4], "w b", {"w": np.ones((4, 5), F32), "b": np.ones(4, F32)}),
        misfit("MatMul", [2, 3], "w", {"w": np.ones((4, 5), F32)}),
        misfit("LSTM", [5, 1, 3], "w r", {"w": np.ones((1, 16, 2), F32), "r": np.ones((1, 16, 4), F32)}, hidden_size=4),
        misfit(
            "GRU",
            [5, 1, 3],
            "w r b",
            {"w": np.ones((1, 12, 3), F32), "r": np.ones((1, 12, 4), F32), "b": np.ones((1, 12), F32)},
            hidden_size=4,
        ),
        misfit(
            "RNN",
            [5, 1, 3],
            "w r",
            {"w": np.ones((1, 4, 3), F32), "r": np.ones((1, 4, 4), F32)},
            hidden_size=4,
            direction="bidirectional",
        ),
        misfit("LayerNormalization", [2, 3], "s", {"s": np.ones(4, F32)}),
        misfit("InstanceNormalization", [2, 3, 4], "s s", {"s": np.ones(4, F32)}),
        misfit("PRelu", [2, 3], "s", {"s": np.ones(4, F32)}),
        misfit("ConvTranspose", [1, 3, 4], "w", {"w": np.ones((4, 3, 2), F32)}),
        misfit("Einsum", [2, 3], "w", {"w": np.ones((4, 5), F32)}, equation="ij,jk->ik"),
        misfit("Einsum", [2, 3], "w", {"w": np.ones((4, 5), F32)}, equation="i...j,j...k->ik"),
        misfit("Gather", [2, 3], "i", {"i": np.int64([3])}, axis=1),
        misfit("Reshape", [2, 3], "s", {"s": np.int64([2, 2])}),
        misfit("Reshape", [2, 3], "s", {"s": np.int64([2, 3, 0])}),
        misfit("Add", [2, 3], "w", {"w": np.ones(4, F32)}),
    ],
    ids=lambda p: p.graph.node[0].op_type,
)
def test_operands_that_do_not_fit(proto):
    refused(proto, f"{proto.graph.node[0].op_type}_0", "does not accept")


def test_unsorted_graphs_are_sorted():
    proto = small()
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    ((_, result),) = clean(proto)
    assert [n.op_type for n in result.graph.node] == ["Conv", "Relu", "Reshape", "Gemm"]


@pytest.mark.parametrize(("value", "text"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
@pytest.mark.parametrize("raw", [True, False])
def test_weights_that_are_not_finite_are_named(value, text, raw):
    weight = np.ones((4, 36), F32)
    weight[1, 2] = weight[3, 4] = value
    proto = small(v=weight)
    if not raw:
        tensor = helper.make_tensor("v", FLOAT, weight.shape, weight.reshape(-1))
        proto.graph.initializer[3].CopyFrom(tensor)
    refused(proto, "weight v", f"2 of 144 values are {text}")


def test_half_precision_and_constant_nodes_are_looked_at_too():
    refused(
        model(
            [node("Add", "x c", "y")],
            {"x": (TensorProto.FLOAT16, [1])},
            {"y": (TensorProto.FLOAT16, None)},
            {"c": np.float16([np.nan])},
            13,
        ),
        "weight c",
    )
    inside = helper.make_node("Constant", [], ["deep"], value=numpy_helper.from_array(F32([np.nan])))
    refused(model([inside, node("Add", "x deep", "y")], {"x": [1]}, "y", opset=13), "weight deep")


def test_infinite_masks_are_meant():
    mask = F32([[0, -np.inf], [0, 0]])
    load(model([node("Add", "x m", "s"), node("Softmax", "s", "y", axis=-1)], {"x": [2, 2]}, "y", {"m": mask}, 13))


def test_nan_out_of_folding_is_named():
    parameters = {"g": F32([1]), "h": F32([0]), "m": F32([0]), "v": F32([-1])}
    refused(model([node("BatchNormalization", "x g h m v", "y")], {"x": [1, 1]}, "y", parameters, 15), "is NaN")


def test_inputs_and_outputs_that_are_no_tensors():
    proto = model([node("SequenceAt", "x k", "y")], {}, "y", {"k": np.int64(0)}, 13)
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, [1]))
    proto.graph.input.append(helper.make_value_info("x", kind))
    refused(proto, "input x", "no tensor")
    proto = model([node("SequenceConstruct", "x", "y")], {"x": [1]}, {}, opset=13)
    proto.graph.output.append(helper.make_value_info("y", kind))
    refused(proto, "output y", "sequence")


def test_text_is_refused():
    proto = model([node("Identity", "c", "d"), node("Relu", "x", "y")], {"x": [1]}, "y", opset=13)
    proto.graph.initializer.append(helper.make_tensor("c", TensorProto.STRING, [1], [b"text"]))
    refused(proto, "constant c", "strings")


# ---- external data


def external(folder, location, offset=None, length=None):
    proto = small()
    tensor = proto.graph.initializer[3]
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    folder.mkdir(exist_ok=True)
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path, data


def test_external_data_beside_the_model(tmp_path):
    path, data = external(tmp_path / "m", "sub/weights.bin", 16, 576)
    (path.parent / "sub").mkdir()
    (path.parent / "sub/weights.bin").write_bytes(bytes(16) + data + bytes(8))
    loaded = load(path)
    np.testing.assert_array_equal(
        numpy_helper.to_array(next(i for i in loaded.variants[0].model.graph.initializer if list(i.dims) == [4, 36])),
        np.frombuffer(data, F32).reshape(4, 36),
    )


@pytest.mark.parametrize(
    "location",
    [
        "../weights.bin",
        "/etc/passwd",
        "sub/../../weights.bin",
        "C:\\weights.bin",
        "..\\weights.bin",
        "\\\\host\\share",
        "",
        "a\0b",
        "link",
        "linked/weights.bin",
    ],
)
def test_external_data_outside_is_refused(tmp_path, location):
    path, data = external(tmp_path / "m", location)
    (tmp_path / "weights.bin").write_bytes(data)
    if hasattr(os, "symlink"):
        (path.parent / "link").symlink_to(tmp_path / "weights.bin")
        (path.parent / "linked").symlink_to(tmp_path, target_is_directory=True)
    refused(path, "weight v", "folder")


@pytest.mark.parametrize(
    ("offset", "length", "part"),
    [
        (600, 576, "too few"),
        (-5, 576, "too few"),
        (0, 10**15, "too few"),
        ("x", 576, "no number"),
        (0, 12, "does not fit"),
    ],
)
def test_external_data_of_the_wrong_size(tmp_path, offset, length, part):
    path, data = external(tmp_path / "m", "weights.bin", offset, length)
    (path.parent / "weights.bin").write_bytes(data)
    refused(path, "weight v", part) if part != "does not fit" else refused(path, "v")


def test_external_data_that_is_not_there(tmp_path):
    path, _ = external(tmp_path / "m", "weights.bin")
    refused(path, "weights.bin", "cannot be read")
    (path.parent / "weights.bin").mkdir()
    refused(path, "is no file")


# ---- crashes and noise


def test_a_crash_of_native_code_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    path.write_bytes(small().SerializeToString())
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nkill -SEGV $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(InputError, match="crashed .SIGSEGV."):
        isolate.clean_file(path, None, None)


def test_the_child_finds_the_package_and_reports_bugs_shortly(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    path.write_bytes(small().SerializeToString())
    monkeypatch.chdir(tmp_path)
    assert [v.name for v in load("m.onnx").variants] == ["run"]


def test_nothing_is_printed(tmp_path, capfd):
    path = tmp_path / "m.onnx"
    path.write_bytes(small().SerializeToString())
    load(path)
    load(small())
    out, _ = capfd.readouterr()
    assert out == ""


@pytest.mark.parametrize(
    ("package", "source", "extra"),
    [
        ("onnx", "m.onnx", "[export]"),
        ("onnxruntime", "m.onnx", "[export]"),
        ("torch", "module:callable", "[torch]"),
        ("onnxscript", "module:callable", "[torch]"),
    ],
)
def test_missing_packages_are_named_with_what_brings_them(monkeypatch, package, source, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingToolError, match=f"{package} is not installed") as caught:
        load(source)
    assert caught.value.exit_code == 3 and f"edgekit-deploy{extra}" in caught.value.fix


# ---- fuzz: any file gives a clean model or an EdgekitError

SMALL = small().SerializeToString()
FUZZ = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def survives(data):
    try:
        variants = clean(parse(data, "fuzzed"))
    except EdgekitError as error:
        assert str(error)
        return
    for _, result in variants:
        is_clean(result)


@FUZZ
@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_flipped_bytes(flips):
    data = bytearray(SMALL)
    for at, value in flips:
        data[at] = value
    survives(bytes(data))


@FUZZ
@given(st.integers(0, len(SMALL) - 1), st.integers(0, 40))
def test_missing_bytes(at, count):
    survives(SMALL[:at])
    survives(SMALL[:at] + SMALL[at + count :])


STRUCTURE = [k for k, byte in enumerate(SMALL) if k < 140 or k > len(SMALL) - 60]


@FUZZ
@given(st.lists(st.tuples(st.sampled_from(STRUCTURE), st.integers(0, 255)), min_size=1, max_size=3))
def test_flipped_bytes_of_the_graph(flips):
    """Most bytes are weights; these are nodes, attributes and shapes."""
    data = bytearray(SMALL)
    for at, value in flips:
        data[at] = value
    survives(bytes(data))
