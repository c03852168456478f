"""Heavy-tailed spectral optimizers for PyTorch: updates `U S^p V^T` for any p, on top of every Muon variant.

groups = htmuon.param_groups(model)             # hidden matrices -> spectral, the rest -> AdamW
optimizer = htmuon.HTMuon(groups, lr=0.02)      # one torch.optim.Optimizer for all parameters
"""

from htmuon import linalg, optim, spectral
from htmuon.optim import (
    OPTIMIZERS,
    AdaMuon,
    HTAdaMuon,
    HTMuon,
    HTNorMuon,
    Muon,
    NorMuon,
    matrix_view,
    param_groups,
    power_schedule,
    route,
)
from htmuon.spectral import spectral_map, spectral_power

__version__ = "0.1.0"

__all__ = [
    "OPTIMIZERS",
    "AdaMuon",
    "HTAdaMuon",
    "HTMuon",
    "HTNorMuon",
    "Muon",
    "NorMuon",
    "linalg",
    "matrix_view",
    "optim",
    "param_groups",
    "power_schedule",
    "route",
    "spectral",
    "spectral_map",
    "spectral_power",
]
