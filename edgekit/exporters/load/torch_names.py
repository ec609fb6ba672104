"""Names for a module's outputs, since torch gives them none.

In this order: keys of a returned dict (or fields of a named tuple); the variables that forward's only return statement
names (`return action, h`); else output, or output_0, output_1... A name that an input has gets "_out" (h -> h_out).
"""
from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Sequence
from typing import Any


def output_names(program: Any, module: Any, inputs: Sequence[str]) -> list[str]:
    """One name an output, all different and different from the inputs. module: None if only the program is there."""
    import torch.utils._pytree as pytree

    spec = program.call_spec.out_spec
    count = spec.num_leaves
    paths, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(range(count)), spec))
    names = [_word(path) for path, _ in paths]
    if not all(names):
        returned = _returned(module) if module is not None else []
        names = returned if len(returned) == count else [""] * count
    result: list[str] = []
    for k, name in enumerate(names):
        name = name or ("output" if count == 1 else f"output_{k}")
        name = f"{name}_out" if name in inputs else name
        wish, number = name, 0
        while name in result or name in inputs:
            number += 1
            name = f"{wish}_{number}"
        result.append(name)
    return result


def _word(path: Sequence[Any]) -> str:
    """A path of keys and positions as a name; "" if it holds no key."""
    keys = [getattr(step, "key", getattr(step, "name", getattr(step, "idx", ""))) for step in path]
    if not any(isinstance(key, str) for key in keys):
        return ""
    return re.sub(r"\W+", "_", "_".join(str(key) for key in keys))


def _returned(module: Any) -> list[str]:
    """The variables in the only return statement of forward; "" for an expression. (h, c) counts as two."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(type(module).forward)))
    except (OSError, TypeError, SyntaxError):
        return []
    returns = [node for node in ast.walk(tree) if isinstance(node, ast.Return) and node.value is not None]
    if len(returns) != 1:
        return []

    def names(node: ast.AST) -> list[str]:
        if isinstance(node, ast.Tuple):
            return [name for part in node.elts for name in names(part)]
        return [node.id if isinstance(node, ast.Name) else ""]

    assert returns[0].value is not None
    return names(returns[0].value)
