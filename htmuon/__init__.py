"""Heavy-tailed spectral optimizers for PyTorch: updates `U S^p V^T` for any p, on top of every Muon variant.

groups = htmuon.param_groups(model)             # hidden matrices -> spectral, the rest -> AdamW
optimizer = htmuon.HTMuon(groups, lr=0.02)      # one torch.optim.Optimizer for all parameters
"""

import importlib
from typing import TYPE_CHECKING, Any

from htmuon import linalg, optim, routing, spectral
from htmuon.optim import (
    OPTIMIZERS,
    AdaMuon,
    HTAdaMuon,
    HTMuon,
    HTNorMuon,
    Muon,
    NorMuon,
    like,
    power_schedule,
)
from htmuon.routing import Interleaved, matrix_view, param_groups, route, route_groups
from htmuon.spectral import spectral_map, spectral_power

if TYPE_CHECKING:
    from htmuon import analysis

__version__ = "0.1.0"

__all__ = [
    "OPTIMIZERS",
    "AdaMuon",
    "HTAdaMuon",
    "HTMuon",
    "HTNorMuon",
    "Interleaved",
    "Muon",
    "NorMuon",
    "analysis",
    "like",
    "linalg",
    "matrix_view",
    "optim",
    "param_groups",
    "power_schedule",
    "route",
    "route_groups",
    "routing",
    "spectral",
    "spectral_map",
    "spectral_power",
]


# Imported when they are first used: no training step needs them.
_ROOMS = (
    "analysis",
    "baselines",
    "bench",
    "checkpoints",
    "compare",
    "data",
    "integrations",
    "jax",
    "powers",
    "recipes",
    "training",
)


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"htmuon.{name}")
    raise AttributeError(f"module 'htmuon' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
