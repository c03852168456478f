"""All optimizers by name: AdamW, those of `htmuon.OPTIMIZERS`, and the baselines, which register themselves."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

from htmuon._registry import Registry, unknown_name
from htmuon.baselines.info import ADAMW, OptimizerInfo, first_line
from htmuon.baselines.variants import variant_info
from htmuon.optim import OPTIMIZERS

M = TypeVar("M", bound=Callable[..., torch.optim.Optimizer])

# AdamW and the baselines. The optimizers of this library need no row: theirs are read off their classes.
BASELINES: Registry[OptimizerInfo] = Registry("optimizer")


def register(
    name: str,
    *,
    label: str,
    first_lr: float | None,
    separate_rates: Callable[[Mapping[str, Any]], bool] = lambda settings: False,
    is_muon: bool = False,
) -> Callable[[M], M]:
    """A decorator that makes the row of an optimizer from the function that builds it.

    The function takes `RunInputs` and, by keyword, what a spec may set; the first line of its docstring is the rule.

    Args:
        name: in specs.
        label: for readers.
        first_lr: see `OptimizerInfo`.
        separate_rates: see `OptimizerInfo`. Where it holds by default, a spec may also say which parameters are
            matrices.
        is_muon: see `OptimizerInfo`.
    """

    def store(make: M) -> M:
        keywords = inspect.signature(make).parameters.values()
        settings = {p.name: p.default for p in keywords if p.kind is inspect.Parameter.KEYWORD_ONLY}
        BASELINES.register(name)(
            OptimizerInfo(
                name=name,
                label=label,
                make=make,
                settings=settings | ({"matrices": "hidden"} if separate_rates({}) else {}),
                separate_rates=separate_rates,
                rule=first_line(make),
                first_lr=first_lr,
                family=name,
                is_muon=is_muon,
            )
        )
        return make

    return store


def optimizer_names() -> list[str]:
    """The names of all optimizers: AdamW, this library's, the baselines."""
    return list(dict.fromkeys([ADAMW, *OPTIMIZERS, *BASELINES]))


def optimizer_info(name: str) -> OptimizerInfo:
    """The row of an optimizer.

    Args:
        name: that of `htmuon list`, without settings.

    Raises:
        ValueError: there is no such optimizer.

    Example:
        >>> optimizer_info("lion").label, optimizer_info("lion").first_lr, optimizer_info("htmuon").label
        ('Lion', 0.0004, 'HTMuon')
    """
    if name in BASELINES:
        return BASELINES[name]
    if name in OPTIMIZERS:
        return variant_info(name)
    raise unknown_name("optimizer", name, optimizer_names())
