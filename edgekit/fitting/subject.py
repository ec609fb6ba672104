"""What is fitted, and what a configuration makes of it: plain data, so that it can be computed anywhere."""
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.fitting.evaluation import Evaluation, Runner, drop, resolve, scores, session

if TYPE_CHECKING:
    import onnx

DENSE, GROUPS, RANDOM, CHANNELS, SMALL = "dense", "groups", "random mask", "whole channels", "smaller dense net"


@dataclass(frozen=True)
class Configuration:
    """One way to make the model cheaper.

    method: DENSE; GROUPS, by reconstruction on the calibration inputs, or by magnitude without them; RANDOM, a random mask
    of the same groups; CHANNELS, of least magnitude; SMALL, as narrow, its layers drawn anew. sparsity: by layer, or for
    the last two a share with the name "". tuned: distilled from the dense net on the calibration inputs afterwards.
    """

    method: str
    sparsity: tuple[tuple[str, float], ...] = ()
    tuned: bool = False
    seed: int = 0

    @property
    def key(self) -> str:
        """The same text for equal configurations."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class Job:
    """Make a configuration and judge it. scored: by the evaluation too. kept: the models are wanted."""

    configuration: Configuration
    scored: bool = True
    kept: bool = True

    @property
    def key(self) -> str:
        return f"{self.configuration.key} {'scored' if self.scored else 'error'}"


@dataclass(frozen=True)
class Subject:
    """models: clean graphs, serialized. calibration: {input: (cases, *shape)}, or None. evaluation: a callable, or where to
    import one from. group: V or "auto"."""

    models: tuple[bytes, ...]
    states: tuple[tuple[str, str], ...]
    calibration: Mapping[str, np.ndarray] | None
    evaluation: str | Evaluation | None
    group: int | str


class Workshop:
    """Does jobs on a subject; what they share is made once."""

    def __init__(self, subject: Subject):
        self.subject = subject

    @cached_property
    def dense(self) -> "list[onnx.ModelProto]":
        import onnx
        return [onnx.load_from_string(m) for m in self.subject.models]

    @cached_property
    def data(self) -> Any:
        from edgekit.exporters.sparsify import read_calibration
        given = self.subject.calibration
        return None if given is None else read_calibration(self.dense, given, self.subject.states)

    @cached_property
    def held(self) -> list[tuple[int, dict[str, np.ndarray], list[list[np.ndarray]]]]:
        """(model, inputs held back, the dense model's outputs of each case) of every model with data."""
        if self.data is None:
            return []
        found = []
        for k, (model, inputs) in enumerate(zip(self.dense, self.data.inputs)):
            if inputs is not None:
                late = {n: a[self.data.fitted:] for n, a in inputs.items()}
                found.append((k, late, _outputs(model, late)))
        return found

    def do(self, job: Job) -> tuple[dict, list[bytes]]:
        """{error, scores, layers}, and the models where they are wanted.

        error: on the inputs held back, squared difference to the dense outputs over their spread; of several outputs the
        largest; None without calibration inputs. scores: of the evaluation, or None.
        """
        from edgekit.exporters.sparsify import Pruned
        made: Pruned = self.made(job.configuration)
        runner = Runner(made.models, self.subject.states)
        found = None
        if job.scored and self.subject.evaluation is not None:
            given = self.subject.evaluation
            found = scores(resolve(given), runner, given if isinstance(given, str) else getattr(given, "__name__", "the evaluation"))
        result = {"error": self._error(made.models), "scores": found, "layers": [asdict(x) for x in made.layers]}
        return result, [m.SerializeToString() for m in made.models] if job.kept else []

    def made(self, c: Configuration) -> Any:
        """The configuration's models."""
        from edgekit.exporters.sparsify import prune_onnx
        from edgekit.exporters.sparsify.scores import l2, random
        by_layer, share, group = dict(c.sparsity), dict(c.sparsity).get("", 0.0), self.subject.group
        if c.method in (CHANNELS, SMALL):
            made = prune_onnx(self.dense, sparsity=share, pattern="channels", score=partial(random, seed=c.seed) if c.method == SMALL else l2)
            made = made if c.method == CHANNELS else _drawn(made, c.seed)
        elif c.method == RANDOM:
            made = prune_onnx(self.dense, sparsity=by_layer, group=group, score=partial(random, seed=c.seed))
        elif c.method == GROUPS and self.data is not None:
            from edgekit.exporters.sparsify import reconstruct
            made = reconstruct(self.dense, self.data, sparsity=by_layer, group=group)
        else:
            made = prune_onnx(self.dense, sparsity=by_layer, group=group)
        if c.tuned and self.data is not None:
            from edgekit.exporters.sparsify import tune
            made = tune(self.dense, made, self.data, states=self.subject.states)
        return made

    def _error(self, models: "tuple[onnx.ModelProto, ...]") -> float | None:
        errors = []
        for k, inputs, dense in self.held:
            for ours, theirs in zip(zip(*_outputs(models[k], inputs)), zip(*dense)):
                a, b = (np.stack(x).astype(np.float64) for x in (ours, theirs))
                spread = float(((b - b.mean(0)) ** 2).sum()) or float((b ** 2).sum())
                if spread:
                    errors.append(float(((a - b) ** 2).sum()) / spread)
        return None if not self.held else max(errors, default=0.0)

    def drop(self, dense: dict, found: dict) -> float | None:
        """Of the results of two jobs, by the evaluation."""
        return None if dense["scores"] is None or found["scores"] is None else drop(dense["scores"], found["scores"])


def _outputs(model: "onnx.ModelProto", inputs: Mapping[str, np.ndarray]) -> list[list[np.ndarray]]:
    """Floating-point outputs of each case."""
    opened = session(model)
    names = [o.name for o in opened.get_outputs() if "float" in o.type or "double" in o.type]
    cases = len(next(iter(inputs.values())))
    return [opened.run(names, {n: a[k] for n, a in inputs.items()}) for k in range(cases)]


def _drawn(made: Any, seed: int) -> Any:
    """The same net before training: weights of its layers drawn with the deviation that each has, equal in all models."""
    from dataclasses import replace

    from onnx import numpy_helper

    from edgekit.exporters.sparsify.graph import weights, with_values
    tensors = [{t.name: t for t in m.graph.initializer} for m in made.models]
    values: list[dict[str, np.ndarray]] = [{} for _ in made.models]
    rng = np.random.default_rng(seed)
    for layer in weights(made.models):
        drawn = None
        for k, name, layout in layer.places:
            old = numpy_helper.to_array(tensors[k][name])
            if old.dtype.kind != "f":
                continue
            if drawn is None:
                drawn = (rng.standard_normal(old.shape) * old.std() + old.mean()).astype(old.dtype)
            values[k][name] = drawn if drawn.shape == old.shape else drawn.T.reshape(old.shape)
    return replace(made, models=tuple(map(with_values, made.models, values)))
