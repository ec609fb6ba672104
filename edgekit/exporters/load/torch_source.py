"""torch.nn.Module, torch.export.ExportedProgram, .pt2 files and "module:callable" become ONNX models.

Everything goes through torch.export and torch's own ONNX exporter (torch >= 2.6). Recurrent layers arrive as LSTM, GRU
and RNN. The module is left as it was: its training flags, hooks, parametrisations and parameters.
"""
from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import InputError, MissingToolError, ShapeError, UnsupportedError
from edgekit.exporters.load.torch_names import output_names

if TYPE_CHECKING:
    import onnx

    from edgekit.exporters.load.bind import Shapes

CHECKPOINT = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".h5", ".keras", ".tflite")
CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Exported:
    """An ONNX model out of torch, the name it goes by, and its source as plain data."""

    model: onnx.ModelProto
    name: str
    source: dict[str, Any]


def export(model: Any, example_inputs: Any, shapes: Shapes | None, trust: bool) -> Exported:
    """An ONNX model of anything that torch can give. InputError: no model; MissingToolError: no torch."""
    if isinstance(model, (str, Path)):
        text = str(model)
        if Path(text).suffix.lower() == ".pt2":
            return _archive(Path(text), trust)
        if CALLABLE.fullmatch(text):
            return _callable(text, shapes)
        if Path(text).suffix.lower() in CHECKPOINT:
            raise InputError("a checkpoint holds weights, not the program that uses them", where=Path(text).name,
                             fix="give an .onnx or .pt2 file, or module:callable returning (module, example_inputs)")
        raise InputError(f"{text!r} is no file and not of the form module:callable",
                         fix="give FILE.onnx, FILE.pt2, or module:callable returning (module, example_inputs)")
    no_model = InputError(f"{type(model).__name__} is no model", fix="give a path, onnx.ModelProto, torch.nn.Module with "
                          "example_inputs, or torch.export.ExportedProgram")
    if "torch" not in sys.modules:          # then nothing can be a module of it
        raise no_model
    torch = _torch()
    if isinstance(model, torch.export.ExportedProgram):
        return Exported(_to_onnx(model, None, "exported program"), "model", {"kind": "torch.export", "name": "model"})
    if isinstance(model, torch.nn.Module):
        name = _snake(type(model).__name__)
        return Exported(module_to_onnx(model, example_inputs, shapes), name,
                        {"kind": "torch", "name": name, "class": type(model).__name__, "torch": torch.__version__})
    raise no_model


def module_to_onnx(module: Any, example_inputs: Any, shapes: Shapes | None = None) -> onnx.ModelProto:
    """A module in inference mode, traced on its example inputs (with `shapes` in place of theirs where given)."""
    torch, where = _torch(), type(module).__name__
    if example_inputs is None:
        raise InputError("a torch.nn.Module needs example inputs", where=where,
                         fix="pass example_inputs=(tensor, ...) as its forward takes them")
    args, kwargs = _arguments(module, example_inputs, shapes or {})
    modes = [(m, m.training) for m in module.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)       # its fused operator has no ONNX form
        for m, _ in modes:
            m.training = False
        with _quiet():
            program = torch.export.export(module, args, kwargs, strict=False)
    except Exception as error:  # noqa: BLE001 - torch raises anything
        raise InputError(f"torch.export cannot trace it: {_short(error)}", where=_place(error) or where,
                         fix="check torch.export.export(module, example_inputs): tensors in and out, no branches on "
                         "values") from None
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for m, mode in modes:
            m.training = mode
    return _to_onnx(program, module, where)


def _to_onnx(program: Any, module: Any, where: str) -> onnx.ModelProto:
    torch = _torch()
    _refuse_mutation(program, where)
    try:
        with _quiet():
            done = torch.onnx.export(program, (), dynamo=True, verbose=False, external_data=False)
            _name_ports(done.model, program, module)
            model = done.model_proto
    except Exception as error:  # noqa: BLE001 - torch raises anything
        text = str(error)
        missing = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", text)
        if missing:
            raise UnsupportedError(f"torch operator {missing[1]} has no ONNX form", where=where,
                                   fix="write it with operators that torch.onnx.export knows") from None
        raise InputError(f"torch.onnx.export failed: {_short(error)}", where=where,
                         fix="check torch.onnx.export(module, example_inputs, dynamo=True)") from None
    return model


def _name_ports(model: Any, program: Any, module: Any) -> None:
    """Gives inputs and outputs of an onnx_ir.Model the names of forward's arguments and of what it returns."""
    graph = model.graph
    inputs = [str(name) for name in program.graph_signature.user_inputs]
    if len(inputs) == len(graph.inputs):
        for value, name in zip(graph.inputs, inputs):
            value.name = name
    taken = [value.name for value in graph.inputs]
    names = output_names(program, module, [*taken, *graph.initializers])
    if len(names) != len(graph.outputs) or any(value.producer() is None for value in graph.outputs):
        return
    ports = {id(value) for value in graph.outputs}
    for node in graph:
        for k, value in enumerate(node.outputs):
            if id(value) not in ports and value.name in {*names, *taken}:
                value.name = f"{value.name}.{node.name or node.op_type}.{k}"
    for value, name in zip(graph.outputs, names):
        value.name = name


def _refuse_mutation(program: Any, where: str) -> None:
    """UnsupportedError if the program changes its buffers: such a state must be an input and an output."""
    signature = program.graph_signature
    mutated = set(signature.buffers_to_mutate.values())
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None or not schema.is_mutable:
            continue
        root: Any = node.args[0] if node.args else None
        while getattr(root, "op", "") == "call_function":
            root = next((a for a in root.args if hasattr(a, "op")), None)
        if getattr(root, "op", "") == "placeholder" and root.name in signature.inputs_to_buffers:
            mutated.add(signature.inputs_to_buffers[root.name])
    if mutated:
        raise UnsupportedError(f"the module changes its buffer {', '.join(sorted(mutated))} when it runs", where=where,
                               fix="make the state an input and an output of forward, and pair them with states={...}")


def _archive(path: Path, trust: bool) -> Exported:
    where = path.name
    if not path.is_file():
        raise InputError("there is no such file", where=str(path), fix="check the path")
    if not trust:
        raise InputError("reading a .pt2 file unpickles it, which can run code of whoever made it", where=where,
                         fix="--trust-model (trust_model=True) if you trust its origin, or export it to ONNX")
    torch = _torch()
    try:
        with _quiet():
            program = torch.export.load(path)
    except Exception as error:  # noqa: BLE001 - torch raises anything
        raise InputError(f"torch.export.load cannot read it: {_short(error)}", where=where,
                         fix="the file is damaged, no torch.export archive, or of another torch version") from None
    return Exported(_to_onnx(program, None, where), path.stem,
                    {"kind": "pt2", "name": path.stem, "file": path.name, "torch": torch.__version__})


def _callable(text: str, shapes: Shapes | None) -> Exported:
    """Imports the module, with the current folder in front, and calls the callable. What it prints goes to stderr."""
    module_name, _, attribute = text.partition(":")
    torch = _torch()
    folder = os.getcwd()
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            made: Any = importlib.import_module(module_name)
            for part in attribute.split("."):
                made = getattr(made, part)
            made = made()
    except ModuleNotFoundError as error:
        raise InputError(f"no module named {error.name}", where=text,
                         fix="run from the folder that holds the module, or install it") from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it is the user's code
        raise InputError(f"calling it failed: {type(error).__name__}: {_short(error)}", where=_place(error) or text,
                         fix=f"check that {text} can be called without arguments") from None
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], torch.nn.Module)):
        raise InputError(f"it returned {type(made).__name__}, not (torch.nn.Module, example_inputs)", where=text,
                         fix="return (module, (tensor, ...))")
    name = _snake(attribute.rpartition(".")[2])
    return Exported(module_to_onnx(*made, shapes), name, {"kind": "callable", "name": name, "callable": text,
                                                          "torch": torch.__version__})


def _arguments(module: Any, examples: Any, shapes: Shapes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example inputs as (args, kwargs) of tensors; one whose shape is given anew is made anew."""
    import numpy as np

    torch, where = _torch(), type(module).__name__

    def tensor(value: Any) -> Any:
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    if isinstance(examples, Mapping):
        args: tuple[Any, ...] = ()
        kwargs = {k: tensor(v) for k, v in examples.items()}
    else:
        args = tuple(tensor(v) for v in (examples if isinstance(examples, (tuple, list)) else (examples,)))
        kwargs = {}
    try:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise InputError(f"example inputs do not fit forward: {error}", where=where,
                         fix="pass example_inputs=(tensor, ...) as its forward takes them") from None
    for key, shape in shapes.items():
        value = bound.arguments.get(key)
        if isinstance(value, torch.Tensor):
            lengths = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
            if not all(isinstance(n, int) and n > 0 for n in lengths):
                raise ShapeError(f"{key}={shape} is no shape", where=where, fix="lengths are whole numbers from 1 on")
            bound.arguments[key] = torch.zeros(lengths, dtype=value.dtype, device=value.device)
    return bound.args, bound.kwargs


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch and onnxscript print, warn and log."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    nowhere = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


def _torch() -> Any:
    try:
        import onnxscript  # noqa: F401
        import torch
        import torch.export
    except ImportError as error:
        raise MissingToolError(f"{error.name} is not installed", fix="pip install 'edgekit-deploy[torch]'") from None
    return torch


def _place(error: BaseException) -> str:
    """file:line of the innermost frame that is neither torch's nor edgekit's; "" if there is none."""
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        parts = Path(frame.filename).parts
        if not {"torch", "edgekit", "onnxscript", "importlib"} & set(parts) and not frame.filename.startswith("<"):
            place = f"{parts[-1]}:{frame.lineno}"
    return place


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def _snake(name: str) -> str:
    """GRUPolicy -> gru_policy."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
