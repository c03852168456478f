"""How a function of the singular values is computed: pure functions on stacks `[*batch, m, n]`."""

from htmuon._registry import import_all
from htmuon.linalg.base import METHODS, Accuracy, Axis, Family, Mapped, Method, ScalarFunction
from htmuon.linalg.eigh import Eigh
from htmuon.linalg.newton_schulz import NewtonSchulz
from htmuon.linalg.polynomial import Polynomial
from htmuon.linalg.quintic import Quintic
from htmuon.linalg.select import MethodChoice, check_method, method_of, method_setting, select_method
from htmuon.linalg.streaming import Streaming
from htmuon.linalg.svd import SVD

__all__ = [
    "METHODS",
    "SVD",
    "Accuracy",
    "Axis",
    "Eigh",
    "Family",
    "Mapped",
    "Method",
    "MethodChoice",
    "NewtonSchulz",
    "Polynomial",
    "Quintic",
    "ScalarFunction",
    "Streaming",
    "check_method",
    "method_of",
    "method_setting",
    "select_method",
]

import_all(__name__)
