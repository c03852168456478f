"""The symmetric product of QuACK (`quack-kernels`), where it is installed."""

import math
from importlib.metadata import packages_distributions

import torch
from torch import Tensor

# The generations of GPUs for which it has a kernel. Asked once, when this file is needed: torch.compile cannot ask.
CAPABILITIES = (8, 9, 10, 11, 12)
SUPPORTED = (
    torch.version.hip is None
    and torch.cuda.is_available()
    and torch.cuda.get_device_capability()[0] in CAPABILITIES
    and any(name in ("quack-kernels", "quack_kernels") for name in packages_distributions().get("quack", ()))
)


def symmetric_product_quack(a: Tensor, b: Tensor, c: Tensor | None, alpha: float, beta: float) -> Tensor:
    """`alpha A B^T + beta C` with `A B^T` and `C` symmetric, in one launch for the whole stack; no gradient.

    Args:
        a: `[*batch, n, k]`, float16 or bfloat16, on a CUDA device.
        b: as `a`, in shape and dtype.
        c: `[*batch, n, n]` in the dtype of `a`, or None.
        alpha: the factor of the product.
        beta: the factor of `c`.

    Returns:
        `[*batch, n, n]` in the dtype of `a`, contiguous; sums run in float32.

    Raises:
        ImportError: the package is not installed.

    Example:
        >>> from htmuon.kernels.symmetric import QUACK_INSTALLED
        >>> if QUACK_INSTALLED and torch.cuda.is_available():
        ...     a = torch.randn(3, 2048, 2048, dtype=torch.bfloat16, device="cuda")
        ...     product = symmetric_product_quack(a, a, None, 1.0, 1.0)

    Source: https://github.com/Dao-AILab/quack, `gemm_symmetric` as of 0.5.0. Not for small matrices: a call costs about
    a millisecond of the host.
    """
    # Here, as it is a large package that few have, and this file can be read without it.
    from quack.gemm_interface import gemm_symmetric

    n, k = a.shape[-2:]
    batch = math.prod(a.shape[:-2])
    out = torch.empty(batch, n, n, dtype=a.dtype, device=a.device)
    # The result is `out`, whatever is returned: 0.5.0 declares a pair and returns a tensor.
    gemm_symmetric(
        a.reshape(batch, n, k),
        b.reshape(batch, n, k).mT,
        None if c is None else c.reshape(batch, n, n),
        out=out,
        alpha=float(alpha),
        beta=float(beta),
    )
    return out.view(*a.shape[:-1], n)
