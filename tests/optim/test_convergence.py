"""The rate of steepest descent under a Schatten norm, on a smooth non-convex problem with known constants."""

import math

import pytest
import torch
from torch import nn

import htmuon

ROWS, COLUMNS = 12, 9


def problem():
    """`f(W) = sum a_ij (1 - cos w_ij)`: non-convex, f* = 0, and `|f''| <= max a` in every direction."""
    generator = torch.Generator().manual_seed(0)
    curvature = torch.rand(ROWS, COLUMNS, generator=generator, dtype=torch.float64)
    start = 2 * torch.randn(ROWS, COLUMNS, generator=generator, dtype=torch.float64)
    return curvature, start


def mean_dual_norm(power, steps):
    """Mean dual norm of the gradient over a run with the step size of the theorem, and the theorem's bound on it."""
    curvature, start = problem()
    weight = nn.Parameter(start.clone())
    value = lambda: (curvature * (1 - weight.cos())).sum()  # noqa: E731 - evaluated at every step
    # Smoothness in the Schatten-q norm: norm_F <= r^(1/2 - 1/q) norm_q for q >= 2, and norm_F = norm_q at q = 2.
    inverse_q = power / (1 + power)
    smoothness = curvature.max().item() * COLUMNS ** (1 - 2 * inverse_q)
    gap = value().item()
    lr = math.sqrt(2 * gap / (smoothness * steps))
    optimizer = htmuon.HTMuon(
        [{"params": [weight], "matrix_view": "linear"}],
        lr=lr / (ROWS / COLUMNS) ** 0.5,
        power=power,
        momentum=0.0,
        weight_decay=0.0,
        normalization="lmo",
    )
    norms = []
    for _ in range(steps):
        optimizer.zero_grad()
        value().backward()
        norms.append((torch.linalg.svdvals(weight.grad) ** (1 + power)).sum() ** (1 / (1 + power)))
        optimizer.step()
    # f falls by lr * dual norm - smoothness lr^2 / 2 at least; summing over steps gives the bound.
    return torch.stack(norms).mean().item(), gap / (lr * steps) + smoothness * lr / 2


@pytest.mark.slow
@pytest.mark.parametrize("power", [0.0, 0.125, 0.5, 1.0])
def test_the_mean_gradient_norm_falls_at_the_rate_of_the_theory(power):
    measured = {}
    for steps in (25, 100, 400):
        mean, bound = mean_dual_norm(power, steps)
        assert mean <= bound
        measured[steps] = mean
    # The bound is sqrt(2 L gap / T): four times the steps halve it. The measured means fall at least nearly as fast
    # (exponent -0.4 instead of -0.5 leaves room for the first steps, where the gradient is still large).
    assert measured[400] <= measured[25] * 16**-0.4
