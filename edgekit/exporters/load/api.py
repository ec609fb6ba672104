"""`load`: the front of this folder."""
from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import InputError, MissingToolError

if TYPE_CHECKING:
    import onnx

    from edgekit.exporters.load.bind import Shapes

EXPORT_EXTRA = "pip install 'edgekit-deploy[export]'"


@dataclass(frozen=True)
class Variant:
    """One entry to be: its name (a C identifier) and its clean model.

    Clean: static shapes and value_info everywhere, one opset of the default domain, no functions, subgraphs, Constant,
    BatchNormalization, Dropout or no-op nodes, constants folded into initializers, unique node names, no NaN.
    Identity is left only where an output is an input, a constant, or another output over again.
    """

    name: str
    model: onnx.ModelProto


@dataclass(frozen=True)
class Loaded:
    """What was loaded. states: (input, output) pairs. source: where it came from, as plain data."""

    name: str
    variants: tuple[Variant, ...]
    states: tuple[tuple[str, str], ...]
    source: dict[str, Any]


def load(model: Any, *, example_inputs: Any = None, input_shapes: Shapes | None = None,
         states: Mapping[str, str] | None = None, trust_model: bool = False, name: str | None = None,
         keep: frozenset[str] | None = None) -> Loaded:
    """A model as clean static ONNX graphs, one a variant.

    model: path of an .onnx or .pt2 file, "module:callable" that returns (module, example_inputs), onnx.ModelProto,
        torch.nn.Module, torch.export.ExportedProgram; a dict {entry: any of these}, or a list of shape variants.
    example_inputs: a tensor, a tuple of them, or a dict by name of forward's arguments; for a torch.nn.Module.
    input_shapes: {"x": (1, 3, 224, 224)} an input; {"n": 8} a named dimension; {"n": (2, 4, 8)} one variant each.
    states: {"h_in": "h_out"}: inputs that take an output of the call before.
    trust_model: reading a .pt2 unpickles, which can run code of whoever made the file.
    name: of the model (default: of the file, class or callable), made a C identifier.
    keep: operators to leave whole though ONNX defines them by others; None keeps all (see `trace.trace`).

    Raises InputError (ShapeError, UnsupportedError) with what, where and fix; MissingToolError without onnx or torch.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        missing = f"{error.name} is not installed" if error.name else f"onnx and onnxruntime cannot be imported: {error}"
        raise MissingToolError(missing, fix=EXPORT_EXTRA) from None
    from edgekit.exporters.load.states import check_states

    named = _entries(model)
    found: list[tuple[str, str, onnx.ModelProto]] = []      # (entry, name of the shape variant, model)
    sources = []
    for entry, one in named:
        variants, source = _load_one(one, example_inputs, input_shapes, trust_model, keep)
        found += [(entry, variant, clean) for variant, clean in variants]
        sources.append(source)
    names = _names(found, by_shape=isinstance(model, (list, tuple)))
    pairs = [(n, clean) for n, (_, _, clean) in zip(names, found)]
    checked = check_states(states, pairs)
    for (_, clean), number in zip(pairs, range(len(pairs))):
        clean.graph.name = names[number]
    title = identifier(name if name is not None else _common([s["name"] for s in sources]))
    source = sources[0] if len(sources) == 1 else {"kind": "several", "models": sources}
    return Loaded(title, tuple(Variant(n, clean) for n, clean in pairs), checked, source)


def _entries(model: Any) -> list[tuple[str, Any]]:
    if isinstance(model, Mapping):
        for key in model:
            if not isinstance(key, str) or identifier(key) != key:
                raise InputError(f"{key!r} cannot name an entry", fix="entry names are C identifiers, like encode")
        entries = list(model.items())
    elif isinstance(model, (list, tuple)):
        entries = [("", one) for one in model]
    else:
        return [("", model)]
    if not entries:
        raise InputError("no model is given", fix="give at least one")
    return entries


def _load_one(model: Any, example_inputs: Any, shapes: Shapes | None, trust: bool, keep: frozenset[str] | None
              ) -> tuple[list[tuple[str, onnx.ModelProto]], dict[str, Any]]:
    """[(variant, clean model)] and the source of one model."""
    import onnx

    from edgekit.exporters.load.clean import clean
    from edgekit.exporters.load.isolate import clean_file

    if isinstance(model, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        title = model.graph.name or "model"
        return clean(copy, shapes, keep, title), {"kind": "onnx", "name": title, "producer": model.producer_name}
    if isinstance(model, (str, Path)):
        path = Path(model)
        if path.suffix.lower() == ".onnx" or (path.is_file() and path.suffix.lower() != ".pt2"):
            variants = clean_file(path, shapes, keep)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            return variants, {"kind": "onnx", "name": path.stem, "file": path.name, "sha256": digest}
    from edgekit.exporters.load import torch_source

    exported = torch_source.export(model, example_inputs, shapes, trust)
    return clean(exported.model, shapes, keep, exported.name), exported.source


def _names(found: Sequence[tuple[str, str, onnx.ModelProto]], by_shape: bool) -> list[str]:
    """Entry names: what was given and the variant; "run" for one alone; for a list, what differs in shape."""
    if by_shape and len(found) > 1:
        names = _differences([clean for _, _, clean in found])
    else:
        names = ["_".join(filter(None, [entry, variant])) or "run" for entry, variant, _ in found]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise InputError(f"two entries would both be named {twice[0]}",
                         fix="give a dict {entry name: model} with names of your own")
    return names


def _differences(models: Sequence[onnx.ModelProto]) -> list[str]:
    """Names of shape variants: n8 if one length tells them apart, else the first input that differs with its shape."""
    shapes = [{v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in m.graph.input} for m in models]
    if any(list(s) != list(shapes[0]) or any(len(s[n]) != len(shapes[0][n]) for n in s) for s in shapes):
        raise InputError("the models of a list are shape variants, but their inputs differ in name or rank",
                         fix="give a dict {entry name: model}")
    places = [(n, axis) for n, shape in shapes[0].items() for axis in range(len(shape))
              if len({s[n][axis] for s in shapes}) > 1]
    if not places:
        raise InputError("the models of a list have the same input shapes, so nothing tells them apart",
                         fix="give a dict {entry name: model}")
    if all(len({s[n][axis] for n, axis in places}) == 1 for s in shapes):
        return [f"n{s[places[0][0]][places[0][1]]}" for s in shapes]
    first = places[0][0]
    return [identifier(f"{first}_{'x'.join(str(d) for d in s[first])}") for s in shapes]


def _common(names: Sequence[str]) -> str:
    """What the names of several models begin with, else the first name."""
    if len(names) == 1:
        return names[0]
    shared = names[0]
    for other in names[1:]:
        while not other.startswith(shared):
            shared = shared[:-1]
    return shared.rstrip("_-. ") or names[0]


def identifier(text: str) -> str:
    """The text as a C identifier of at most 100 characters: other characters become '_'."""
    word = re.sub(r"[^0-9A-Za-z_]+", "_", text).strip("_")[:100] or "model"
    return f"m{word}" if word[0].isdigit() else word
