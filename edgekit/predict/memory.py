"""The bytes that a step moves, and which of them the caches do not hold: work like any other, by the cache that they are past."""
from collections.abc import Mapping, Sequence
from math import prod

from edgekit.exporters.lower.plan import Buffer, Plan, Step
from edgekit.exporters.lower.traffic import strided
from edgekit.predict.work import past

LINE = 64  # bytes that move at once


def movement(step: Step, buffers: Mapping[str, Buffer], plan: Plan, caches: Mapping[str, int]) -> dict[str, float]:
    """`moved`: bytes of activations, whole lines; `moved_past_C` and `weights_past_C`: those that cache C does not hold.

    Weights were used an inference ago, so what else the model touches decides whether they are still there; activations
    were written a few steps ago, and the step's own operands and half of the arena decide.
    """
    operands = [buffers[a.buffer] for a in step.args]
    own = {b.name: b.nbytes for b in operands if b.space == "arena"}
    weights = {b.name: b.nbytes for b in operands if b.space == "weights"}
    moved = _lines(step, operands)
    whole, near = plan.weights_bytes + plan.arena_bytes, max(sum(own.values()), plan.arena_bytes / 2)
    found = {"moved": float(moved)}
    for name, size in caches.items():
        found[f"weights_past_{name}"] = sum(weights.values()) * past(whole, size)
        found[f"moved_past_{name}"] = moved * past(near, size)
    if caches:
        found["call_cold"] = past(whole, sorted(caches.values())[:2][-1])  # the code itself, its tables
    return found


def _lines(step: Step, operands: Sequence[Buffer]) -> int:
    """Bytes of the lines that the step touches in the arena."""
    walked = strided(step.kernel)
    whole = operands[:len(operands) - len(walked)]
    total = sum(b.nbytes for b in whole if b.space == "arena")
    for buffer, (tensor, shape) in zip(operands[len(whole):], walked, strict=True):
        if buffer.space == "arena":
            run, runs = 1, 1  # elements side by side, or nearly; and how many such runs
            for stride, n in sorted((abs(s), n) for n, s in zip(shape, tensor.strides, strict=True) if s and n > 1):
                if runs == 1 and stride < run + LINE // 4:
                    run += stride * (n - 1)
                else:
                    runs *= n
            size = buffer.nbytes // max(prod(buffer.shape), 1)
            total += min(runs * -(-run * size // LINE) * LINE, max(buffer.nbytes, LINE))
    return total
