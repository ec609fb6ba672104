"""The columns of the table: from a dense net, a sparsity and a seed to a pruned net."""
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import onnx

from benchmarks.accuracy.finetune import fine_tune
from benchmarks.accuracy.rows import Row
from edgekit.exporters.load import load
from edgekit.exporters.sparsify import Pruned, prune_onnx, scores


@dataclass(frozen=True)
class Trial:
    """One net at one sparsity, with the calibration inputs of one seed. What several methods build on is made once."""

    row: Row
    sparsity: float
    seed: int

    @cached_property
    def dense(self) -> onnx.ModelProto:
        """The clean graph, as an export prunes it."""
        variant, = load(self.row.model(), states=dict(self.row.states)).variants
        return variant.model

    @cached_property
    def calibration(self):
        return self.row.calibration(self.seed)

    def reconstructed(self, **how) -> Pruned:
        from edgekit.exporters.sparsify import reconstruct
        return reconstruct([self.dense], self.calibration, sparsity=self.sparsity, states=self.row.states, **how)

    @cached_property
    def one_shot(self) -> Pruned:
        return self.reconstructed()

    @cached_property
    def random(self) -> Pruned:
        return self.pruned(score=lambda w: scores.random(w, self.seed))

    @cached_property
    def channels(self) -> Pruned | None:
        """So many channels that a layer whose inputs and outputs both shrink does the multiply-adds that groups leave."""
        found = prune_onnx([self.dense], sparsity=1 - (1 - self.sparsity) ** 0.5, pattern="channels")
        return found if any(layer.sparsity for layer in found.layers) else None

    def pruned(self, **how) -> Pruned:
        return prune_onnx([self.dense], sparsity=self.sparsity, **how)

    def tuned(self, begin: Pruned | None) -> Pruned | None:
        from edgekit.exporters.sparsify import tune
        if begin is None:
            return None
        return tune([self.dense], begin, self.calibration, states=self.row.states)


@dataclass(frozen=True)
class Method:
    """title: of its column. prune: to None where the method has nothing to do. seeds: whether the seed matters."""

    title: str
    prune: Callable[[Trial], Pruned | onnx.ModelProto | None]
    seeds: bool = True


METHODS = {
    "one-shot": Method("ours, one-shot", lambda t: t.one_shot),
    "tuned": Method("+ label-free tuning", lambda t: t.tuned(t.one_shot)),
    "fine-tuned": Method("+ fine-tuned on data", lambda t: fine_tune(t.row, t.one_shot, t.sparsity, t.seed)),
    "no permutation": Method("no permutation, one-shot", lambda t: t.reconstructed(permute=False)),
    "magnitude": Method("magnitude only", lambda t: t.pruned(), seeds=False),
    "random": Method("random mask", lambda t: t.random),
    "random, tuned": Method("random mask, tuned", lambda t: t.tuned(t.random)),
    "channels": Method("whole channels", lambda t: t.channels, seeds=False),
    "channels, tuned": Method("whole channels, tuned", lambda t: t.tuned(t.channels)),
    "unstructured": Method("unstructured bound, one-shot", lambda t: t.reconstructed(group=1)),
}
