"""Patterns of sparsity: which weights of a layer may go together.

    groups         V outputs read the same inputs, every group equally many: what the kernels are made for
    N:M            of M inputs in a row every output keeps its best N ("2:4"; Mishra et al. 2021)
    unstructured   the best single weights of a layer (Han et al. 2015): the bound of every other pattern
    channels       whole output channels, removed from the graph (`channels`)

Zeros of N:M and unstructured masks are exported as zeros. The kernels use them by a list for each row or few rows where
that pays, which N:M at half of the weights rarely does: `edgekit check` tells for each layer.
"""
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgekit.errors import InputError
from edgekit.exporters.sparsify import mask
from edgekit.exporters.sparsify.rules import Choice, Group, Sparsity, checked

KINDS = ("groups", "unstructured", "channels")


@dataclass(frozen=True)
class Pattern:
    """kind: one of KINDS, or "N:M" with n of m inputs kept."""

    kind: str
    n: int = 0
    m: int = 0

    @property
    def sparsity(self) -> float | None:
        """What an N:M pattern drops; None where the pattern leaves it open."""
        return 1 - self.n / self.m if self.m else None


def parse(text: str) -> Pattern:
    """"groups", "unstructured", "channels", or "N:M" with 1 <= N < M <= 64; else InputError."""
    if text in KINDS:
        return Pattern(text)
    found = re.fullmatch(r"(\d{1,3}):(\d{1,3})", text) if isinstance(text, str) else None
    n, m = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= n < m <= 64:
        raise InputError(f"there is no pattern {text!r}",
                         fix=f"use one of {', '.join(KINDS)}, or N:M such as 2:4 (M at most 64)")
    return Pattern("N:M", n, m)


def agreed(pattern: Pattern, sparsity: Sparsity) -> Sparsity:
    """The sparsity, or InputError where an N:M pattern drops another share."""
    own = pattern.sparsity
    if own is not None:
        for value in sparsity.values() if isinstance(sparsity, Mapping) else [sparsity]:
            if checked(value, 1)[0] and abs(float(value) - own) > 1e-6:
                raise InputError(f"the pattern {pattern.n}:{pattern.m} drops {own:g} of the weights, not {value!r}",
                                 fix=f"write {own:g}, or leave the sparsity out")
    return sparsity


def group_of(pattern: Pattern, group: Group) -> Group:
    """The groups that the rules judge: of every other pattern each output is one."""
    return group if pattern.kind == "groups" else 1


def keep(score: np.ndarray, pattern: Pattern, choice: Choice, taps: int = 1, permute: bool = True) -> np.ndarray:
    """Boolean (outputs, inputs): the weights of largest score (outputs, inputs) that the pattern lets stay.

    taps: of a convolution, whose inputs are channel * taps + tap; N:M goes along its channels. permute: whether any
    outputs may form a group, or neighbours only. Of equal scores the first stay.
    """
    if pattern.kind == "groups":
        return mask.mask(mask.choose(score, choice.v, choice.kept, permute), *score.shape)
    if pattern.kind == "unstructured":
        return _first(score.reshape(1, -1), choice.kept * len(score)).reshape(score.shape)
    by_tap = score.reshape(len(score), -1, taps).swapaxes(1, 2)
    channels = by_tap.shape[2]
    blocks = np.pad(by_tap, ((0, 0), (0, 0), (0, -channels % pattern.m)), constant_values=-np.inf)
    kept = _first(blocks.reshape(len(score), taps, -1, pattern.m), pattern.n).reshape(blocks.shape)[..., :channels]
    return kept.swapaxes(1, 2).reshape(score.shape)


def _first(score: np.ndarray, count: int) -> np.ndarray:
    """True at the `count` largest along the last axis."""
    found = np.zeros(score.shape, bool)
    np.put_along_axis(found, np.argsort(-score, axis=-1, kind="stable")[..., :count], True, axis=-1)
    return found
