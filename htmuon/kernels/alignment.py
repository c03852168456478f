"""Sides that tensor cores like: half-precision matrices whose rows begin anywhere are multiplied five times slower."""

import torch
from torch import Tensor
from torch.nn import functional as F

from htmuon.kernels.symmetric import computes_half
from htmuon.kernels.tiles import WHOLE_TILES

# What one load takes; cuBLAS falls back to older kernels where rows do not begin at multiples of it: on an H200 the
# Gram matrix of 2048 x 5461 takes 5 times as long as that of 2048 x 5464 (benchmarks/results/symmetric_tiles_gpu.json).
LOAD_BYTES = 16
# By how much a side may grow for the sake of whole tiles: the cube of it is about what they gain.
MOST_GROWTH = 1.03


def aligned(matrix: Tensor) -> Tensor:
    """A matrix `[*batch, m, n]` for products on tensor cores: with zeros at the end, up to `aligned_sides`."""
    shape = tuple(matrix.shape)
    rows, columns = aligned_sides(shape, matrix.dtype, matrix.device)
    return F.pad(matrix, (0, columns - shape[-1], 0, rows - shape[-2])) if (rows, columns) != shape[-2:] else matrix


def aligned_sides(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> tuple[int, int]:
    """The sides that a matrix of `shape` is given for products, its own m x m ones among them.

    Args:
        shape: `[*batch, m, n]` with m <= n.
        dtype: of the products.
        device: where they are made.

    Returns:
        m and n; in half precision on a GPU the next multiples of 16 bytes, or of whole tiles where the kernel for
        symmetric products wins by more than they cost.

    Example:
        >>> import torch
        >>> aligned_sides((4, 512, 1365), torch.float16, torch.device("cuda")), aligned_sides(
        ...     (4, 512, 1365), torch.float16, torch.device("cpu")
        ... )
        ((512, 1368), (512, 1365))
    """
    *batch, rows, columns = shape
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return rows, columns
    per_load = LOAD_BYTES // dtype.itemsize
    tiled = up(rows, WHOLE_TILES)
    if tiled <= MOST_GROWTH * rows and computes_half((*batch, tiled, tiled), dtype, device):
        return tiled, up(columns, WHOLE_TILES)
    return up(rows, per_load), up(columns, per_load)


def up(side: int, multiple: int) -> int:
    """The next multiple.

    Example:
        >>> up(5461, 8), up(0, 8)
        (5464, 0)
    """
    return -(-side // multiple) * multiple
