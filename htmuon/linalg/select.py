"""A method as people choose it and as a parameter group holds it, and what `auto` stands for.

Polynomial(levels=8)  <->  {"name": "polynomial", "levels": 8, "precision": None}
Polynomial()          <->  "polynomial"
"""

import torch
from torch import Tensor

from htmuon._checks import known
from htmuon._registry import unknown_name
from htmuon.linalg.base import METHODS, Method, ScalarFunction
from htmuon.linalg.parts import PartDict, as_dict, is_part, name_of, with_fields
from htmuon.linalg.quintic import Quintic

AUTO = "auto"
EXACT = "exact"
# The largest error that `auto` allows: of the functions, and of a step of an optimizer. Muon's own five steps are 16 to
# 45 % from the polar factor, and training does not see what is below some ten percent.
OF_FUNCTIONS = 0.01
OF_STEPS = 0.1
# Short sides below which products cost little beside the calls that make them: `auto` takes more quintic steps there,
# which reach singular values ten times smaller. A ResNet of width 24 to 96 has a test loss higher by 0.008 with five
# steps than with `eigh` (95 % interval 0.002 to 0.014, eight seeds), and the same with seven
# (benchmarks/results/quintic_resnet-tiny.json).
SMALL_SIDE = 128
SMALL = Quintic(steps=7)
# What products in bfloat16 add to the relative error of a matrix.
NARROW = 0.02
MethodChoice = str | PartDict | Method


def method_of(choice: MethodChoice) -> Method:
    """The method that a name, a dict or an object stands for.

    Args:
        choice: everything except `auto`, which stands for no one method.

    Raises:
        TypeError: it is none of the three.
        ValueError: the method does not exist, or has no such setting.

    Example:
        >>> method_of({"name": "polynomial", "levels": 8})
        Polynomial(levels=8, precision=None)
    """
    if isinstance(choice, Method):
        return choice
    if not isinstance(choice, str | dict):
        raise TypeError(
            f"method must be a name, a dict or a method; got {choice!r} of type {type(choice).__name__}. "
            "Pass 'auto', or an object such as htmuon.linalg.Polynomial(levels=8)."
        )
    name = choice if isinstance(choice, str) else name_of("method", choice)
    if name not in METHODS:
        raise unknown_name("method", name, [AUTO, EXACT, *METHODS] if isinstance(choice, str) else list(METHODS))
    return METHODS[name] if isinstance(choice, str) else with_fields("method", METHODS[name], choice)


def method_setting(choice: MethodChoice) -> str | PartDict:
    """A method as a parameter group and a file hold it: its name, or a dict where its settings are not the defaults.

    Args:
        choice: a name stays as it is.

    Raises:
        TypeError: it is no name, dict or method.
        ValueError: the method is not registered.

    Example:
        >>> from htmuon.linalg import Polynomial
        >>> method_setting(Polynomial(levels=8)), method_setting(Polynomial())
        ({'name': 'polynomial', 'levels': 8, 'precision': None}, 'polynomial')
    """
    if isinstance(choice, str):
        return choice
    method = method_of(choice)
    if method.name in METHODS and METHODS[method.name] == method:
        return method.name
    if method.name not in METHODS or type(METHODS[method.name]) is not type(method) or not is_part(method):
        raise ValueError(
            f"a method of an optimizer must be registered, and a dataclass if it has settings, so that it can be saved;"
            f" got {method!r}. Call htmuon.linalg.METHODS.register({method.name!r})(...) first."
        )
    return as_dict(method.name, method)


def select_method(
    matrix: Tensor,
    function: ScalarFunction,
    method: MethodChoice = AUTO,
    tolerance: float = OF_FUNCTIONS,
    *,
    any_power: bool = False,
) -> Method:
    """The method that computes a function for a stack of matrices; what it returns for `auto` is what `auto` does.

    `auto` takes the cheapest method whose declared error is within the tolerance, by dtype, device, function and shape.
    float64 matrices hold more than any other method resolves: `svd`. Else `quintic`, if its error is small enough, with
    five steps, or seven where a side is below 128, so that they cost little; on
    an accelerator, where a decomposition waits for the host, `polynomial`, if the function is one of each singular
    value alone; else `eigh`. `exact` is `svd` for float64 matrices, `eigh` for all others.

    Args:
        matrix: `[*batch, m, n]`.
        function: the scalar function.
        method: a name in `htmuon.linalg.METHODS`, an object, a dict, `auto` or `exact`.
        tolerance: the largest relative error of the weight of a direction that `auto` allows: 1 %, and 10 % in the
            step of an optimizer.
        any_power: whether each matrix has a power that moves, also below zero: `auto` then takes quintic steps for what
            is no float64, if they can, as many as for p >= 0. Below their range, which at p = -1/2 is 7e-3 of the
            largest singular value for five and 1e-3 for seven, weights go to zero, where those of p would be largest.

    Raises:
        TypeError: `method` is none of these.
        ValueError: the method does not exist, has no such setting, or no recipe for the function.

    Example:
        >>> import torch, htmuon
        >>> p = htmuon.spectral.Power(0.125)
        >>> select_method(torch.ones(4, 6, dtype=torch.float64), p).name
        'svd'
        >>> select_method(torch.ones(4, 6), p, htmuon.linalg.Polynomial(levels=8))
        Polynomial(levels=8, precision=None)
    """
    check_method(method, function)
    if method not in (AUTO, EXACT):
        return method_of(method)
    if matrix.dtype == torch.float64:
        return METHODS["svd"]
    if method == EXACT:
        return METHODS["eigh"]
    if _suffices(function, tolerance) or (any_power and SMALL.can(function)):
        return SMALL if min(matrix.shape[-2:]) < SMALL_SIDE else METHODS[Quintic.name]
    polynomial = METHODS["polynomial"]
    return polynomial if matrix.device.type != "cpu" and polynomial.can(function) else METHODS["eigh"]


def _suffices(function: ScalarFunction, tolerance: float) -> bool:
    """Whether five quintic steps are close enough; not for p < 0, where directions below their range weigh most."""
    quintic, power = Quintic(), known(function.power)
    negative = power is not None and power < 0
    return not negative and quintic.can(function) and quintic.fit_error(function) + NARROW <= tolerance


def check_method(method: MethodChoice, function: ScalarFunction) -> None:
    """Raise TypeError or ValueError unless `method` is `auto`, `exact` or a method that can compute the function."""
    if method not in (AUTO, EXACT):
        method_of(method).require(function)
