"""ONNX models as torch modules: they train, their zeros stay, and they come back as ONNX."""
import copy

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import edgekit as ek
from edgekit.errors import InputError
from edgekit.exporters.sparsify import prune_onnx
from tests.lower.graphs import model

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)


def f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def node(op, inputs, outputs, **attrs):
    return helper.make_node(op, inputs.split(), outputs.split(), name=op + outputs.split()[0], **attrs)


def net():
    """x (1, 12, 32) through an LSTM, a norm and two linear layers; a mask and a number that are not to be trained."""
    nodes = [node("Transpose", "x", "t", perm=[1, 0, 2]), node("LSTM", "t W R B", "s h", hidden_size=32), node("Squeeze", "h a", "q"),
             node("LayerNormalization", "q g c", "n"), node("MatMul", "n M", "u"), node("Add", "u m", "v"), node("Sub", "one v", "w"),
             node("Mul", "w k", "z"), node("Gemm", "z O o", "y")]
    constants = {"W": f(1, 128, 32), "R": f(1, 128, 32) / 4, "B": f(1, 256), "a": np.asarray([0]), "g": 1 + f(32) / 9, "c": f(32), "M": f(32, 64),
                 "m": f(64), "one": np.float32(1), "k": f(64), "O": f(64, 4), "o": f(4)}
    return model(nodes, {"x": f(1, 12, 32)}, ["y"], constants)


def pruned() -> onnx.ModelProto:
    return prune_onnx([net()], sparsity=0.5, group=8).models[0]


def run(m: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.stack([session.run(None, {"x": case})[0] for case in x])


def steps(module, count: int, optimiser=None):
    torch.manual_seed(1)
    x, target = torch.randn(16, 12, 32), torch.randn(16, 4)
    optimiser = optimiser or torch.optim.AdamW(module.parameters(), 1e-2, weight_decay=0.1)
    losses = []
    for _ in range(count):
        optimiser.zero_grad()
        loss = ((module(x) - target) ** 2).mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses, optimiser


def test_it_trains_and_comes_back_with_its_zeros():
    begin = pruned()
    module = ek.trainable(begin)
    losses, _ = steps(module, 12)
    assert losses[-1] < 0.8 * losses[0]
    made = module.to_onnx()
    onnx.checker.check_model(made, full_check=True)
    x = f(3, 1, 12, 32)
    with torch.no_grad():
        assert np.allclose(module(torch.from_numpy(x)).numpy(), run(made, x), atol=1e-4)
    before, after = ({t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer} for m in (begin, made))
    changed = {n for n in before if not np.array_equal(before[n], after[n])}
    assert changed == set(before) - {"one", "a"} - {n for n in before if before[n].dtype.kind != "f"}
    for name in ("W", "R", "M"):
        assert (before[name] == 0).mean() == pytest.approx(0.5, abs=0.02)
        assert np.array_equal(before[name] == 0, after[name] == 0)
    assert np.array_equal(onnx.numpy_helper.to_array(begin.graph.initializer[0]), before[begin.graph.initializer[0].name])


def test_a_state_dict_resumes_exactly():
    module = ek.trainable(pruned())
    _, optimiser = steps(module, 3)
    saved = copy.deepcopy((module.state_dict(), optimiser.state_dict()))
    steps(module, 3, optimiser)
    again = ek.trainable(net())  # the masks come with the state, not from the model
    with pytest.raises(RuntimeError, match="state_dict"):
        again.load_state_dict(saved[0])
    again = ek.trainable(pruned())
    again.load_state_dict(saved[0])
    other = torch.optim.AdamW(again.parameters(), 1e-2, weight_decay=0.1)
    other.load_state_dict(saved[1])
    steps(again, 3, other)
    assert again.to_onnx() == module.to_onnx()


def test_layers_that_begin_alike_are_trained_apart():
    """Two layers with biases of zero; one of them is used twice, as in a loop."""
    nodes = [node("Gemm", "x A zero", "h"), node("Gemm", "h A zero", "g"), node("Tanh", "g", "t"), node("Gemm", "t B zero", "y")]
    m = model(nodes, {"x": f(1, 8)}, ["y"], {"A": f(8, 8), "B": f(8, 8), "zero": np.zeros(8, np.float32)})
    module = ek.trainable(m)
    (module(torch.ones(4, 8)) ** 2).sum().backward()
    torch.optim.SGD(module.parameters(), 0.1).step()
    made = module.to_onnx()
    first, second, third = (n.input[2] for n in made.graph.node if n.op_type == "Gemm")
    biases = {t.name: onnx.numpy_helper.to_array(t) for t in made.graph.initializer}
    assert first == second != third and biases[first].any() and not np.array_equal(biases[first], biases[third])
    onnx.checker.check_model(made, full_check=True)


def test_cases_and_names():
    module = ek.trainable(net())
    x = torch.randn(5, 12, 32)
    bare, whole = module(x), module(x=x[:, None])
    assert bare.shape == (5, 4) and whole.shape == (5, 1, 4) and torch.equal(bare, whole[:, 0])
    two = model([node("Add", "a b", "s"), node("MatMul", "s w", "y")], {"a": f(3, 8), "b": f(3, 8)}, ["y", "s"], {"w": f(8, 8)})
    y, s = ek.trainable(two)(b=torch.ones(2, 3, 8), a=torch.ones(2, 3, 8))
    assert y.shape == (2, 3, 8) and (s == 2).all()


@pytest.mark.parametrize("call", [lambda m: m(), lambda m: m(torch.ones(1, 1, 12, 32), torch.ones(1)), lambda m: m(y=torch.ones(2, 1, 12, 32)),
                                  lambda m: m(torch.ones(2, 12, 31))])
def test_wrong_inputs(call):
    with pytest.raises(InputError):
        call(ek.trainable(net()))


def test_a_file_and_its_shapes(tmp_path):
    m = net()
    m.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "steps"
    path = tmp_path / "net.onnx"
    onnx.save(m, path)
    assert ek.trainable(path, input_shapes={"steps": 5})(torch.zeros(2, 5, 32)).shape == (2, 4)
    with pytest.raises(InputError, match="2 shape variants"):
        ek.trainable(path, input_shapes={"steps": (5, 6)})
    with pytest.raises(InputError):
        ek.trainable(tmp_path / "nothing.onnx")
