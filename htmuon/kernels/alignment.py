"""Sides that tensor cores like: half-precision matrices whose rows begin anywhere are multiplied three times slower."""

import torch
from torch import Tensor
from torch.nn import functional as F

from htmuon.kernels.symmetric import computes_half
from htmuon.kernels.tiles import WHOLE_TILES

# What one load takes; cuBLAS falls back to older kernels where rows do not begin at multiples of it. On an H200 a Gram
# matrix with n = 2048 takes 5 times as long for k = 5461 as for k = 5464, and the kernel of this library, which needs
# whole tiles, 3 times as long for either as for k = 5504 (benchmarks/results/symmetric_tiles_gpu.json).
LOAD_BYTES = 16


def aligned(matrix: Tensor) -> Tensor:
    """A matrix for products on tensor cores: where its rows would begin anywhere, with zeros at the end of both sides.

    Args:
        matrix: `[*batch, m, n]` with m <= n.

    Returns:
        `matrix` itself, or `[*batch, m', n']` with sides that are multiples of 16 bytes, or of whole tiles where
        `symmetric_product` computes half of an m x m result.

    Example:
        >>> import torch
        >>> padded_to(torch.ones(2, 3), 4)
        tensor([[1., 1., 1., 0.],
                [1., 1., 1., 0.],
                [0., 0., 0., 0.],
                [0., 0., 0., 0.]])
    """
    if not matrix.is_cuda or matrix.dtype not in (torch.float16, torch.bfloat16):
        return matrix
    in_tiles = computes_half(matrix.shape[-2], matrix.dtype, matrix.device)
    return padded_to(matrix, WHOLE_TILES if in_tiles else LOAD_BYTES // matrix.itemsize)


def padded_to(matrix: Tensor, multiple: int) -> Tensor:
    """With zeros at the end of both sides, up to a multiple."""
    rows, columns = (-side % multiple for side in matrix.shape[-2:])
    return F.pad(matrix, (0, columns, 0, rows)) if rows or columns else matrix
