"""A node of a clean graph, read once: attributes as Python values, shapes, and the inputs that are constants."""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Result = torch.Tensor | tuple[torch.Tensor, ...]


class NotInTorch(Exception):
    """This operator, or this form of it, has no version in torch: it is run by `reference`."""


@dataclass(frozen=True, eq=False)
class Node:
    """inputs: names, "" where one is left out. known: the constant of each input, or None.

    shapes, types (ONNX's), dtypes (torch's, None where it has none): of the outputs.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any]
    known: tuple[np.ndarray | None, ...]
    shapes: tuple[tuple[int, ...], ...]
    types: tuple[int, ...]
    dtypes: tuple[torch.dtype | None, ...]

    def constant(self, k: int) -> np.ndarray | None:
        """Input k, None if it is left out; NotInTorch if it is computed."""
        if k >= len(self.inputs) or not self.inputs[k]:
            return None
        if self.known[k] is None:
            raise NotInTorch(f"{self.op}: input {k} is computed")
        return self.known[k]

    def ints(self, k: int, attribute: str = "") -> list[int] | None:
        """Integers that are input k or, by older habit, an attribute; None where neither is there."""
        array = self.constant(k)
        if array is None:
            given = self.attrs.get(attribute)
            return None if given is None else [int(v) for v in given]
        return [int(v) for v in array.reshape(-1)]
