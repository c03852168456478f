"""AdamW of torch for all parameters, with one learning rate or two."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from htmuon.baselines.info import ADAMW, RunInputs
from htmuon.baselines.registry import register


class AdamW(torch.optim.AdamW):
    """torch's fused AdamW that leaves out a step whose gradients are not all finite, as htmuon's optimizers do.

    One flag over all gradients, computed on the device, masks the step without a wait of the host. This is the flag
    that torch's own gradient scaler hands to fused optimizers.

    Args:
        params: as for `torch.optim.AdamW`.
        lr: learning rate.
        weight_decay: decoupled weight decay.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        eps: added to the root of the second moment; that of the other parameters of every optimizer here.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        *,
        weight_decay: float,
        beta1: float = 0.9,
        beta2: float = 0.95,
        eps: float = 1e-10,
    ) -> None:
        super().__init__(params, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, fused=True)
        for group in self.param_groups:
            group["skipped_steps"] = torch.zeros((), dtype=torch.int64, device=group["params"][0].device)

    @property
    def skipped_steps(self) -> Tensor:
        """Steps left out so far, 0-d."""
        count: Tensor = self.param_groups[0]["skipped_steps"]
        return count

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step, or none if a gradient is not finite."""
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        # The largest magnitude is NaN or infinite where any entry is.
        finite = get_total_norm(gradients, norm_type=float("inf")).isfinite()
        self.found_inf = (~finite).float()
        for group in self.param_groups:
            group["skipped_steps"] += ~finite
        loss: float | None = super().step(closure)
        return loss


@register(ADAMW, label="AdamW", first_lr=0.004, separate_rates=lambda settings: settings.get("two_rates") is True)
def adamw(
    run: RunInputs, *, beta1: float = 0.9, beta2: float = 0.95, eps: float = 1e-10, two_rates: bool = False
) -> AdamW:
    """Adam's element-wise rule with decoupled weight decay, for all parameters: no spectrum involved.

    With `two_rates` the hidden matrices take `lr` and the other parameters `adamw_lr`, as with the spectral optimizers.
    """
    groups = run.groups
    if two_rates:
        groups = [group | {"lr": run.lr if group["use_muon"] else run.adamw_lr} for group in groups]
    return AdamW(groups, run.lr, weight_decay=run.weight_decay, beta1=beta1, beta2=beta2, eps=eps)
