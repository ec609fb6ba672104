"""Fine-tuning of a pruned net on its row's own data: the column that shows what labels add. Zeros stay zero."""
import numpy as np
import onnx

from benchmarks.accuracy.rows import Labels, Row
from edgekit.exporters.sparsify import Pruned

STEPS, EVERY, BATCH, RATE = 300, 30, 32, 3e-3


def fine_tune(row: Row, begin: Pruned, sparsity: float, seed: int) -> onnx.ModelProto | None:
    """AdamW along one cosine; what had the least loss on the tuning split, looked at EVERY so many steps, the beginning included.

    None where the row has neither labels nor, at that sparsity, a net that ships fine-tuned.
    """
    if sparsity in row.shipped:
        return onnx.load(row.shipped[sparsity])
    if row.labels is None:
        return None
    import torch

    import edgekit as ek

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    net = ek.trainable(begin.models[0])
    names = [i.name for i in begin.models[0].graph.input]
    train, held = (_tensors(row.labels(split), names) for split in ("train", "tuning"))
    loss_of = row.labels("train").loss
    best, kept = _loss(net, held, loss_of), net.to_onnx()
    optimiser = torch.optim.AdamW(net.parameters(), RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    batches: list[torch.Tensor] = []
    for step in range(1, STEPS + 1):
        batches = batches or list(torch.randperm(len(train[-1])).split(BATCH))
        rows = batches.pop()
        *inputs, targets = (t[rows] for t in train)
        loss = loss_of(_outputs(net, inputs), targets)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % EVERY == 0 and (error := _loss(net, held, loss_of)) < best:
            best, kept = error, net.to_onnx()
    return kept


def _tensors(labels: Labels, names: list[str]) -> list:
    import torch
    return [torch.from_numpy(np.ascontiguousarray(x)) for x in (*(labels.inputs[n] for n in names), labels.targets)]


def _outputs(net, inputs) -> list:
    found = net(*inputs)
    return list(found) if isinstance(found, (tuple, list)) else [found]


def _loss(net, held, loss_of) -> float:
    import torch

    parts = list(zip(*(t.split(8 * BATCH) for t in held)))
    with torch.no_grad():
        sums = [float(loss_of(_outputs(net, inputs), targets)) * len(targets) for *inputs, targets in parts]
    return sum(sums) / len(held[-1])
