"""Values with several readers that stay in registers all the same: x * sigmoid(x), GELU and their like, written out.

A value that two operators read goes to memory, unless all that is made of it joins again in one value.
"""
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence

from edgekit.exporters.lower.builder import Node

LONGEST = 10  # operators from a value to where all that is made of it joins, and
INPUTS = 3    # inputs of each at most: the body stays short enough to be one


def joins(nodes: Sequence[Node], uses: Counter, shape: Callable[[str], tuple[int, ...]], elementwise: Collection[str],
          scalars: Collection[str]) -> dict[str, str]:
    """Of each value with several readers that may stay in registers, the value that its chain begins with.

    Chains are of `elementwise` operators that read nothing else but constants of one element, `scalars`.
    """
    readers: dict[str, list[int]] = defaultdict(list)
    for number, node in enumerate(nodes):
        for name in node.inputs:
            readers[name].append(number)

    def chain(first: str) -> list[str]:
        """Values from `first` on to where they join, that one left out; none where they do not."""
        unread, seen = {first: uses[first]}, [first]
        taken: set[int] = set()
        while len(taken) < LONGEST:
            waiting = {k for name in unread for k in readers[name]} - taken
            if not waiting:
                return []
            k = min(waiting)
            node, out = nodes[k], nodes[k].output(0)
            others = {name for name in node.inputs if name and name not in unread}
            if node.op not in elementwise or not others <= set(scalars) or len(node.inputs) > INPUTS or shape(out) != shape(first):
                return []
            for name in node.inputs:
                if name in unread:
                    unread[name] -= 1
                    if not unread[name]:
                        del unread[name]
            if not unread:
                return seen
            unread[out] = uses[out]
            seen.append(out)
            taken.add(k)
        return []
    found: dict[str, str] = {}
    for first in (name for node in nodes for name in node.outputs):
        if uses[first] > 1 and first not in found:
            found.update((name, first) for name in chain(first) if uses[name] > 1)
    return found
