"""Which function of the singular values becomes the update: spectral maps and normalizations."""

from htmuon._registry import import_all
from htmuon.spectral.apply import spectral_map, spectral_power
from htmuon.spectral.base import MAPS, POWER_RANGE, SpectralMap, check_power
from htmuon.spectral.blend import Blend
from htmuon.spectral.choice import MapChoice, map_of, map_setting
from htmuon.spectral.edge import Quantile
from htmuon.spectral.floored_power import FlooredPower
from htmuon.spectral.function import Function
from htmuon.spectral.knee import Knee
from htmuon.spectral.normalization import check_normalization
from htmuon.spectral.power import Power
from htmuon.spectral.rank_power import RankPower
from htmuon.spectral.soft_clip import Clip, Soren

__all__ = [
    "MAPS",
    "POWER_RANGE",
    "Blend",
    "Clip",
    "FlooredPower",
    "Function",
    "Knee",
    "MapChoice",
    "Power",
    "Quantile",
    "RankPower",
    "Soren",
    "SpectralMap",
    "check_normalization",
    "check_power",
    "map_of",
    "map_setting",
    "spectral_map",
    "spectral_power",
]

import_all(__name__)
