"""The order of things: one step loop, its slots, the named optimizers, parameter groups, power schedules."""

from htmuon._registry import import_all
from htmuon.optim.adamuon import AdaMuon, HTAdaMuon
from htmuon.optim.base import SpectralOptimizer
from htmuon.optim.htmuon import OPTIMIZERS, HTMuon, Muon
from htmuon.optim.normuon import HTNorMuon, NorMuon
from htmuon.optim.schedules import POWER_SCHEDULES, power_schedule
from htmuon.routing.foreign_groups import route_groups
from htmuon.routing.routes import Routing
from htmuon.routing.routing import param_groups, route
from htmuon.routing.views import matrix_view

__all__ = [
    "OPTIMIZERS",
    "POWER_SCHEDULES",
    "AdaMuon",
    "HTAdaMuon",
    "HTMuon",
    "HTNorMuon",
    "Muon",
    "NorMuon",
    "Routing",
    "SpectralOptimizer",
    "matrix_view",
    "param_groups",
    "power_schedule",
    "route",
    "route_groups",
]

import_all(__name__)
