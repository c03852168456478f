"""Optimizers of the package pytorch_optimizer, by name in specs: what the spectral ones are compared with.

None is rewritten. All get the parameter groups of `htmuon.param_groups`: the weight decay of a run acts on matrices,
embeddings and heads, and not on vectors, as with `adamw`. They train every parameter with one learning rate. What a
function takes by keyword is what a spec may set: `lion:beta1=0.95,beta2=0.98`.
"""

from typing import Any

from htmuon._checks import check_number
from htmuon._extras import require
from htmuon._typing import Group
from htmuon.baselines.baseline import Baseline
from htmuon.baselines.info import RunInputs
from htmuon.baselines.registry import register


@register("soap", label="SOAP", first_lr=0.004)
def soap(
    run: RunInputs,
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


@register("lion", label="Lion", first_lr=0.0004)
def lion(run: RunInputs, *, beta1: float = 0.9, beta2: float = 0.99, decay_scale: float = 10.0) -> Baseline:
    """Lion of pytorch_optimizer for all parameters: the sign of a momentum, at `decay_scale` times the weight decay.

    Its learning rates are about ten times smaller than AdamW's, and with them the decay of the weights, which is the
    product of the two: the publication therefore takes a weight decay as many times larger. That is `decay_scale`.
    """
    check_number("decay_scale", decay_scale, remedy="1 is the weight decay of the others.")
    groups = [
        {**group, "weight_decay": decay_scale * group.get("weight_decay", run.weight_decay)} for group in run.groups
    ]
    return _of_package("Lion", run, groups, betas=(beta1, beta2))


@register("ademamix", label="AdEMAMix", first_lr=0.004)
def ademamix(
    run: RunInputs,
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


@register("mars", label="MARS", first_lr=0.008)
def mars(
    run: RunInputs,
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


def _of_package(kind: str, run: RunInputs, groups: list[Group], **settings: Any) -> Baseline:
    """An optimizer of pytorch_optimizer, imported only now."""
    module = require("pytorch_optimizer", extra="baselines")
    return Baseline(getattr(module, kind)(groups, lr=run.lr, weight_decay=run.weight_decay, **settings))
