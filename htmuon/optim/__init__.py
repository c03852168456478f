"""The order of things: one step loop, its slots, the named optimizers, parameter groups, power schedules."""

from htmuon._registry import import_all
from htmuon.optim.adamuon import AdaMuon, HTAdaMuon
from htmuon.optim.base import SpectralOptimizer
from htmuon.optim.capture import CapturedStep
from htmuon.optim.foreign import load_from
from htmuon.optim.hindsight import POWER_RULES, RATE_RULES
from htmuon.optim.htmuon import OPTIMIZERS, HTMuon, Muon
from htmuon.optim.momentum_rules import MOMENTUM_RULES, TwoAverages
from htmuon.optim.normuon import HTNorMuon, NorMuon
from htmuon.optim.power_rules import Held, PowerAlignment
from htmuon.optim.rate_rules import Alignment
from htmuon.optim.schedules import POWER_SCHEDULES, power_schedule
from htmuon.optim.translation import PEERS, Like, like
from htmuon.optim.weight_updates import WEIGHT_UPDATES

__all__ = [
    "MOMENTUM_RULES",
    "OPTIMIZERS",
    "PEERS",
    "POWER_RULES",
    "POWER_SCHEDULES",
    "RATE_RULES",
    "WEIGHT_UPDATES",
    "AdaMuon",
    "Alignment",
    "CapturedStep",
    "HTAdaMuon",
    "HTMuon",
    "HTNorMuon",
    "Held",
    "Like",
    "Muon",
    "NorMuon",
    "PowerAlignment",
    "SpectralOptimizer",
    "TwoAverages",
    "like",
    "load_from",
    "power_schedule",
]

import_all(__name__)
