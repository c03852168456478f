"""The spectral norm from products alone."""

import torch
from torch import Tensor

from htmuon.linalg.base import positive

SQUARINGS = 3


def spectral_norm_of_gram(gram: Tensor) -> tuple[Tensor, Tensor]:
    """An estimate of the largest eigenvalue of a Gram matrix, and an upper bound that is never below it.

    Three squarings give `B = A^8` (scaled by the trace at every step, so nothing overflows). The bound is
    `norm_F(A^8)^(1/8) <= lambda_1 r^(1/16)`. The estimate is the Rayleigh quotient of `B^2 b`, `b` the column of `B`
    with the largest diagonal entry: 24 power iterations from a start that contains the first direction.

    Args:
        gram: `[*batch, m, m]`, symmetric positive semi-definite, of moderate scale.

    Returns:
        `(estimate, bound)`, both `[*batch, 1, 1]`; zero for a zero matrix. The estimate is below `lambda_1` by at most
        a few percent, and only where the leading eigenvalues are that close to each other.

    Example:
        >>> estimate, bound = spectral_norm_of_gram(torch.diag(torch.tensor([4.0, 1.0, 0.25])))
        >>> round(estimate.item(), 3), round(bound.item(), 3)
        (4.0, 4.0)
    """
    power, scale = gram, torch.ones_like(gram[..., :1, :1])
    for squaring in range(SQUARINGS + 1):
        trace = power.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        scale = scale * positive(trace) ** (0.5**squaring)
        power = power / positive(trace)
        if squaring < SQUARINGS:
            power = power @ power
    exponent = 2**SQUARINGS
    # Now A^8 = scale^8 * power, with the trace of `power` equal to 1.
    bound = scale * torch.linalg.matrix_norm(power, keepdim=True) ** (1 / exponent)
    largest = power.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]
    vector = power.gather(-1, largest.expand(*power.shape[:-1], 1))
    vector = power @ (power @ vector)
    quotient = (vector * (gram @ vector)).sum(-2, keepdim=True) / positive((vector * vector).sum(-2, keepdim=True))
    return quotient, torch.maximum(bound, quotient)
