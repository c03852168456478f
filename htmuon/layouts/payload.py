"""Several tensors of one dtype as the rows of one, which travels as a whole."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """`[stack, *shape]` each, to `[stack, elements]`, contiguous.

    Example:
        >>> pack([torch.zeros(2, 3, 4), torch.zeros(2, 5)]).shape
        torch.Size([2, 17])
    """
    return torch.cat([tensor.reshape(len(tensor), _elements(tensor.shape[1:])) for tensor in tensors], dim=1)


def take(rows: Tensor, order: Sequence[int]) -> Tensor:
    """Rows in another order, or some of them; no list of numbers goes to the device, for which the host would wait.

    Example:
        >>> take(torch.tensor([[1], [2], [3]]), [2, 0]).tolist()
        [[3], [1]]
    """
    return torch.stack([rows[k] for k in order]) if order else rows[:0]


def inverse(order: Sequence[int]) -> list[int]:
    """The order that takes rows back to where `order` took them from.

    Example:
        >>> inverse([2, 0, 1])
        [1, 2, 0]
    """
    return sorted(range(len(order)), key=order.__getitem__)


def unpack(rows: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """The inverse of `pack`, given the shapes without the stack."""
    parts = torch.split(rows, [_elements(shape) for shape in shapes], dim=1)
    return [part.reshape(len(rows), *shape) for part, shape in zip(parts, shapes, strict=True)]


def _elements(shape: Sequence[int]) -> int:
    return torch.Size(shape).numel()
