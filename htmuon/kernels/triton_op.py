"""The Triton kernel as an operator of torch, which torch.compile and CUDA graphs take. Imports triton."""

import math

import torch
from torch import Tensor
from torch.library import triton_op, wrap_triton

from htmuon.kernels.tiles import lower_tiles, pick_tiles
from htmuon.kernels.triton_kernel import symmetric_product_kernel

# Triton supports compute capability 8.0 and up; the tiles were made for NVIDIA's shared memory. Asked once, when this
# file is needed: torch.compile cannot ask.
SUPPORTED = torch.version.hip is None and torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)

SHARED_MEMORY: int = (
    torch.cuda.get_device_properties().shared_memory_per_block_optin if SUPPORTED else 0  # type: ignore[attr-defined]
)


@triton_op("htmuon::symmetric_product", mutates_args=())
def symmetric_product_triton(a: Tensor, b: Tensor, c: Tensor | None, alpha: float, beta: float) -> Tensor:
    """`alpha A B^T + beta C` with `A B^T` and `C` symmetric: one launch for the whole stack, no gradient.

    Args:
        a: `[*batch, n, k]`, float16, bfloat16 or float32, with any strides.
        b: as `a`, in shape and dtype; strides may differ.
        c: `[*batch, n, n]` in the dtype of `a`, or None.
        alpha: the factor of the product.
        beta: the factor of `c`.

    Returns:
        `[*batch, n, n]` in the dtype of `a`, contiguous, symmetric to the bit; sums run in float32.

    Example:
        >>> import torch
        >>> if SUPPORTED:
        ...     a = torch.randn(3, 500, 700, dtype=torch.bfloat16, device="cuda")
        ...     product = symmetric_product_triton(a, a, None, 1.0, 1.0)
    """
    n, k = a.shape[-2:]
    # A view wherever the strides of the batch allow one, also of expanded and transposed matrices.
    batch = math.prod(a.shape[:-2])
    stack_a, stack_b = a.reshape(batch, n, k), b.reshape(batch, n, k)
    # Without C its pointer is not read.
    stack_c = stack_a if c is None else c.reshape(batch, n, n)
    out = torch.empty((*a.shape[:-1], n), dtype=a.dtype, device=a.device)
    if out.numel() == 0:
        return out
    tiles = pick_tiles(n, batch, a.dtype, SHARED_MEMORY)
    # Triton launches on the current device, which need not be that of the tensors.
    with torch.cuda.device_of(out):  # type: ignore[no-untyped-call]
        wrap_triton(symmetric_product_kernel)[(batch * lower_tiles(n, tiles.block),)](
            stack_a,
            stack_b,
            stack_c,
            out,
            n,
            k,
            alpha,
            beta,
            *stack_a.stride(),
            *stack_b.stride(),
            *stack_c.stride(),
            HAS_C=c is not None,
            WHOLE=n % tiles.block == 0 and k % tiles.inner == 0,
            BLOCK=tiles.block,
            INNER=tiles.inner,
            GROUP=tiles.group,
            num_warps=tiles.warps,
            num_stages=tiles.stages,
        )
    return out
