"""Symmetric products: `alpha A B^T + beta C` where the result is known to be symmetric."""

from importlib.util import find_spec

import torch
from torch import Tensor

from htmuon.kernels.blocks import symmetric_product_blocks
from htmuon.kernels.reference import symmetric_product_reference

# From here on blocks are faster than one product (benchmarks/results/symmetric_product.json: one thread; many threads
# have not been measured). In bfloat16 they lose nearly everywhere, by up to 2.4 times: a CPU with instructions for
# it makes products several times cheaper, but not writing into blocks and mirroring.
BLOCKS_FROM = 384
BLOCKS_DTYPES = (torch.float16, torch.float32, torch.float64)

# The half that the Triton kernel saves has to pay for products that cuBLAS does better one by one. From here on it
# does, in float16 by 1.1 at n = 1024 and 1.5 at n = 4096; at 512 it loses (an H200,
# benchmarks/results/symmetric_tiles_gpu.json). In float32 without TF32 it takes twice as long as cuBLAS
# (symmetric_product_gpu.json).
TRITON_FROM = 1024
TRITON_DTYPES = (torch.float16, torch.bfloat16)
TRITON_INSTALLED = find_spec("triton") is not None


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
    half = computes_half(a.shape[-2], a.dtype, a.device)
    # The Triton kernel has no gradient.
    if (
        half
        and a.is_cuda
        and not (torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (a, b, c)))
    ):
        # Imported where it is needed: triton exists on some platforms only, and takes its time.
        from htmuon.kernels.triton_op import SUPPORTED, symmetric_product_triton

        if SUPPORTED:
            product: Tensor = symmetric_product_triton(a, b, c, float(alpha), float(beta))
            return product
    if half and not a.is_cuda:
        return symmetric_product_blocks(a, b, c, alpha=alpha, beta=beta)
    return symmetric_product_reference(a, b, c, alpha=alpha, beta=beta)


def computes_half(n: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `symmetric_product` computes half of an n x n result: where a kernel exists and is taken to win."""
    if device.type == "cuda":
        return TRITON_INSTALLED and dtype in TRITON_DTYPES and n >= TRITON_FROM
    return device.type == "cpu" and dtype in BLOCKS_DTYPES and n >= BLOCKS_FROM


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
