"""A user's judgement of a model: a callable that runs it on numpy inputs and says how good it is."""
import hashlib
import importlib
import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import InputError

if TYPE_CHECKING:
    import onnx

Evaluation = Callable[["Runner"], "float | Mapping[str, float]"]
Scores = dict[str, float]   # by domain, higher is better; "" where the evaluation gave one number


class Runner:
    """What an evaluation calls: `run(x)`, `run(a, b)` in the order of the inputs, or `run({"a": a})`; a list of arrays back.

    One case a call, with the shapes of the model; of several shape variants, the one that fits. State is fed back from
    call to call and is zero after `reset()`.
    """

    def __init__(self, models: "Sequence[onnx.ModelProto]", states: Sequence[tuple[str, str]] = ()):
        self._sessions = [session(m) for m in models]
        self._states = dict(states)
        self._kept: dict[str, np.ndarray] = {}

    def reset(self) -> None:
        """State to zero."""
        self._kept = {}

    def __call__(self, *inputs: Any) -> list[np.ndarray]:
        for opened in self._sessions:
            wanted = {i.name: i for i in opened.get_inputs() if i.name not in self._states}
            given = inputs[0] if len(inputs) == 1 and isinstance(inputs[0], Mapping) else dict(zip(wanted, inputs))
            if set(given) == set(wanted) and len(given) >= (1 if isinstance(inputs[0], Mapping) else len(inputs)) and all(
                    list(np.shape(a)) == list(wanted[n].shape) for n, a in given.items()):
                return self._run(opened, {n: np.asarray(a, _dtype(wanted[n].type)) for n, a in given.items()})
        raise InputError("the model does not take these inputs", fix="it takes " + "; or ".join(
            ", ".join(f"{i.name} {list(i.shape)}" for i in s.get_inputs() if i.name not in self._states) for s in self._sessions))

    def _run(self, opened: Any, given: dict[str, np.ndarray]) -> list[np.ndarray]:
        for i in opened.get_inputs():
            if i.name in self._states:
                given[i.name] = self._kept.get(i.name, np.zeros(i.shape, _dtype(i.type)))
        names = [o.name for o in opened.get_outputs()]
        outputs = dict(zip(names, opened.run(names, given)))
        self._kept |= {s: outputs[o] for s, o in self._states.items() if o in outputs}
        return [a for n, a in outputs.items() if n not in self._states.values()]


def session(model: "onnx.ModelProto") -> Any:
    """onnxruntime on one thread."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _dtype(kind: str) -> Any:
    return {"float": np.float32, "double": np.float64, "float16": np.float16, "bool": np.bool_}.get(kind[7:-1], kind[7:-1])


def resolve(given: str | Evaluation) -> Evaluation:
    """The callable behind "module:callable", found as Python would from the current folder; or the callable itself."""
    if callable(given):
        return given
    match = re.fullmatch(r"([\w.]+):(\w+)", given) if isinstance(given, str) else None
    if not match:
        raise InputError(f"the evaluation {given!r} is no module:callable", fix="write my_eval:score for def score(run) in my_eval.py")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(match[1]), match[2])
    except Exception as error:  # noqa: BLE001 - a user's module may raise anything
        raise InputError(f"the evaluation cannot be imported: {type(error).__name__}: {error}", where=given,
                         fix="check the name, and that the module imports") from None
    if not callable(found):
        raise InputError(f"{match[2]} is a {type(found).__name__}, nothing that can be called", where=given, fix="name a function")
    return found


def digest(evaluation: Evaluation) -> str:
    """Of the source of the evaluation's module, so that results of another version are not taken for its own."""
    try:
        text = inspect.getsource(inspect.getmodule(evaluation) or type(evaluation))
    except (OSError, TypeError):
        text = ""  # typed in, or built by a library
    return f"{getattr(evaluation, '__qualname__', type(evaluation).__qualname__)} {hashlib.sha256(text.encode()).hexdigest()}"


def scores(evaluation: Evaluation, runner: Runner, where: str) -> Scores:
    """What the evaluation says, by domain. InputError where it raises, or returns anything but finite numbers."""
    try:
        told = evaluation(runner)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"the evaluation raised {type(error).__name__}: {error}", where=where,
                         fix="it is called with a function that runs the model on numpy arrays") from error
    by_domain = told if isinstance(told, Mapping) else {"": told}
    out: Scores = {}
    for domain, value in by_domain.items():
        try:
            number = math.nan if isinstance(value, (bool, str)) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise InputError(f"the evaluation returned {value!r}" + (f" for {domain!r}" if domain else ""), where=where,
                             fix="return a finite number, higher is better, or {domain: number}")
        out[str(domain)] = number
    if not out:
        raise InputError("the evaluation returned no domain", where=where, fix="return a finite number or {domain: number}")
    return out


def drop(dense: Scores, found: Scores) -> float:
    """By how much a model is worse than the dense one in its worst domain: a share of the dense score's size, or the
    difference where that is 0. Negative where it is better everywhere."""
    if dense.keys() != found.keys():
        raise InputError("the evaluation names other domains than for the dense model: " + ", ".join(sorted(dense.keys() ^ found.keys())),
                         fix="return the same domains every time")
    return max((d - found[k]) / (abs(d) or 1.0) for k, d in dense.items())
