"""What an evaluation may return, and what it runs."""
import numpy as np
import pytest

from edgekit.errors import InputError
from edgekit.fitting.evaluation import Runner, digest, drop, resolve, scores
from tests.sparsify.test_oneshot import MLP, MLP_WEIGHTS, net, run


@pytest.mark.parametrize("given, words", [
    ("nonsense", "no module:callable"), (3, "no module:callable"), ("no_such_module:f", "cannot be imported: ModuleNotFoundError"),
    ("tests.fitting.evaluations:nothing", "cannot be imported: AttributeError"), ("tests.fitting.evaluations:np", "nothing that can be called")])
def test_what_is_no_evaluation(given, words):
    with pytest.raises(InputError, match=words):
        resolve(given)


@pytest.mark.parametrize("told", [None, "good", float("nan"), float("inf"), True, [], {}, {"in": None}, {"in": 1.0, "out": float("nan")}, np.zeros(2)])
def test_nonsense_is_refused(told):
    with pytest.raises(InputError, match="the evaluation returned"):
        scores(lambda run: told, None, "mine")


def test_an_evaluation_that_raises_is_named():
    with pytest.raises(InputError, match=r"tests.*the evaluation raised RuntimeError: no data"):
        scores(resolve("tests.fitting.evaluations:fails"), None, "tests.fitting.evaluations:fails")


def test_scores_and_the_worst_domain():
    assert scores(lambda run: np.float32(0.5), None, "") == {"": 0.5}
    dense = {"in": 0.8, "out": -4.0}
    assert drop(dense, {"in": 0.76, "out": -4.4}) == pytest.approx(0.1)
    assert drop(dense, {"in": 0.9, "out": -3.9}) < 0
    assert drop({"": 0.0}, {"": -0.25}) == 0.25
    with pytest.raises(InputError, match="other domains"):
        drop(dense, {"in": 1.0})


def test_the_runner_takes_arrays_in_order_or_by_name():
    model, x = net(MLP, **MLP_WEIGHTS), np.random.default_rng(0).standard_normal((1, 64)).astype(np.float32)
    runner, expected = Runner([model]), run(model, x=x)[0]
    for given in (x, {"x": x}, x.astype(np.float64)):
        np.testing.assert_allclose(runner(given)[0], expected, rtol=1e-5)
    for wrong in ((), (x, x), (x[:, :3],), ({"z": x},)):
        with pytest.raises(InputError, match=r"it takes x \[1, 64\]"):
            runner(*wrong)


def test_shape_variants_choose_themselves_and_state_is_fed_back():
    one, four = net(MLP, **MLP_WEIGHTS), net(MLP, "float[4,64] x", "float[4,8] y", **MLP_WEIGHTS)
    assert Runner([one, four])(np.zeros((4, 64), np.float32))[0].shape == (4, 8)
    adds = Runner([net("h2 = Add(h, x) y = Neg(h2)", "float[2] x, float[2] h", "float[2] y, float[2] h2")], [("h", "h2")])
    ones = np.ones(2, np.float32)
    assert [adds(ones)[0][0] for _ in range(3)] == [-1, -2, -3]
    adds.reset()
    assert adds(ones)[0][0] == -1


def test_another_source_is_another_evaluation():
    size, fails = (resolve(f"tests.fitting.evaluations:{name}") for name in ("size", "fails"))
    assert digest(size) == digest(size) != digest(fails) != digest(print)
