"""Which method `auto` stands for."""

import torch
from torch import Tensor

from htmuon._registry import unknown_name
from htmuon.linalg.base import METHODS


def select_method(matrix: Tensor) -> str:
    """The method that `method="auto"` uses for a stack of matrices.

    `eigh` resolves relative singular values down to about 1e-6, below which nothing is left of a float32 matrix that a
    training step could use. A float64 matrix holds more, and takes `svd`.

    Args:
        matrix: `[*batch, m, n]`.

    Returns:
        A name in `htmuon.linalg.METHODS`.

    Example:
        >>> select_method(torch.ones(4, 6)), select_method(torch.ones(4, 6, dtype=torch.float64))
        ('eigh', 'svd')
    """
    return "svd" if matrix.dtype == torch.float64 else "eigh"


def check_method(name: str, power: float | Tensor | None) -> None:
    """Raise ValueError unless `name` is `auto` or a method that can compute the power (None: any other function)."""
    if name == "auto":
        return
    if name not in METHODS:
        raise unknown_name("method", name, ["auto", *METHODS])
    METHODS[name].require(power)
