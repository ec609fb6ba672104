"""The inputs that the groups of a product read: lists of one length, or of a length each."""
from dataclasses import dataclass

from edgekit.exporters.kernels.loops import Code


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
