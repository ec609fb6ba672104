"""Pruning that is judged: a net that ends worse than a trivial predictor is refused, with the sparsity that would have worked."""
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from edgekit.errors import AccuracyError
from edgekit.exporters.sparsify.oneshot import Pruned
from edgekit.exporters.sparsify.reconstruction.calibration import Calibration
from edgekit.exporters.sparsify.reconstruction.verdict import Verdict, judge
from edgekit.exporters.sparsify.rules import Group, Sparsity

if TYPE_CHECKING:
    import onnx

TRIES = 3


def judged(models: "Sequence[onnx.ModelProto]", data: Calibration, *, sparsity: Sparsity, group: Group = "auto", permute: bool = True,
           tune: bool = False, states: Sequence[tuple[str, str]] = (), progress: Callable[[str], None] = lambda _: None
           ) -> tuple[Pruned, Verdict]:
    """What `net.reconstruct` makes, tuned (`tuning.tune`) where that is asked for, and how it does on the cases held back.

    AccuracyError where it does worse than a trivial predictor; the fix names the highest sparsity found to work in TRIES tries.
    """
    from edgekit.exporters.sparsify import tuning
    from edgekit.exporters.sparsify.reconstruction.net import reconstruct

    def tried(level: Sparsity, tune: bool = False) -> tuple[Pruned, Verdict]:
        pruned = reconstruct(models, data, sparsity=level, group=group, permute=permute, progress=progress)
        if tune:
            pruned = tuning.tune(models, pruned, data, states=states, progress=progress)
        progress("judging it on the cases held back")
        return pruned, judge(models, pruned.models, data)
    pruned, verdict = tried(sparsity, tune)
    if not verdict.worse:
        return pruned, verdict
    good, bad = 0.0, 1.0  # shares of what was asked for
    for _ in range(TRIES):
        share = (good + bad) / 2
        progress(f"that is worse than a trivial predictor; trying {share:.0%} of the sparsity")
        if tried(_scaled(sparsity, share))[1].worse:
            bad = share
        else:
            good = share
    found = f"a sparsity of {_words(sparsity, good)} would have worked" if good else f"even a sparsity of {_words(sparsity, bad)} is too much"
    raise AccuracyError(f"at a sparsity of {_words(sparsity, 1)} the net is no better than guessing, on {verdict.cases} calibration inputs "
                        f"held back: {verdict.worse}",
                        fix=f"{found}; smaller groups, more calibration inputs or fine-tuning (`edgekit.prune`) allow more")


def _scaled(sparsity: Sparsity, share: float) -> Sparsity:
    if isinstance(sparsity, Mapping):
        return {name: float(s) * share for name, s in sparsity.items()}
    return float(sparsity) * share


def _words(sparsity: Sparsity, share: float) -> str:
    return f"{share:.0%} of what each layer was given" if isinstance(sparsity, Mapping) else f"{float(sparsity) * share:.3g}"
