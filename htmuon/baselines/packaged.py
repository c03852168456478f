"""Optimizers of torch and of the package pytorch_optimizer, by name in specs: what the spectral ones are compared with.

None is rewritten. All get the parameter groups of `htmuon.param_groups`: the weight decay of a run acts on matrices,
embeddings and heads, and not on vectors, as with `adamw`. All but `torch_muon` train every parameter with one learning
rate. What a function takes by keyword is what a spec may set: `lion:beta1=0.95,beta2=0.98`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils import get_total_norm

from htmuon._extras import require
from htmuon._registry import Registry
from htmuon._typing import Group


@dataclass(frozen=True, kw_only=True)
class BaselineRun:
    """What a run gives to a baseline.

    Attributes:
        groups: of `htmuon.param_groups`.
        lr: peak learning rate.
        adamw_lr: that of the parameters beside the hidden matrices; only `torch_muon` has one.
        weight_decay: of groups that have no other.
        steps: of the whole run; None if that is not known.
    """

    groups: list[Group]
    lr: float
    adamw_lr: float
    weight_decay: float
    steps: int | None


class Baseline(torch.optim.Optimizer):
    """One or more optimizers, each with its own parameters, as one for schedulers, checkpoints and trainers.

    Its groups and states are those of the parts. A step in which a gradient is not finite is left out and counted; to
    know that, the host waits for the device once in each step.

    Args:
        parts: without a parameter in common.

    Example:
        >>> layer = torch.nn.Linear(2, 2)
        >>> parts = torch.optim.SGD([layer.weight], lr=0.1), torch.optim.AdamW([layer.bias], lr=0.01)
        >>> [group["lr"] for group in Baseline(*parts).param_groups]
        [0.1, 0.01]
    """

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {"skipped_steps": 0})
        self._parts = parts
        self._share()

    @property
    def skipped_steps(self) -> int:
        """Steps left out so far."""
        count: int = self.param_groups[0]["skipped_steps"]
        return count

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of all parts, or none if a gradient is not finite."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        # The largest magnitude is NaN or infinite where any entry is.
        if not bool(get_total_norm(gradients, norm_type=float("inf")).isfinite()):
            for group in self.param_groups:
                group["skipped_steps"] += 1
            return loss
        for part in self._parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state, as every optimizer of torch does."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Give the parts the groups and the states of the whole, which are then the same objects."""
        first = 0
        for part in self._parts:
            last = first + len(part.param_groups)
            part.param_groups, part.state = self.param_groups[first:last], self.state
            first = last


BASELINES: Registry[Callable[..., torch.optim.Optimizer]] = Registry("optimizer")


@BASELINES.register("sgd")
def sgd(run: BaselineRun, *, momentum: float = 0.9, nesterov: bool = False) -> Baseline:
    """SGD with momentum, of torch, for all parameters; its weight decay is added to the gradient."""
    optimizer = torch.optim.SGD(
        run.groups, lr=run.lr, weight_decay=run.weight_decay, momentum=momentum, nesterov=nesterov
    )
    for group in optimizer.param_groups:
        group["decoupled_weight_decay"] = False  # what the spectra of updates are computed with
    return Baseline(optimizer)


@BASELINES.register("torch_muon")
def torch_muon(
    run: BaselineRun,
    *,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_steps: int = 5,
    adjust_lr_fn: str = "original",
    adamw_eps: float = 1e-10,
) -> Baseline:
    """Muon of torch for the hidden matrices, with torch's AdamW for the rest.

    Raises:
        ValueError: a hidden matrix is not stored as a matrix, as the weights of convolutions are not.
    """
    hidden = [group for group in run.groups if group["use_muon"]]
    others = [group for group in run.groups if not group["use_muon"]]
    for name, parameter in (named for group in hidden for named in group["params"]):
        if parameter.ndim != 2:
            raise ValueError(
                f"torch.optim.Muon needs hidden matrices of 2 dimensions; {name!r} has the shape "
                f'{tuple(parameter.shape)}. Use "muon:method=newton_schulz", which takes convolutions as matrices.'
            )
    parts: list[torch.optim.Optimizer] = []
    if hidden:
        muon = torch.optim.Muon(
            hidden,
            lr=run.lr,
            weight_decay=run.weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            ns_steps=ns_steps,
            adjust_lr_fn=adjust_lr_fn,
        )
        parts.append(muon)
    if others:
        adamw = torch.optim.AdamW(
            others, lr=run.adamw_lr, betas=(0.9, 0.95), eps=adamw_eps, weight_decay=run.weight_decay, fused=True
        )
        parts.append(adamw)
    return Baseline(*parts)


@BASELINES.register("soap")
def soap(
    run: BaselineRun,
    *,
    beta1: float = 0.95,
    beta2: float = 0.95,
    precondition_frequency: int = 10,
    max_precondition_dim: int = 10000,
    eps: float = 1e-8,
) -> Baseline:
    """SOAP of pytorch_optimizer for all parameters: Adam in the eigenbases of Shampoo.

    Vectors take plain Adam, and so does the long side of an embedding or a head: sides longer than those of every
    hidden matrix are not preconditioned. In the publication the vocabulary is longer than `max_precondition_dim`.
    The first step only makes the bases.
    """
    sides = [side for group in run.groups if group["use_muon"] for _, p in group["params"] for side in p.shape]
    longest = min(max_precondition_dim, max(sides, default=max_precondition_dim))
    groups = [group if group["use_muon"] else {**group, "max_precondition_dim": longest} for group in run.groups]
    settings = {"precondition_frequency": precondition_frequency, "max_precondition_dim": max_precondition_dim}
    return _of_package("SOAP", run, groups, betas=(beta1, beta2), eps=eps, **settings)


@BASELINES.register("lion")
def lion(run: BaselineRun, *, beta1: float = 0.9, beta2: float = 0.99, decay_scale: float = 10.0) -> Baseline:
    """Lion of pytorch_optimizer for all parameters: the sign of a momentum, at `decay_scale` times the weight decay.

    Its learning rates are about ten times smaller than AdamW's, and with them the decay of the weights, which is the
    product of the two: the publication therefore takes a weight decay as many times larger. That is `decay_scale`.
    """
    if decay_scale < 0:
        raise ValueError(f"decay_scale must not be negative; got {decay_scale}. 1 is the weight decay of the others.")
    groups = [
        {**group, "weight_decay": decay_scale * group.get("weight_decay", run.weight_decay)} for group in run.groups
    ]
    return _of_package("Lion", run, groups, betas=(beta1, beta2))


@BASELINES.register("ademamix")
def ademamix(
    run: BaselineRun,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    beta3: float = 0.9999,
    alpha: float = 5.0,
    warmup: int | str = "run",
    eps: float = 1e-8,
) -> Baseline:
    """AdEMAMix of pytorch_optimizer for all parameters: Adam with a fast and a slow momentum.

    `warmup` is the number of steps in which `alpha` and `beta3` grow to their values: as published the whole run, or
    none where the length of the run is not known.
    """
    if warmup != "run" and (type(warmup) is not int or warmup < 0):
        raise ValueError(f'warmup must be a number of steps, or "run" for all of them; got {warmup!r}.')
    steps = run.steps if warmup == "run" else warmup
    settings = {"alpha": alpha, "t_alpha_beta3": steps or None, "weight_decouple": True}
    return _of_package("AdEMAMix", run, run.groups, betas=(beta1, beta2, beta3), eps=eps, **settings)


@BASELINES.register("mars")
def mars(
    run: BaselineRun,
    *,
    beta1: float = 0.95,
    beta2: float = 0.99,
    gamma: float = 0.025,
    mars_type: str = "adamw",
    eps: float = 1e-8,
) -> Baseline:
    """MARS of pytorch_optimizer for all parameters: gradients with reduced variance in AdamW's rule.

    Vectors take AdamW with the same learning rate, as published. The gradient of the step before stands in for a second
    gradient of the same batch, the approximate form of the publication.
    """
    settings = {"gamma": gamma, "mars_type": mars_type, "lr_1d": run.lr, "weight_decay_1d": 0.0}
    return _of_package("MARS", run, run.groups, betas=(beta1, beta2), eps=eps, **settings)


def _of_package(kind: str, run: BaselineRun, groups: list[Group], **settings: Any) -> Baseline:
    """An optimizer of pytorch_optimizer, imported only now."""
    module = require("pytorch_optimizer", extra="baselines")
    return Baseline(getattr(module, kind)(groups, lr=run.lr, weight_decay=run.weight_decay, **settings))
