"""The learning rate as a pure function of the step, so that a resumed run needs no state for it."""

import math

import torch


def lr_factor(step: int, *, steps: int, warmup_fraction: float, final_fraction: float) -> float:
    """Linear warm-up to 1, then a cosine to `final_fraction` at the last step.

    With W = round(warmup_fraction * steps): (step + 1) / W for step < W, then
    final + (1 - final) * (1 + cos(pi * (step + 1 - W) / (steps - W))) / 2.

    Args:
        step: from 0 to steps - 1.
        steps: steps of the whole run.
        warmup_fraction: share of the steps in the warm-up, from 0 to 1.
        final_fraction: the factor of the last step.

    Example:
        >>> [round(lr_factor(t, steps=8, warmup_fraction=0.25, final_fraction=0.1), 3) for t in (0, 1, 4, 7)]
        [0.5, 1.0, 0.55, 0.1]
    """
    warmup = round(warmup_fraction * steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step + 1 - warmup) / (steps - warmup)
    return final_fraction + (1 - final_fraction) * (1 + math.cos(math.pi * progress)) / 2


def keep_initial_lr(optimizer: torch.optim.Optimizer) -> None:
    """Store the peak learning rate of each group under "initial_lr", torch's name, where it is not there yet."""
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])


def scale_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's learning rate to `factor` times its "initial_lr"."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
