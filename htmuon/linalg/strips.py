"""Products along the long side of a wide matrix, strip by strip, where one more copy of it would be the peak of a step.

A matrix `[m, n]` with m << n is most of the memory of everything that is computed with it, and its Gram matrix and the
products `A M` with a small A need a few of its columns at a time.
"""

from collections.abc import Iterable
from functools import reduce

import torch
from torch import Tensor

# 8 MiB in float32: products of strips are as fast as whole ones, and matrices of most layers are one strip.
STRIP_ELEMENTS = 2**21


def strips(wide: Tensor) -> tuple[Tensor, ...]:
    """`[*batch, m, n]` as views of some columns each; as one on an accelerator, and where a gradient passes through.

    Example:
        >>> import torch
        >>> [tuple(strip.shape) for strip in strips(torch.zeros(4, 2**20))]
        [(4, 524288), (4, 524288)]
    """
    *_, short, long = wide.shape
    width = max(short, STRIP_ELEMENTS * long // max(wide.numel(), 1))
    whole = width >= long or wide.device.type != "cpu" or wide.requires_grad
    return (wide,) if whole else torch.split(wide, width, dim=-1)


def overwritten(piece: Tensor, value: Tensor) -> Tensor:
    """A value of its shape in the memory of a piece, or beside it where a gradient passes through."""
    return value.to(piece.dtype) if value.requires_grad else piece.copy_(value)


def total(terms: Iterable[Tensor]) -> Tensor:
    """The sum, in the memory of the first term."""
    return reduce(Tensor.add_, terms)


def multiplied(square: Tensor, wide: Tensor) -> Tensor:
    """`square @ wide`; of several strips, in the memory of `wide`, which is then no more what it was.

    Example:
        >>> import torch
        >>> multiplied(torch.tensor([[2.0]]), torch.tensor([[1.0, 3.0]]))
        tensor([[2., 6.]])
    """
    pieces = strips(wide)
    if len(pieces) == 1:
        return square @ wide
    for piece in pieces:
        piece.copy_(square @ piece)
    return wide
