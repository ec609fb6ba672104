"""Schedules: balanced groups and exact zeros after every step, one budget, and runs that go on as if they had never stopped."""
import copy
import io

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgekit as ek
from edgekit.errors import InputError
from edgekit.exporters.sparsify import find_groups, remove, summary
from tests.lower.graphs import model as graph

torch = pytest.importorskip("torch")
from torch import nn

from edgekit.exporters.sparsify.masked import masks

pytestmark = pytest.mark.usefixtures("seeded")


def adam(parameters):
    return torch.optim.AdamW(parameters, 1e-2, weight_decay=0.1)


class Net(nn.Module):
    """x (n, 6, 12) to (n, 3): a convolution in time, a GRU and linear layers of different widths."""

    def __init__(self, width=24, hidden=20):
        super().__init__()
        self.first, self.conv = nn.Conv1d(12, 16, 1), nn.Conv1d(16, width, 3, padding=1)
        self.rnn, self.inner, self.head = nn.GRU(width, hidden, batch_first=True), nn.Linear(hidden, 40), nn.Linear(40, 3)

    def forward(self, x):
        y = torch.relu(self.conv(torch.relu(self.first(x.mT))))
        return self.head(torch.relu(self.inner(self.rnn(y.mT)[0].mean(1))))


def data():
    rng = torch.Generator().manual_seed(5)
    x = torch.randn(32, 6, 12, generator=rng)
    return x, torch.stack([x.mean((1, 2)), x[:, 0, 0], x.std((1, 2))], 1)


def train(module, optimizer, schedule, steps, check=lambda: None, x=None):
    inputs, aim = data()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (module(inputs if x is None else x) - aim).square().mean()
        loss.backward()
        optimizer.step()
        schedule.step()
        check()
        losses.append(float(loss.detach()))
    return losses


def kept(module):
    """{weight: inputs that each group reads}; asserts that groups are equal, of their rows alone, and that all else is zero."""
    found = {}
    for name, chain in masks(module):
        reads = chain[0].reads
        counts = reads.sum(-1).unique()
        assert len(counts) == 1, name
        weight = chain().detach()
        assert not weight[~chain[0].mask].any() and chain[0].sums(chain[0].mask.float())[~reads].sum() == 0
        assert int(chain[0].mask.sum()) * reads.shape[-1] == int(counts) * chain[0].mask.numel()
        found[name] = int(counts)
    return found


def weights(module):
    return sum(int(chain[0].mask.sum()) for _, chain in masks(module))


def begin(kind, make=Net, optimizer=adam, sparsity=0.5, group=4, **options):
    torch.manual_seed(1)
    random = kind is ek.Dynamic
    module = ek.prune(make(), data()[0], sparsity=sparsity, group=group, score="random" if random else "magnitude",
                      allocation="erk" if random else "uniform")
    optimizer = optimizer(module.parameters())
    return module, optimizer, kind(module, optimizer, **{"steps": 12, "every": 3} | options)


@settings(max_examples=12, deadline=None)
@given(width=st.integers(8, 40), hidden=st.integers(5, 24), group=st.sampled_from([1, 3, 4, 8, "auto"]), sparsity=st.floats(0.3, 0.9),
       every=st.integers(1, 5), options=st.sampled_from(
           [(ek.Gradual, {}), (ek.Dynamic, {}), (ek.Dynamic, {"growth": "random"}), (ek.Dynamic, {"redistribute": False}),
            (ek.Dynamic, {"redistribute": False, "growth": "random"}), (ek.Dynamic, {"fraction": 0.99})]))
def test_groups_are_balanced_and_the_budget_holds_after_every_step(width, hidden, group, sparsity, every, options):
    kind, options = options
    module, optimizer, schedule = begin(kind, lambda: Net(width, hidden), sparsity=sparsity, group=group, every=every, **options)
    plan, budget, step = kept(module), weights(module), max(c[0].mask[:, 0].numel() for _, c in masks(module))
    seen = []

    def check():
        seen.append(kept(module))
        if kind is ek.Dynamic:
            assert abs(weights(module) - budget) <= step / 2
        if not options.get("redistribute", True):
            assert seen[-1] == plan
    train(module, optimizer, schedule, 10, check)
    assert kind is ek.Gradual or len(seen) == 10
    plain = remove(copy.deepcopy(module))
    for name, chain in masks(module):
        v = chain[0].rows.shape[-1]
        w = plain.get_parameter(name).detach().numpy()
        assert v == 1 or (np.count_nonzero(w.reshape(len(w), -1), axis=1) <= seen[-1][name]).all()


def test_gradual_goes_from_dense_along_a_cubic_and_stays():
    dense = Net()
    x = data()[0]
    module = ek.prune(dense, x, sparsity=0.75, group=4)
    optimizer, plan = adam(module.parameters()), kept(module)
    schedule = ek.Gradual(module, optimizer, steps=10, every=1)
    assert torch.equal(module(x), dense(x))
    assert all(layer.sparsity == 0 for layer in summary(module))
    seen = []
    train(module, optimizer, schedule, 14, lambda: seen.append(kept(module)))
    for name, last in plan.items():
        inputs = dict(masks(module))[name][0].reads.shape[-1]
        counts = [s[name] for s in seen]
        assert counts[9:] == [last] * 5 and counts == sorted(counts, reverse=True)
        for t, count in enumerate(counts[:10], 1):
            assert count == pytest.approx(inputs - (inputs - last) * (1 - (1 - t / 10) ** 3), abs=0.51)
    assert {layer.name for layer in summary(module) if layer.sparsity} == {"conv", "rnn.weight_ih_l0", "rnn.weight_hh_l0", "inner"}


def test_gradual_drops_the_least_and_nothing_comes_back():
    module, optimizer, schedule = begin(ek.Gradual, every=1)
    before = {}

    def check():
        for name, chain in masks(module):
            now = chain[0].reads
            if name in before:
                was, worth = before[name]
                assert not (now & ~was).any()
                gone = was & ~now
                assert torch.where(gone, worth, 0).amax(-1).le(torch.where(now, worth, torch.inf).amin(-1)).all()
            before[name] = now, None
    original = schedule._update

    def update():
        for name, chain in masks(module):
            if name in before:
                before[name] = before[name][0], chain[0].sums(chain.original.square())
        original()
    schedule._update = update
    train(module, optimizer, schedule, 1)
    check()
    train(module, optimizer, schedule, 11, check)


def test_dynamic_grows_where_the_gradient_is_largest():
    module, optimizer, schedule = begin(ek.Dynamic, optimizer=lambda p: torch.optim.SGD(p, 1e-4), every=1, redistribute=False)
    inputs, aim = data()
    chain = dict(masks(module))["inner.weight"]
    before = chain[0].reads
    twin = remove(copy.deepcopy(module))
    (twin(inputs) - aim).square().mean().backward()
    wanted = chain[0].sums(twin.inner.weight.grad.square())
    train(module, optimizer, schedule, 1)
    grown = chain[0].reads & ~before
    assert grown.any()
    left = ~chain[0].reads & ~before
    assert (torch.where(grown, wanted, torch.inf).amin(-1) >= torch.where(left, wanted, 0).amax(-1)).all()


def test_the_budget_moves_to_the_layer_that_uses_it():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle, self.head = nn.Linear(48, 32), nn.Linear(48, 32), nn.Linear(64, 4)

        def forward(self, x):
            return self.head(torch.cat([torch.relu(self.used(x)), 1e-3 * torch.relu(self.idle(x))], 1))

    x = torch.randn(64, 48)
    aim = torch.randn(64, 4)
    module = ek.prune(Two(), x, sparsity=0.8, group=4, score="random")
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    schedule = ek.Dynamic(module, optimizer, steps=40, every=4)
    for _ in range(40):
        optimizer.zero_grad()
        (module(x) - aim).square().mean().backward()
        optimizer.step()
        schedule.step()
    found = kept(module)
    assert found["used.weight"] > 1.2 * found["idle.weight"] and weights(module) == pytest.approx(0.2 * 2 * 48 * 32, rel=0.05)


@pytest.mark.parametrize("optimizer", [lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), adam, lambda p: torch.optim.RMSprop(p, 1e-2, momentum=0.9),
                                       lambda p: torch.optim.Adam(p, 1e-2, amsgrad=True, foreach=True), lambda p: torch.optim.Adagrad(p, 1e-2)])
def test_no_past_of_dropped_and_grown_weights(optimizer):
    module, optimizer, schedule = begin(ek.Dynamic, optimizer=optimizer, every=2, fraction=0.6, redistribute=False)
    train(module, optimizer, schedule, 1)
    before = {name: chain[0].mask.clone() for name, chain in masks(module)}
    train(module, optimizer, schedule, 1)
    for name, chain in masks(module):
        mask = chain[0].mask
        assert (mask & ~before[name]).any() and not chain()[mask & ~before[name]].any(), name
        remembered = [v for v in optimizer.state[chain.original].values() if v.shape == mask.shape]
        assert remembered and all(not v[mask != before[name]].any() for v in remembered)
        assert any(v[mask & before[name]].any() for v in remembered)


RUNS = [(ek.Gradual, {}), (ek.Dynamic, {}), (ek.Dynamic, {"growth": "random", "every": 1})]


@pytest.mark.parametrize("kind, options", RUNS)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
@pytest.mark.parametrize("at", [5, 7])
def test_a_saved_run_goes_on_bit_by_bit(kind, options, order, at):
    through, stopped = begin(kind, **options), begin(kind, **options)
    expected = train(*through, 12)
    first = train(*stopped, at)
    file = io.BytesIO()
    torch.save([part.state_dict() for part in stopped], file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    again = begin(kind, **options)
    train(*again, 2)                            # what it did before does not matter
    for part in order:
        again[part].load_state_dict(state[part])
    assert first + train(*again, 12 - at) == expected
    assert all(torch.equal(v, through[0].state_dict()[k]) for k, v in again[0].state_dict().items())
    assert again[2].state_dict().keys() == through[2].state_dict().keys() and summary(again[0]) == summary(through[0])


@pytest.mark.parametrize("kind, options", RUNS)
def test_copies_go_their_own_way(kind, options):
    run = begin(kind, **options)
    train(*run, 5)
    twin = copy.deepcopy(run)
    alone = copy.deepcopy(run[0])
    assert train(*twin, 7) == train(*run, 7)
    kept(alone)
    assert any(not torch.equal(a[0].mask, b[0].mask) for (_, a), (_, b) in zip(masks(alone), masks(run[0])))


@pytest.mark.parametrize("kind, options", RUNS)
def test_bfloat16_and_autocast(kind, options):
    module, optimizer, schedule = begin(kind, **options)
    x, aim = data()
    for _ in range(6):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = (module(x).float() - aim).square().mean()
        loss.backward()
        optimizer.step()
        schedule.step()
        kept(module)
    module, optimizer, schedule = begin(kind, **options)
    module.bfloat16()
    train(module, optimizer, schedule, 6, lambda: kept(module), x.bfloat16())
    assert all(chain().dtype == torch.bfloat16 for _, chain in masks(module))


@pytest.mark.parametrize("kind, options", RUNS)
def test_an_onnx_model_trains_sparse(kind, options):
    from tests.sparsify.test_trainable import net
    torch.manual_seed(0)
    x = torch.randn(8, 12, 32)
    module = ek.prune(ek.trainable(net()), x, sparsity=0.6, group=8, score="random" if kind is ek.Dynamic else "magnitude")
    assert {layer.name for layer in summary(module) if layer.group} == {"LSTMs.W", "LSTMs.R", "MatMulu"}
    optimizer = adam(module.parameters())
    schedule = kind(module, optimizer, **{"steps": 6, "every": 2} | options)
    for _ in range(6):
        optimizer.zero_grad()
        (module(x) - 1).square().mean().backward()
        optimizer.step()
        schedule.step()
        kept(module)
    made = {t.name: onnx.numpy_helper.to_array(t) for t in module.to_onnx().graph.initializer}
    assert sum(np.mean(made[n] == 0) * made[n].size for n in "WRM") == pytest.approx(0.6 * (2 * 128 * 32 + 32 * 64), rel=0.05)
    for name, w in (("W", made["W"][0]), ("R", made["R"][0]), ("M", made["M"].T)):
        assert find_groups(w).v == 8 or np.mean(w == 0) < 0.1, name


def test_an_onnx_model_inside_a_module():
    from tests.sparsify.test_trainable import net
    whole = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), ek.trainable(net()))
    sparse = ek.prune(whole, torch.randn(4, 12, 32), group=8)
    assert {layer.name for layer in summary(sparse) if layer.group} == {"0", "2.LSTMs.W", "2.LSTMs.R", "2.MatMulu"}
    schedule = ek.Gradual(sparse, adam(sparse.parameters()), steps=1)
    schedule.step()
    assert {round(kept(sparse)[name] / 32, 2) for name in kept(sparse)} == {0.5} and len(kept(sparse)) == 4


def test_zeros_of_an_onnx_model_stay_where_it_is_not_pruned():
    w = np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)
    w[::2] = 0
    given = graph([onnx.helper.make_node("MatMul", ["x", "w"], ["h"], name="a"), onnx.helper.make_node("MatMul", ["h", "u"], ["y"], name="b")],
                  {"x": np.zeros((8, 32), np.float32)}, ["y"], {"w": w, "u": w[::-1].copy() + 1})
    module = ek.prune(ek.trainable(given), torch.ones(2, 8, 32), sparsity={"b": 0.5}, group=8)
    a, b = summary(module)
    assert (a.sparsity, a.group) == (0.5, None) and (b.sparsity, b.group) == (0.5, 8)
    optimizer = adam(module.parameters())
    module(torch.ones(2, 8, 32)).square().sum().backward()
    optimizer.step()
    assert {n: int((onnx.numpy_helper.to_array(t) == 0).sum()) for t in module.to_onnx().graph.initializer for n in [t.name]} == {"w": 512, "u": 512}


def test_a_gradient_that_is_not_finite_delays_the_exchange():
    module, optimizer, schedule = begin(ek.Dynamic, every=2)
    state = copy.deepcopy((module.state_dict(), optimizer.state_dict()))
    train(module, optimizer, schedule, 1)
    before = {name: chain[0].mask.clone() for name, chain in masks(module)}
    (module(data()[0]) * torch.inf).sum().backward()
    schedule.step()                             # as a GradScaler does it: no step of the optimiser
    assert all(torch.equal(chain[0].mask, before[name]) for name, chain in masks(module))
    module.load_state_dict(state[0])
    train(module, optimizer, schedule, 1)
    assert any(not torch.equal(chain[0].mask, before[name]) for name, chain in masks(module))


@pytest.mark.parametrize("kind", [ek.Gradual, ek.Dynamic])
def test_weights_that_are_not_finite(kind):
    module, _, schedule = begin(kind, every=1)
    with torch.no_grad():
        module.inner.parametrizations.weight.original.fill_(torch.nan)
    with pytest.raises(InputError, match=r"(?s)inner.weight: the weights are not finite after 1 steps.*learning rate"):
        for _ in range(12):
            module(data()[0]).nan_to_num().sum().backward()
            schedule.step()


def test_nan_behind_a_mask_stays_there():
    module, _, _ = begin(ek.Dynamic)
    chain = module.inner.parametrizations.weight
    with torch.no_grad():
        chain.original[~chain[0].mask] = torch.nan
    module(data()[0]).square().sum().backward()
    assert chain().isfinite().all() and chain.original.grad.isfinite().all()


def test_a_loop_that_forgets_the_backward_pass():
    _, _, schedule = begin(ek.Dynamic, every=3)
    with pytest.raises(InputError, match=r"(?s)no gradient .* in step 3.*loss.backward"):
        for _ in range(3):
            schedule.step()


@pytest.mark.parametrize("kind", [ek.Gradual, ek.Dynamic])
def test_more_steps_than_planned_change_no_mask(kind):
    module, optimizer, schedule = begin(kind, steps=4, every=1)
    train(module, optimizer, schedule, 4)
    before = {name: chain[0].mask.clone() for name, chain in masks(module)}
    losses = train(module, optimizer, schedule, 20)
    assert all(torch.equal(chain[0].mask, before[name]) for name, chain in masks(module)) and losses[-1] < losses[0]
    assert all(chain[0].gradient is None for _, chain in masks(module))


def test_a_state_of_another_model_or_schedule():
    _, _, schedule = begin(ek.Gradual)
    _, _, other = begin(ek.Gradual, lambda: Net(32))
    _, _, dynamic = begin(ek.Dynamic)
    with pytest.raises(InputError, match="conv.weight: the state is of another model: there 8 groups over 48 inputs, here 6 groups"):
        schedule.load_state_dict(other.state_dict())
    for state in (dynamic.state_dict(), {}):
        with pytest.raises(InputError, match="no state of Gradual"):
            schedule.load_state_dict(state)


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": 2.5}, {"every": 0}, {"every": True}])
@pytest.mark.parametrize("kind", [ek.Gradual, ek.Dynamic])
def test_bad_numbers(kind, options):
    with pytest.raises(InputError, match="whole number of at least 1"):
        begin(kind, **options)


@pytest.mark.parametrize("options", [{"fraction": 0}, {"fraction": 1.0}, {"fraction": float("nan")}, {"growth": "best"}, {"seed": -1}])
def test_bad_options_of_dynamic(options):
    with pytest.raises(InputError, match="fraction must be|no growth|a seed is"):
        begin(ek.Dynamic, **options)


def test_modules_and_optimizers_that_do_not_fit():
    dense = Net()
    with pytest.raises(InputError, match="no layer in groups"):
        ek.Gradual(dense, adam(dense.parameters()), steps=5)
    sparse = ek.prune(dense, data()[0], group=4)
    with pytest.raises(InputError, match="does not train the pruned weights"):
        ek.Gradual(sparse, adam(dense.parameters()), steps=5)
    single = ek.prune(dense, data()[0], pattern="unstructured")
    with pytest.raises(InputError, match="no layer in groups"):
        ek.Dynamic(single, adam(single.parameters()), steps=5)
    with pytest.raises(InputError, match="no layer in groups"):     # a group larger than every layer
        tiny = ek.prune(dense, data()[0], group=64)
        ek.Gradual(tiny, adam(tiny.parameters()), steps=5)
