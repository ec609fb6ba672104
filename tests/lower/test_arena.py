"""The arena: buffers that live at the same time share no byte, not even of their slack, and no more is taken than must be."""
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.exporters.lower.arena import ALIGN, SLACK, Need, aligned, place

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
            assert x + a.nbytes + SLACK <= y or y + b.nbytes + SLACK <= x, (a, b)


@given(NEEDS, BASES)
def test_the_arena_is_no_larger_than_all_buffers_and_no_smaller_than_those_of_a_step(needs, base):
    _, end = place(needs, base)

    def total(some) -> int:
        return sum(aligned(n.nbytes + SLACK) for n in some)
    assert base + max((total(n for n in needs if n.first <= k <= n.last) for k in range(-1, 20)), default=0) <= end <= base + total(needs)


@settings(max_examples=50)
@given(NEEDS, st.randoms(use_true_random=False))
def test_the_order_of_the_buffers_does_not_matter(needs, r):
    shuffled = r.sample(needs, len(needs))
    assert place(needs) == place(shuffled)


def test_a_chain_takes_the_memory_of_two_buffers():
    chain = [Need(f"b{k}", 4096, k, k + 1) for k in range(40)]
    assert place(chain)[1] == 2 * aligned(4096 + SLACK)
