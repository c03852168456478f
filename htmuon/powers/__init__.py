"""Powers of matrices by published rules that look at spectra, and what sets them while a model trains."""

from htmuon._registry import import_all
from htmuon.powers.alpha import Alpha
from htmuon.powers.base import RULES, SpectralRule
from htmuon.powers.controller import PowerController
from htmuon.powers.nuclear_rank import NuclearRank
from htmuon.powers.schatten import Schatten

__all__ = ["RULES", "Alpha", "NuclearRank", "PowerController", "Schatten", "SpectralRule"]

import_all(__name__)
