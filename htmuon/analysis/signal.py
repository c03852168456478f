"""How much of each direction of the momentum a fresh gradient repeats, by singular value."""

import torch
from torch import Tensor

# Groups of directions with equally many singular values, from the largest on.
OCTILES = 8


@torch.no_grad()
def signal_by_sigma(momentum: Tensor, gradient: Tensor) -> Tensor:
    """The share of the momentum along its own directions that a gradient, made after it, has again.

    With `M = U S V^T`: the mean of `u_i^T G v_i` over the mean of `sigma_i`, over each eighth of the directions, from
    the largest singular values to the smallest. 1 is a direction that stays, 0 noise, and below 0 are those along which
    the last steps have overshot. An average that began at zero is small in its first steps, and shares of it are large
    by `1 / (1 - beta^t)`: compare records of later steps.

    Args:
        momentum: `[*batch, m, n]`, before the step of the gradient.
        gradient: the same shape.

    Returns:
        `[*batch, 8]`, float64; NaN where the momentum is zero or rounding, and where it has fewer than eight
        directions.

    Example:
        >>> momentum = torch.diag(torch.arange(16.0, 0.0, -1.0))
        >>> signal_by_sigma(momentum, 0.5 * momentum).tolist()
        [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]

    Source: the trade-off between signal and curvature along singular directions; no published definition.
    """
    u, sigma, vh = torch.linalg.svd(momentum.double(), full_matrices=False)
    along = (u.mT @ gradient.double() @ vh.mT).diagonal(dim1=-2, dim2=-1)
    if sigma.shape[-1] < OCTILES:
        return torch.full((*sigma.shape[:-1], OCTILES), torch.nan, dtype=torch.float64)
    parts = along.tensor_split(OCTILES, dim=-1), sigma.tensor_split(OCTILES, dim=-1)
    signal, size = (torch.stack([part.mean(-1) for part in of], dim=-1) for of in parts)
    # Singular values that are rounding have no direction of their own.
    rounding = 1e-7 * sigma[..., :1]
    return torch.where(size > rounding, signal / size, torch.nan).cpu()
