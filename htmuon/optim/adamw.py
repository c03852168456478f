"""The update of parameters that are no matrices: the fused AdamW of torch."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from htmuon._typing import Group
from htmuon.layouts import part, part_like
from htmuon.optim.memory import is_dense
from htmuon.optim.state import State, laid_out_as

AVERAGES = ("exp_avg", "exp_avg_sq")


def adamw_update(group: Group, parameters: Sequence[Tensor], states: Sequence[State], finite: Tensor) -> None:
    """One step of AdamW on what this rank holds; the kernel masks it by itself where `finite` is false.

    The fused kernel walks through memory: what is not dense takes the step as a dense copy, and what lies in another
    order than its parameter would be paired with the wrong elements.

    Args:
        group: the settings.
        parameters: with gradients, on one device and of one dtype.
        states: `step`, `exp_avg` and `exp_avg_sq` of each.
        finite: 0-d bool, on their device.
    """
    averages = [part(state[name]) for name in AVERAGES for state in states]
    gradients = [part_like(cast(Tensor, p.grad), p) for p in parameters]
    held = [part(p) for p in parameters]
    dense = [p if is_dense(p) else p.clone(memory_format=torch.contiguous_format) for p in held]
    walked = [laid_out_as(p, average) for p, average in zip(dense * len(AVERAGES), averages, strict=True)]
    adamw(
        dense,
        [laid_out_as(p, gradient.to(p.dtype)) for p, gradient in zip(dense, gradients, strict=True)],
        walked[: len(held)],
        walked[len(held) :],
        [],
        [state["step"] for state in states],
        fused=True,
        found_inf=(~finite).to(torch.float32),
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )
    for used, own in zip([*dense, *walked], [*held, *averages], strict=True):
        if used is not own:
            own.copy_(used)
