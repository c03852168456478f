"""Which method computes a function for a matrix, and what `auto` stands for."""

import torch
from torch import Tensor

from htmuon.linalg.base import METHODS, Method, ScalarFunction
from htmuon.linalg.choice import AUTO, MethodChoice, method_of


def select_method(matrix: Tensor, function: ScalarFunction, method: MethodChoice = AUTO) -> Method:
    """The method that computes a function for a stack of matrices; what it returns for `auto` is what `auto` does.

    `auto` looks at dtype, device and function. float64 matrices hold more than any other method resolves: `svd`. On an
    accelerator, where a decomposition waits for the host: `polynomial`, if the function is one of each singular value
    alone. Else `eigh`, which is exact, and on a CPU no slower than float32 products (`htmuon bench`).

    Args:
        matrix: `[*batch, m, n]`.
        function: the scalar function.
        method: a name in `htmuon.linalg.METHODS`, an object, a dict, or `auto`.

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
    if method != AUTO:
        return method_of(method)
    if matrix.dtype == torch.float64:
        return METHODS["svd"]
    polynomial = METHODS["polynomial"]
    return polynomial if matrix.device.type != "cpu" and polynomial.can(function) else METHODS["eigh"]


def check_method(method: MethodChoice, function: ScalarFunction) -> None:
    """Raise TypeError or ValueError unless `method` is `auto` or a method that can compute the function."""
    if method != AUTO:
        method_of(method).require(function)
