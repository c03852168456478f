"""The plain torch twin of the symmetric product: what the others must agree with."""

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
