"""Shapes: what the user gives, what the model leaves open, and one binding a variant.

`input_shapes` gives an input's shape ({"x": (1, 3, 224, 224)}), a named dimension ({"n": 8}), or several values of one
named dimension ({"n": (2, 4, 8)}): one variant each.
"""
from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import onnx

from edgekit.errors import ShapeError, UnsupportedError

Dim = int | str        # a length, or a name or expression of names ("" without one)
Shapes = Mapping[str, "int | tuple[int, ...] | list[int]"]


@dataclass(frozen=True)
class Binding:
    """One variant: its name ("" if there is but one) and the static shape of every input."""

    name: str
    shapes: dict[str, tuple[int, ...]]


def input_dims(model: onnx.ModelProto) -> dict[str, tuple[Dim, ...]]:
    """The declared shape of every input that is not an initializer. UnsupportedError: an input that is no tensor."""
    initial = {i.name for i in model.graph.initializer} | {s.values.name for s in model.graph.sparse_initializer}
    result: dict[str, tuple[Dim, ...]] = {}
    for value in model.graph.input:
        if value.name in initial:
            continue
        if value.type.WhichOneof("value") != "tensor_type":
            raise UnsupportedError("an input that is no tensor (a sequence, a map or an optional)",
                                   where=f"input {value.name}", fix="give the model plain tensors")
        tensor = value.type.tensor_type
        if not tensor.HasField("shape"):
            raise ShapeError("an input without a shape, not even a rank", where=f"input {value.name}",
                             fix=f"export the model with a shape for {value.name}")
        result[value.name] = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else d.dim_param.strip()
                                   for d in tensor.shape.dim)
    return result


def bindings(dims: Mapping[str, tuple[Dim, ...]], given: Shapes | None, where: str = "") -> list[Binding]:
    """One binding a variant. ShapeError: unknown names, wrong ranks, clashes, lengths below 1, open dimensions."""
    shapes, names, several = _sort(dims, given or {}, where)
    for name, shape in shapes.items():
        for axis, (length, dim) in enumerate(zip(shape, dims[name])):
            if isinstance(dim, str) and dim.isidentifier() and names.setdefault(dim, length) != length:
                raise ShapeError(f"dimension {dim} is {names[dim]} and, by axis {axis} of {name}, {length}",
                                 where=where, fix="give one value")
    if several is None:
        return [Binding("", _resolve(dims, shapes, names, where))]
    label, values = several
    return [Binding(f"{_word(label)}{value}", _resolve(dims, shapes, names | {label: value}, where))
            for value in values]


def _sort(dims: Mapping[str, tuple[Dim, ...]], given: Shapes, where: str
          ) -> tuple[dict[str, tuple[int, ...]], dict[str, int], tuple[str, tuple[int, ...]] | None]:
    """What was given: shapes of inputs, values of names, and the one name that has several values."""
    known = _names(d for shape in dims.values() for d in shape)
    shapes: dict[str, tuple[int, ...]] = {}
    names: dict[str, int] = {}
    several: tuple[str, tuple[int, ...]] | None = None
    for key, value in given.items():
        numbers = _lengths(key, value, where)
        if key in dims and not (isinstance(value, int) and key in known):
            if len(numbers) != len(dims[key]):
                raise ShapeError(f"input {key} has {len(dims[key])} dimensions ({_text(dims[key])}), "
                                 f"not {len(numbers)}", where=where, fix=f"--input-shape {key}={_example(dims[key])}")
            shapes[key] = numbers
        elif key not in known:
            raise ShapeError(f"the model has no input and no dimension named {key!r}", where=where,
                             fix=f"inputs: {'; '.join(f'{n} ({_text(s)})' for n, s in dims.items())}"
                             + (f"; dimensions: {', '.join(sorted(known))}" if known else ""))
        elif len(numbers) == 1:
            names[key] = numbers[0]
        elif several is not None:
            raise ShapeError(f"both {several[0]} and {key} have several values", where=where,
                             fix="give one of them several values and the other one value")
        elif len(set(numbers)) != len(numbers):
            raise ShapeError(f"dimension {key} has a value twice", where=where, fix="give every value once")
        else:
            several = key, numbers
    return shapes, names, several


def _resolve(dims: Mapping[str, tuple[Dim, ...]], shapes: Mapping[str, tuple[int, ...]], names: Mapping[str, int],
             where: str) -> dict[str, tuple[int, ...]]:
    result = {}
    for name, declared in dims.items():
        shape = []
        for axis, dim in enumerate(declared):
            length = dim if isinstance(dim, int) else calculate(dim, names) if dim else None
            wanted = shapes[name][axis] if name in shapes else None
            if dim == 0 and wanted is None:       # declared empty: legal, and what some write for "dynamic"
                shape.append(0)
                continue
            length = length or None if dim == 0 else length
            if length is not None and wanted is not None and length != wanted:
                raise ShapeError(f"axis {axis} of input {name} is {length} in the model, not {wanted}", where=where,
                                 fix=f"--input-shape {name}={_example(declared)}")
            length = wanted if length is None else length
            if length is None:
                raise _open(name, declared, axis, names, where)
            if length < 1:
                raise ShapeError(f"axis {axis} of input {name} has the length {length}", where=where,
                                 fix="every length must be 1 or more")
            shape.append(length)
        result[name] = tuple(shape)
    return result


def _open(name: str, declared: tuple[Dim, ...], axis: int, names: Mapping[str, int], where: str) -> ShapeError:
    open_names = sorted(n for n in _names(declared) if n not in names)
    if not open_names:
        return ShapeError(f"input {name} has a dynamic dimension without a name (axis {axis} of {_text(declared)})",
                          where=where, fix=f"--input-shape {name}={_example(declared)}")
    what = f"dimension {open_names[0]}" if len(open_names) == 1 else f"dimensions {', '.join(open_names)}"
    fix = " ".join(f"--input-shape {n}=1" for n in open_names)
    return ShapeError(f"input {name} has the dynamic {what} ({_text(declared)})", where=where,
                      fix=f"{fix} (with your length; several, as in {open_names[0]}=1,2,4, make one entry each)")


def _lengths(key: str, value: int | tuple[int, ...] | list[int], where: str) -> tuple[int, ...]:
    numbers = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in numbers):
        raise ShapeError(f"{key}={value} is no shape: lengths are whole numbers from 1 on", where=where,
                         fix=f"--input-shape {key}=1,3,224,224 for an input, {key}=8 for a dimension")
    return numbers


_OPERATORS: dict[type[ast.AST], Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv, ast.Mod: operator.mod}


def calculate(text: str, names: Mapping[str, int]) -> int | None:
    """A dimension like "n", "2*n" or "n//2 + 1"; None if a name has no value or the text is no such expression."""
    if text in names:
        return names[text]

    def value(node: ast.AST) -> int | None:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Name):
            return names.get(node.id)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            left, right = value(node.left), value(node.right)
            return None if left is None or right is None else _OPERATORS[type(node.op)](left, right)
        return None

    try:
        return value(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None


def _names(dims: Iterable[Dim]) -> set[str]:
    """The names in dimensions; a text that is no expression is one name."""
    result: set[str] = set()
    for dim in dims:
        if not isinstance(dim, str) or not dim:
            continue
        try:
            found = {n.id for n in ast.walk(ast.parse(dim, mode="eval")) if isinstance(n, ast.Name)}
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            found = {dim}
        result |= found or {dim}
    return result


def _text(dims: Iterable[Dim]) -> str:
    return ", ".join(str(d) if d != "" else "?" for d in dims)


def _example(dims: Iterable[Dim]) -> str:
    return ",".join(str(d) if isinstance(d, int) and d else "1" for d in dims)


def _word(name: str) -> str:
    word = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)
    return word if word and not word[0].isdigit() else f"_{word}"
