"""The rows of this library's own optimizers, read off their classes: a new variant needs no line here."""

import inspect
from typing import Any

import torch

from htmuon.baselines.info import OptimizerInfo, RunInputs, first_line
from htmuon.optim import OPTIMIZERS, HTMuon, Muon
from htmuon.routing.routing import DEFAULT_SPLIT

# Updates that have the size of AdamW's take its learning rates.
_FIRST_LR_AT_ADAMWS_SIZE = 0.004
# What a spec cannot set: the run's configuration does, or a text cannot write it.
_NOT_IN_SPECS = {"self", "params", "settings", "lr", "weight_decay", "power_schedule", "process_group"}


def variant_info(name: str) -> OptimizerInfo:
    """The row of one of `htmuon.OPTIMIZERS`.

    Example:
        >>> info = variant_info("muon")
        >>> info.label, info.family, info.is_muon, info.settings["power"]
        ('Muon', 'htmuon', True, 0.0)
    """
    kind = OPTIMIZERS[name]

    def make(run: RunInputs, **settings: Any) -> HTMuon:
        return kind(
            run.groups,
            lr=run.lr,
            weight_decay=run.weight_decay,
            adamw_lr=run.adamw_lr,
            adamw_weight_decay=run.weight_decay,
            process_group=run.process_group,
            **settings,
        )

    settings = _settings(kind)
    return OptimizerInfo(
        name=name,
        label=kind.__name__,
        make=make,
        settings=settings,
        separate_rates=lambda settings: True,
        rule=first_line(kind),
        first_lr=_FIRST_LR_AT_ADAMWS_SIZE if settings["adjust_lr_fn"] == "match_rms_adamw" else None,
        family=_family(name),
        is_muon=kind is Muon,
    )


def _settings(kind: type[HTMuon]) -> dict[str, Any]:
    """What a spec may set, with the defaults."""
    found: dict[str, Any] = {}
    # A variant may take its parents' settings as **settings: the constructors of all of them count.
    for parent in kind.__mro__[: kind.__mro__.index(torch.optim.Optimizer)]:
        for key, parameter in inspect.signature(parent.__init__).parameters.items():  # type: ignore[misc]
            if key not in _NOT_IN_SPECS and parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                found.setdefault(key, parameter.default)
    own = {key: default for key, default in found.items() if not key.startswith("adamw_") or key == "adamw_eps"}
    return own | {"matrices": "hidden", "split": DEFAULT_SPLIT, "power_by": None}


def _family(name: str) -> str:
    """The heavy-tailed optimizer that is this one at another power; the name itself where there is none."""
    kind = OPTIMIZERS[name]
    if _settings(kind)["power"]:
        return name
    heavy = (other for other, kind_there in OPTIMIZERS.items() if _settings(kind_there)["power"])
    return next((other for other in heavy if _parts(OPTIMIZERS[other]) == _parts(kind)), name)


def _parts(kind: type[HTMuon]) -> tuple[object, ...]:
    """What an optimizer is made of, but for its power: the slots and the defaults."""
    return kind.precondition, kind.adaptation, _settings(kind) | {"power": None}
