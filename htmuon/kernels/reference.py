"""Symmetric products in plain torch: the twin of the kernel, and block by block."""

import math

import torch
from torch import Tensor


def symmetric_product_reference(
    a: Tensor, b: Tensor, c: Tensor | None = None, *, alpha: float = 1.0, beta: float = 1.0
) -> Tensor:
    """`alpha A B^T + beta C`, every entry computed.

    Args:
        a: `[*batch, n, k]`, real floating point.
        b: as `a`.
        c: `[*batch, n, n]` in the dtype of `a`; left out, the sum has one term.
        alpha: the factor of the product.
        beta: the factor of `c`.

    Returns:
        `[*batch, n, n]` in the dtype of `a`.

    Example:
        >>> import torch
        >>> a = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
        >>> symmetric_product_reference(a, a, torch.eye(2), alpha=2.0, beta=-1.0)
        tensor([[9., 4.],
                [4., 1.]])
    """
    if c is None:
        product = a @ b.mT
        return product if alpha == 1 else product * alpha
    if a.ndim == 2:
        return torch.addmm(c, a, b.mT, beta=beta, alpha=alpha)
    flat = [x.flatten(end_dim=-3) for x in (c, a, b)]
    return torch.baddbmm(flat[0], flat[1], flat[2].mT, beta=beta, alpha=alpha).reshape(c.shape)


# Smaller blocks mirror more of the result and cost more calls; larger ones compute more of it, and cost more to make
# symmetric. 128 and 192 are within a few percent of each other at n = 512 to 2048, and 128 is ahead below.
LEAF = 128


def symmetric_product_blocks(
    a: Tensor, b: Tensor, c: Tensor | None = None, *, alpha: float = 1.0, beta: float = 1.0
) -> Tensor:
    """`alpha A B^T + beta C` with `A B^T` and `C` symmetric: half the products, the rest mirrored.

    With the rows split in two, `[[A1 B1^T, .], [A2 B1^T, A2 B2^T]]`: one product, and two symmetric ones that are split
    again.

    Args:
        a: `[*batch, n, k]`, real floating point.
        b: as `a`.
        c: `[*batch, n, n]` in the dtype of `a`; left out, the sum has one term.
        alpha: the factor of the product.
        beta: the factor of `c`.

    Returns:
        `[*batch, n, n]` in the dtype of `a`.

    Example:
        >>> import torch
        >>> a = torch.randn(500, 300)
        >>> bool((symmetric_product_blocks(a, a) - a @ a.mT).abs().max() < 1e-3)
        True
    """
    n, k = a.shape[-2:]
    batch = math.prod(a.shape[:-2])
    out = a.new_empty(batch, n, n)
    stack_c = None if c is None else c.reshape(batch, n, n)
    _fill(out, a.reshape(batch, n, k), b.reshape(batch, n, k), stack_c, alpha, beta)
    return out.view(*a.shape[:-1], n)


def _fill(out: Tensor, a: Tensor, b: Tensor, c: Tensor | None, alpha: float, beta: float) -> None:
    """Write the symmetric product into `out`, a square view on the diagonal of the whole."""
    n = out.shape[-1]
    if n <= LEAF:
        # Halved, which is exact but for subnormal numbers, and added to its mirror image: symmetric to the bit.
        _product_into(out, a, b, c, alpha / 2, beta / 2)
        out.copy_(out + out.mT)
        return
    h = n // 2
    first, second = slice(None, h), slice(h, None)
    for part in (first, second):
        _fill(out[:, part, part], a[:, part], b[:, part], None if c is None else c[:, part, part], alpha, beta)
    below = out[:, second, first]
    _product_into(below, a[:, second], b[:, first], None if c is None else c[:, second, first], alpha, beta)
    out[:, first, second] = below.mT


def _product_into(out: Tensor, a: Tensor, b: Tensor, c: Tensor | None, alpha: float, beta: float) -> None:
    """In place rather than `out=`: torch.compile follows the one into views and not the other."""
    if c is not None:
        out.copy_(c)
    # With beta=0 the product ignores what the fresh memory holds.
    out.baddbmm_(a, b.mT, beta=0.0 if c is None else beta, alpha=alpha)
