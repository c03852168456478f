"""The update of parameters that are no matrices: the fused AdamW of torch."""

from typing import cast

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from htmuon.layouts import part, part_like
from htmuon.optim.settings import Group
from htmuon.optim.state import State, laid_out_as


def adamw_update(group: Group, parameters: list[Tensor], states: list[State], finite: Tensor) -> None:
    """One step of AdamW on what this rank holds; the kernel masks it by itself where `finite` is false.

    Args:
        group: the settings.
        parameters: with gradients, on one device and of one dtype.
        states: `step`, `exp_avg` and `exp_avg_sq` of each.
        finite: 0-d bool, on their device.
    """
    adamw(
        [part(p) for p in parameters],
        # The fused kernel walks memory: it would pair the wrong elements where strides differ.
        [laid_out_as(part(p), part_like(cast(Tensor, p.grad), p)) for p in parameters],
        [part(state["exp_avg"]) for state in states],
        [part(state["exp_avg_sq"]) for state in states],
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
