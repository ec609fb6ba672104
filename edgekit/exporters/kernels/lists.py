"""The inputs that the groups of a product read: lists of one length, or of a length each."""
from dataclasses import dataclass
from typing import Any

from edgekit.exporters.kernels.loops import Code
from edgekit.exporters.kernels.spec import Conv, Linear, Recurrent


def weights_of(code: Code, k: Conv | Linear | Recurrent, dtype: str) -> tuple[Any, Any, "Lists", Any]:
    """The next operands: w and bias, of dtype, `Lists` of [index] and [starts], and [order], None where it is absent."""
    w, bias = code.operand(dtype), code.operand(dtype)
    index = code.operand(k.index) if k.index else None
    lists = Lists(index, code.operand("int32") if k.starts else None, k.kept)
    return w, bias, lists, code.operand("int32") if k.order else None


@dataclass(frozen=True)
class Lists:
    """index: buffer of input numbers, None where every group reads all. starts: buffer of where the list of each group
    starts, None where all are `kept` long."""

    index: object | None
    starts: object | None
    kept: int

    def span(self, code: Code, g):
        """(start, length) of the list of group g; the length is a Python int where it is the same for all groups."""
        if self.starts is None:
            return code.let(g * code.i(self.kept)), self.kept
        start = code.let(code.i(code.load(self.starts, g)))
        return start, code.let(code.i(code.load(self.starts, g + code.i(1))) - start)

    def input(self, code: Code, start, p):
        """Number of the p-th input of a group whose list starts at `start`."""
        return code.i(code.load(self.index, start + p)) if self.index is not None else p
