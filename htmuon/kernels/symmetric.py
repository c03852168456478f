"""Symmetric products: A A^T."""

from torch import Tensor


def gram(matrix: Tensor) -> Tensor:
    """The Gram matrix of the rows, `A A^T`.

    Args:
        matrix: `[*batch, m, n]`, real floating point.

    Returns:
        `[*batch, m, m]` in the dtype of `matrix`.

    Example:
        >>> import torch
        >>> gram(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
        tensor([[5., 2.],
                [2., 1.]])
    """
    return matrix @ matrix.mT
