"""How the Triton kernel cuts the result into tiles: a fixed choice by shape and dtype."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tiles:
    """A launch configuration.

    Args:
        block: rows and columns of a tile of the result.
        inner: columns of A and B that one step of the sum takes.
        group: rows of tiles that are walked together, so that they read the same columns from the L2 cache.
        warps: warps that share a tile.
        stages: steps of the sum whose loads are in flight.
    """

    block: int
    inner: int
    group: int
    warps: int
    stages: int


# Fixed rather than autotuned: tuning would time candidates within the first step, and cannot run while a CUDA graph is
# captured. All but the first stay below the 99 KiB of shared memory of the smallest device with bfloat16 (tested by
# compiling for it).
#
# Of 18 on an H200 the fastest on whole tiles from n = 2048 on, and within a percent of it at 1024
# (benchmarks/results/symmetric_tiles_gpu.json); for devices with 192 KiB.
DEEP = Tiles(block=128, inner=128, group=8, warps=8, stages=3)
DEEP_BYTES = 192 * 1024
# Every number that is loaded serves 128 times; two groups of four warps, the unit of Hopper's tensor cores, share it.
LARGE = Tiles(block=128, inner=64, group=8, warps=8, stages=3)
# Where large tiles would leave processors idle: four times as many, each with half the reuse.
SMALL = Tiles(block=64, inner=64, group=8, warps=4, stages=4)
# Without TF32 a float32 product runs outside the tensor cores, and its sums fill the registers sooner.
SINGLE = Tiles(block=64, inner=32, group=8, warps=4, stages=3)
# Sides that are multiples of this are cut into whole tiles by all of them, and no load is masked.
WHOLE_TILES = 128

# The processors of an H100 (an A100 has 108).
PROCESSORS = 132


def lower_tiles(n: int, block: int) -> int:
    """How many tiles lie on and below the diagonal of an n x n matrix, `t (t + 1) / 2` with `t = ceil(n / block)`.

    Args:
        n: rows of the matrix.
        block: rows of a tile.

    Returns:
        Their number.

    Example:
        >>> lower_tiles(300, 128)
        6
    """
    across = -(-n // block)
    return across * (across + 1) // 2


def pick_tiles(n: int, batch: int, dtype: torch.dtype, shared_memory: int) -> Tiles:
    """The configuration for `batch` results of n x n.

    Args:
        n: rows of a result.
        batch: how many there are.
        dtype: of the factors.
        shared_memory: bytes that a program may take.

    Returns:
        The largest tiles that give every processor one.

    Example:
        >>> pick_tiles(4096, 1, torch.bfloat16, 227 * 1024).inner, pick_tiles(512, 1, torch.bfloat16, 227 * 1024).block
        (128, 64)
    """
    if dtype == torch.float32:
        return SINGLE
    if batch * lower_tiles(n, LARGE.block) < PROCESSORS:
        return SMALL
    return DEEP if shared_memory >= DEEP_BYTES else LARGE
