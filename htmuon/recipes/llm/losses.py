"""The cross-entropy of next-token prediction."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from htmuon.recipes.task import NO_TARGET, Batch


def training_loss(model: torch.nn.Module, batch: Batch) -> Tensor:
    """Mean loss in nats per target, 0-d, of a batch."""
    inputs, targets = batch
    return cross_entropy(model(input_ids=inputs).logits.flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET)


@torch.no_grad()
def held_out_loss(
    model: torch.nn.Module, inputs: Tensor, targets: Tensor, *, batch_size: int, device: torch.device
) -> float:
    """Mean loss in nats over all targets; each counts once and equally.

    Args:
        model: on `device`.
        inputs: tokens `[sequences, length]`, on any device.
        targets: `[sequences, length]`, `NO_TARGET` where there is none.
        batch_size: sequences in one forward pass.
        device: where the loss is computed.
    """
    total = torch.zeros((), dtype=torch.float64, device=device)
    for some, expected in zip(torch.split(inputs, batch_size), torch.split(targets, batch_size), strict=True):
        logits = model(input_ids=some.to(device).long()).logits.flatten(0, 1)
        losses = cross_entropy(logits, expected.to(device).long().flatten(), ignore_index=NO_TARGET, reduction="none")
        total += losses.double().sum()
    return float(total) / int((targets != NO_TARGET).sum())
