"""The edge of the noise on Gaussian matrices, where it is known, and with spikes, where they have to be counted."""

import math

import pytest
import torch

from htmuon.analysis.marchenko_pastur import _median, marchenko_pastur_edge


def gaussian(m: int, n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def eigenvalues_of(matrix: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(matrix).square()


@pytest.mark.parametrize("shape", [(400, 400), (300, 600), (1200, 200), (200, 1200)])
@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_edge_of_gaussian_matrices(shape: tuple[int, int], scale: float) -> None:
    edge, spikes = marchenko_pastur_edge(eigenvalues_of(scale * gaussian(*shape)), shape)
    # The median of a few hundred eigenvalues that repel each other fixes the variance to about one percent.
    assert float(edge) == pytest.approx(scale**2 * (math.sqrt(shape[0]) + math.sqrt(shape[1])) ** 2, rel=0.03)
    assert int(spikes) <= 2


def test_planted_spikes_are_counted_and_do_not_move_the_edge() -> None:
    m, n, count = 400, 300, 5
    noise = gaussian(m, n)
    left, right = torch.linalg.qr(gaussian(m, count, 1)).Q, torch.linalg.qr(gaussian(n, count, 2)).Q
    strength = math.sqrt(m) + math.sqrt(n)
    values = eigenvalues_of(noise + 3 * strength * left @ right.mT)
    edge, spikes = marchenko_pastur_edge(values, (m, n))
    assert int(spikes) == count
    assert float(edge) == pytest.approx(strength**2, rel=0.05)


def test_a_stack_has_the_edges_of_its_matrices() -> None:
    stack = torch.stack([gaussian(60, 40, seed) * (seed + 1) for seed in range(3)])
    edges, spikes = marchenko_pastur_edge(eigenvalues_of(stack), (60, 40))
    for i in range(3):
        edge, count = marchenko_pastur_edge(eigenvalues_of(stack[i]), (60, 40))
        assert (float(edges[i]), int(spikes[i])) == pytest.approx((float(edge), int(count)))


@pytest.mark.parametrize("ratio", [1.0, 0.5, 0.1, 0.001])
def test_median_halves_the_law(ratio: float) -> None:
    """Against the density itself, integrated by brute force over the eigenvalues."""
    lower, upper = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    edges = lower + (_median(ratio) - lower) * torch.linspace(0, 1, 400_001, dtype=torch.float64).square()
    middles, widths = (edges[1:] + edges[:-1]) / 2, edges.diff()
    density = ((upper - middles) * (middles - lower)).clamp(min=0).sqrt() / (2 * math.pi * ratio * middles)
    assert float((density * widths).sum()) == pytest.approx(0.5, abs=1e-4)


def test_median_of_a_square_matrix_is_the_published_one() -> None:
    # Gavish and Donoho 2014, section 1: omega(1) = 2.858 = (4 / sqrt 3) / sqrt(median).
    assert 4 / math.sqrt(3) / math.sqrt(_median(1.0)) == pytest.approx(2.858, abs=1e-3)


def test_more_than_half_zeros_leave_no_noise() -> None:
    values = torch.cat([torch.tensor([5.0, 3.0]), torch.zeros(8)])
    edge, spikes = marchenko_pastur_edge(values, (10, 20))
    assert (float(edge), int(spikes)) == (0.0, 2)
