"""The arena: buffers that live at the same time share no byte, not even of their slack, and no more is taken than must be."""
from itertools import combinations
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.exporters.load import load
from edgekit.exporters.lower import lower, supported
from edgekit.exporters.lower.arena import ALIGN, SLACK, Need, aligned, largest_live_set, place

MODELS = Path(__file__).parents[3] / "shared" / "models"

SPANS = st.tuples(st.integers(-1, 12), st.integers(0, 6), st.one_of(st.integers(0, 300), st.integers(0, 1 << 20)))
NEEDS = st.lists(SPANS, max_size=30).map(lambda spans: [Need(f"b{k}", size, first, first + more) for k, (first, more, size) in enumerate(spans)])
BASES = st.integers(0, 5).map(lambda n: n * ALIGN)


@given(NEEDS, BASES)
def test_buffers_alive_together_lie_apart_aligned_and_inside(needs, base):
    offsets, end = place(needs, base)
    assert set(offsets) == {n.name for n in needs}
    for n in needs:
        assert offsets[n.name] % ALIGN == 0 and base <= offsets[n.name] and offsets[n.name] + n.nbytes + SLACK <= end
    for a, b in combinations(needs, 2):
        if a.first <= b.last and b.first <= a.last:
            x, y = offsets[a.name], offsets[b.name]
            assert x + a.nbytes <= y or y + b.nbytes <= x, (a, b)


@given(NEEDS, BASES)
def test_the_arena_is_no_larger_than_all_buffers_and_no_smaller_than_those_of_a_step(needs, base):
    _, end = place(needs, base)

    def total(some) -> int:
        return sum(aligned(n.nbytes) for n in some)
    least = max((total(n for n in needs if n.first <= k <= n.last) for k in range(-1, 20)), default=0)
    assert least == largest_live_set(needs)
    assert base + least + SLACK <= end <= base + total(needs) + SLACK


@settings(max_examples=50)
@given(NEEDS, st.randoms(use_true_random=False))
def test_the_order_of_the_buffers_does_not_matter(needs, r):
    shuffled = r.sample(needs, len(needs))
    assert place(needs) == place(shuffled)


@given(st.lists(st.integers(1, 1 << 20), min_size=1, max_size=30))
def test_a_chain_takes_the_memory_of_its_largest_neighbours(sizes):
    chain = [Need(f"b{k}", size, k, k + 1) for k, size in enumerate(sizes)]
    assert place(chain)[1] == largest_live_set(chain) + SLACK


@pytest.mark.parametrize("seed", range(20))
def test_skips_that_cross_and_nest_cost_at_most_a_tenth(seed):
    """A U-net's buffers wait for their mirror images, sizes are anything: one order of placing alone is up to 1.8 x."""
    r = Random(seed)
    n = r.randint(10, 80)
    needs = [Need(f"b{k}", int(2 ** r.uniform(6, 20)), k, 2 * n - k if r.random() < 0.5 else k + r.randint(1, 3)) for k in range(n)]
    assert place(needs)[1] - SLACK <= 1.1 * largest_live_set(needs)


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.onnx")), ids=lambda p: p.stem)
def test_real_models_take_no_more_than_their_largest_live_set(path):
    loaded = load(path, input_shapes={"input": (1, 3, 224, 224)} if path.stem == "mobilenet_v1_025_224" else None, keep=supported())
    plan, _ = lower(loaded.name, [(v.name, v.model) for v in loaded.variants], loaded.states)
    for entry in plan.entries:
        spans: dict[str, list[int]] = {p.buffer: [-1] for p in entry.inputs}
        for k, step in enumerate(entry.steps):
            for ref in step.args:
                spans.setdefault(ref.buffer, []).append(k)
        for name in [p.buffer for p in entry.outputs] + [new for _, new in entry.updates]:
            spans[name].append(len(entry.steps))
        needs = [Need(b.name, b.nbytes, min(spans[b.name]), max(spans[b.name])) for b in entry.buffers]
        assert plan.arena_bytes - plan.state_bytes - SLACK <= 1.1 * largest_live_set(needs)
