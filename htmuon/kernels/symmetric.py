"""Symmetric products: `alpha A B^T + beta C` where the result is known to be symmetric."""

import math
from importlib.util import find_spec

import torch
from torch import Tensor

from htmuon.kernels.reference import symmetric_product_blocks, symmetric_product_reference
from htmuon.kernels.tiles import WHOLE_TILES

# From here on blocks are faster than one product (benchmarks/results/symmetric_product.json: one thread; many threads
# have not been measured). In bfloat16 they lose nearly everywhere, by up to 2.4 times: a CPU with instructions for
# it makes products several times cheaper, but not writing into blocks and mirroring.
BLOCKS_FROM = 384
BLOCKS_DTYPES = (torch.float16, torch.float32, torch.float64)

# The half that the Triton kernel saves has to pay for products that cuBLAS does better one by one. In float16 on an
# H200 (benchmarks/results/symmetric_tiles_gpu.json) it does on whole tiles from here on, by 1.1 at n = 1024, 1.2 at
# n = 2048 and 1.5 at n = 4096; at 512 it loses, and with masked loads it takes three times as long. In float32 without
# TF32 it takes twice as long as cuBLAS (symmetric_product_gpu.json).
TRITON_FROM = 1024
# It has to pay for a launch, too, 55 microseconds of the host where cuBLAS takes 17: these multiplications take longer.
TRITON_WORK = 2**34
TRITON_DTYPES = (torch.float16, torch.bfloat16)
TRITON_INSTALLED = find_spec("triton") is not None

# QuACK's kernel, where its package is installed: others measured that it pays from here on (1.3 to 1.5 of a step on an
# H100; at 1024 it takes 1.3 times as long as two products). Not measured by this library yet.
QUACK_FROM = 2048
QUACK_INSTALLED = find_spec("quack") is not None


def symmetric_product(
    a: Tensor, b: Tensor, c: Tensor | None = None, *, alpha: float = 1.0, beta: float = 1.0
) -> Tensor:
    """`alpha A B^T + beta C`, of which the caller knows that it is symmetric; half of it is computed where that pays.

    `A B^T` is symmetric for `A = B`, and for `A`, `B` symmetric that commute, as polynomials of one matrix do. Nothing
    checks the promise. The result equals its transpose up to rounding; exactly where half of it was computed.

    Args:
        a: `[*batch, n, k]`, real floating point.
        b: as `a`, in shape and dtype.
        c: `[*batch, n, n]` in the dtype of `a`, symmetric; left out, the sum has one term.
        alpha: the factor of the product.
        beta: the factor of `c`.

    Returns:
        `[*batch, n, n]` in the dtype of `a`; sums run in float32 for narrower dtypes.

    Example:
        >>> import torch
        >>> a = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        >>> symmetric_product(a, a @ a, torch.eye(2), alpha=1.0, beta=2.0)
        tensor([[16., 13.],
                [13., 16.]])
    """
    assert a.shape == b.shape, (a.shape, b.shape)
    assert a.dtype == b.dtype, (a.dtype, b.dtype)
    assert c is None or (c.shape == (*a.shape[:-1], a.shape[-2]) and c.dtype == a.dtype), (c.shape, a.shape)
    if not computes_half(a.shape, a.dtype, a.device):
        return symmetric_product_reference(a, b, c, alpha=alpha, beta=beta)
    if not a.is_cuda:
        return symmetric_product_blocks(a, b, c, alpha=alpha, beta=beta)
    # The kernels have no gradient.
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (a, b, c)):
        return symmetric_product_reference(a, b, c, alpha=alpha, beta=beta)
    # Imported where they are needed: they exist on some platforms only, and take their time.
    if takes_quack(a.shape, a.dtype, a.device):
        from htmuon.kernels.quack_product import symmetric_product_quack

        return symmetric_product_quack(a, b, c, float(alpha), float(beta))
    from htmuon.kernels.triton_op import symmetric_product_triton

    product: Tensor = symmetric_product_triton(a, b, c, float(alpha), float(beta))
    return product


def computes_half(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `symmetric_product` computes half of the result for factors `[*batch, n, k]`: where that is faster."""
    *batch, n, k = shape
    if device.type == "cpu":
        return dtype in BLOCKS_DTYPES and n >= BLOCKS_FROM
    if takes_quack(shape, dtype, device):
        return True
    if device.type != "cuda" or dtype not in TRITON_DTYPES or n < TRITON_FROM or not TRITON_INSTALLED:
        return False
    from htmuon.kernels.triton_op import SUPPORTED

    whole = n % WHOLE_TILES == k % WHOLE_TILES == 0
    return SUPPORTED and whole and math.prod(batch) * n * n * k >= TRITON_WORK


def takes_quack(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the kernel of QuACK is there, and worth its launch, for factors `[*batch, n, k]`."""
    n, k = shape[-2:]
    # It loads 16 bytes at once.
    aligned = n % 8 == k % 8 == 0
    if not (QUACK_INSTALLED and device.type == "cuda" and dtype in TRITON_DTYPES and n >= QUACK_FROM and aligned):
        return False
    from htmuon.kernels.quack_product import SUPPORTED

    return SUPPORTED


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
    return symmetric_product(matrix, matrix)
