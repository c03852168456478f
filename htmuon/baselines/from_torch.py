"""Optimizers of torch, by name in specs: none is rewritten.

They get the parameter groups of `htmuon.param_groups`: the weight decay of a run acts on matrices, embeddings and
heads, and not on vectors, as with `adamw`. What a function takes by keyword is what a spec may set:
`sgd:momentum=0.95,nesterov=true`.
"""

import torch

from htmuon.baselines.baseline import Baseline
from htmuon.baselines.info import RunInputs
from htmuon.baselines.registry import register


@register("sgd", label="SGD", first_lr=0.1)
def sgd(run: RunInputs, *, momentum: float = 0.9, nesterov: bool = False) -> Baseline:
    """SGD with momentum, of torch, for all parameters; its weight decay is added to the gradient."""
    optimizer = torch.optim.SGD(
        run.groups, lr=run.lr, weight_decay=run.weight_decay, momentum=momentum, nesterov=nesterov
    )
    for group in optimizer.param_groups:
        group["decoupled_weight_decay"] = False  # what the spectra of updates are computed with
    return Baseline(optimizer)


@register("torch_muon", label="torch's Muon", first_lr=None, separate_rates=lambda settings: True, is_muon=True)
def torch_muon(
    run: RunInputs,
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
