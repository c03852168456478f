"""The optimizer registry of timm: our optimizers by name, in `create_optimizer_v2` and in timm's `train.py`.

timm makes groups of a model (layer-wise rates, what is not decayed) and gives an optimizer these alone. Which of their
parameters are matrices is said by the model, so the registry is made to remember which model it works on.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import partial, wraps
from glob import escape
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import ParamsT

from htmuon._extras import require
from htmuon.optim import OPTIMIZERS, HTMuon
from htmuon.routing import route_groups

# The model whose optimizer is being made.
_MODEL: ContextVar[nn.Module | None] = ContextVar("model", default=None)

# timm passes this momentum where none was asked for.
_UNSAID_MOMENTUM = 0.9


def register() -> list[str]:
    """Add the optimizers of this library to timm's registry, under the names that timm has not given away.

        register()
        optimizer = timm.optim.create_optimizer_v2(model, opt="htmuon", lr=0.02, weight_decay=0.05, layer_decay=0.75)

    A model is divided by the rules of `htmuon.param_groups`, within the groups that timm makes: `layer_decay`,
    `weight_decay` and `model.no_weight_decay()` hold for matrices and others, `fallback_list` names what takes AdamW.
    `lr` is the rate of the matrices; all other settings, among them `adamw_lr`, are passed by their names
    (`--opt-kwargs adamw_lr=3e-3` in timm's `train.py`). `betas` and `eps` (`--opt-betas`, `--opt-eps`) are AdamW's. A
    momentum of 0.9 is what timm passes where none was asked for, and is taken for that: it is then 0.95.

    Returns:
        The names; `lookahead_` before one works as with every optimizer of timm.

    Raises:
        ImportError: timm is not installed.

    Example:
        >>> import timm, torch
        >>> register()
        ['htmuon', 'htadamuon', 'normuon', 'htnormuon']
        >>> model = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=10)
        >>> optimizer = timm.optim.create_optimizer_v2(model, opt="htmuon", lr=0.02, weight_decay=0.05, adamw_lr=3e-3)
        >>> sorted({(group["use_muon"], group["lr"], group["weight_decay"]) for group in optimizer.param_groups})
        [(False, 0.003, 0.0), (False, 0.003, 0.05), (True, 0.02, 0.05)]
    """
    factory = require("timm.optim._optim_factory", extra="timm")
    registry = factory.default_registry
    theirs = registry.list_optimizers()
    names = [name for name in OPTIMIZERS if name not in theirs or _is_ours(registry.get_optimizer_info(name))]
    for name in (name for name in names if name not in theirs):
        made = partial(_made, OPTIMIZERS[name])
        description = (OPTIMIZERS[name].__doc__ or "").partition("\n")[0]
        registry.register(factory.OptimInfo(name, made, description, has_eps=True, has_momentum=True, has_betas=True))
    if "create_optimizer" not in vars(registry):
        registry.create_optimizer = _remembering_the_model(registry.create_optimizer)
    return names


def _is_ours(row: Any) -> bool:
    """Whether a row of the registry is one that `register` has added."""
    return isinstance(row.opt_class, partial) and row.opt_class.func is _made


def _remembering_the_model(create: Callable[..., torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """`create_optimizer` of the registry, which tells `_made` the model that it was called with."""

    @wraps(create)
    def created(model_or_params: nn.Module | ParamsT, *args: Any, **settings: Any) -> torch.optim.Optimizer:
        token = _MODEL.set(model_or_params if isinstance(model_or_params, nn.Module) else None)
        try:
            return create(model_or_params, *args, **settings)
        finally:
            _MODEL.reset(token)

    return created


def _made(optimizer: type[HTMuon], params: ParamsT, **settings: Any) -> HTMuon:
    """An optimizer with the settings that timm gives, under their names here."""
    for theirs, ours in (("betas", "adamw_betas"), ("eps", "adamw_eps")):
        if theirs in settings:
            settings.setdefault(ours, settings.pop(theirs))
    if settings.get("momentum") == _UNSAID_MOMENTUM:
        del settings["momentum"]
    if "weight_decay" in settings:
        settings.setdefault("adamw_weight_decay", settings["weight_decay"])
    model = _MODEL.get()
    return optimizer(params if model is None else _routed(model, params), **settings)


def _routed(model: nn.Module, params: Any) -> list[dict[str, Any]]:
    """Timm's groups, or the plain parameters of a `param_group_fn`, divided; what `fallback_list` named takes AdamW."""
    listed = list(params)
    groups = listed if listed and isinstance(listed[0], Mapping) else [{"params": listed}]
    fallback = {id(p) for group in groups if group.get("use_fallback") for p in group["params"]}
    return route_groups(
        model, groups, adamw=[escape(name) for name, p in model.named_parameters() if id(p) in fallback]
    )
