"""Which method computes a function for a matrix, and what `auto` stands for."""

import torch
from torch import Tensor

from htmuon._registry import unknown_name
from htmuon._typing import Precision
from htmuon.linalg.base import METHODS, Method, ScalarFunction, refuse_settings

AUTO = "auto"


def select_method(
    matrix: Tensor,
    function: ScalarFunction,
    name: str = AUTO,
    *,
    levels: int | None = None,
    precision: Precision | None = None,
) -> Method:
    """The method that computes a function for a stack of matrices; what it answers for `auto` is what `auto` does.

    `auto` looks at dtype, device and function. float64 matrices hold more than any other method resolves: `svd`. On an
    accelerator, where a decomposition waits for the host: `polynomial`, if the function is one of each singular value
    alone. Else `eigh`, which is exact, and on a CPU no slower than float32 products (`htmuon bench`).

    Args:
        matrix: `[*batch, m, n]`.
        function: the scalar function.
        name: a name in `htmuon.linalg.METHODS`, or `auto`.
        levels: setting of `polynomial`.
        precision: setting of `polynomial`.

    Raises:
        ValueError: the method does not exist, has no such setting, or no recipe for the function.

    Example:
        >>> import torch, htmuon
        >>> p = htmuon.spectral.Power(0.125)
        >>> select_method(torch.ones(4, 6, dtype=torch.float64), p).name
        'svd'
        >>> select_method(torch.ones(4, 6), p, "polynomial", levels=8)
        Polynomial(levels=8, precision=None)
    """
    check_method(name, function, levels=levels, precision=precision)
    if name != AUTO:
        return METHODS[name].configured(levels, precision)
    if matrix.dtype == torch.float64:
        return METHODS["svd"]
    polynomial = METHODS["polynomial"]
    return polynomial if matrix.device.type != "cpu" and polynomial.can(function) else METHODS["eigh"]


def check_method(
    name: str, function: ScalarFunction, *, levels: int | None = None, precision: Precision | None = None
) -> None:
    """Raise ValueError unless `name` is `auto` or a method with these settings that can compute the function."""
    if name == AUTO:
        refuse_settings(AUTO, levels, precision)
        return
    if name not in METHODS:
        raise unknown_name("method", name, [AUTO, *METHODS])
    METHODS[name].configured(levels, precision).require(function)
