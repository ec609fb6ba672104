"""Views are numpy's strided arrays: the same elements in the same order, before anything runs."""
from math import prod

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

from edgekit.exporters.lower.views import View, collapse, row_major

MEMORY = np.arange(4096)
SHAPES = st.lists(st.sampled_from([1, 1, 2, 3, 4, 5]), max_size=5).map(tuple)


def look(v: View) -> np.ndarray:
    """The elements of a view of MEMORY, an index that leaves it an error."""
    at = np.full(v.shape, v.offset)
    for axis, (n, s) in enumerate(zip(v.shape, v.strides, strict=True)):
        at = at + (np.arange(n) * s).reshape([-1 if a == axis else 1 for a in range(len(v.shape))])
    assert not at.size or 0 <= at.min() <= at.max() < MEMORY.size
    return MEMORY[at]


@st.composite
def moves(draw):
    """A view after random moves, and numpy's array after the same."""
    shape = draw(SHAPES)
    view, array = View("m", "int64", 7, shape, row_major(shape)), MEMORY[7:7 + prod(shape)].reshape(shape)
    for _ in range(draw(st.integers(0, 5))):
        rank = len(view.shape)
        kind = draw(st.sampled_from(["transpose", "slice", "broadcast", "reshape"]))
        if kind == "transpose":
            order = draw(st.permutations(range(rank)))
            view, array = view.transpose(order), array.transpose(order)
        elif kind == "slice" and rank:
            axis, step = draw(st.integers(0, rank - 1)), draw(st.sampled_from([1, 2, -1, -3]))
            n = view.shape[axis]
            picked = range(n)[slice(draw(st.integers(0, n - 1)), None, step)]
            view = view.slice(axis, picked.start, len(picked), picked.step)
            array = np.take(array, picked, axis)
        elif kind == "broadcast" and prod(view.shape) <= 400:
            to = (*draw(st.sampled_from([(), (2,)])), *(draw(st.sampled_from([1, 3])) if n == 1 else n for n in view.shape))
            view, array = view.broadcast(to), np.broadcast_to(array, to)
        elif kind == "reshape":
            to = draw(shapes_of(prod(view.shape)))
            moved = view.reshape(to)
            if moved is None:
                assert not numpy_reshapes(view, to), f"{view} could be {to} without a copy"
                continue
            view, array = moved, array.reshape(to)
    return view, array


@st.composite
def shapes_of(draw, n: int):
    """A shape of n elements."""
    shape = []
    for _ in range(draw(st.integers(0, 3))):
        shape.append(draw(st.sampled_from([d for d in range(1, n + 1) if n % d == 0])))
        n //= shape[-1]
    return tuple(draw(st.permutations([*shape, n])))


def numpy_reshapes(v: View, shape) -> bool:
    """Whether numpy finds strides for that shape."""
    base = np.zeros(1, np.int8)
    array = as_strided(base, v.shape, v.strides)
    try:
        array.shape = shape
    except AttributeError:
        return False
    return True


@given(moves())
def test_moves_pick_what_numpy_picks(made):
    view, array = made
    assert view.shape == array.shape
    assert np.array_equal(look(view), array)
    if view.contiguous:
        assert np.array_equal(MEMORY[view.offset:view.offset + array.size], array.reshape(-1))


@given(moves(), st.data())
def test_collapsed_axes_visit_the_same_elements_in_the_same_order(made, data):
    view, _ = made
    strides = [view.strides, *(tuple(data.draw(st.sampled_from([0, s, 7 * s])) for s in row_major(view.shape)) for _ in range(data.draw(st.integers(0, 2))))]
    shape, merged = collapse(view.shape, strides)
    assert prod(shape) == prod(view.shape) and 1 not in shape and len(shape) <= len(view.shape)
    for before, after in zip(strides, merged, strict=True):
        assert [np.dot(i, before) for i in np.ndindex(*view.shape)] == [np.dot(i, after) for i in np.ndindex(*shape)]
