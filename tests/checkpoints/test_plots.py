"""What the drawings of spectra show, read back from the axes."""

import math

import pytest
import torch
from matplotlib.figure import Figure
from stored_models import heavy

from htmuon.analysis import PowerLawFit, analyze_matrices
from htmuon.analysis.plots import plot_alphas_by_type, plot_esd


@pytest.fixture
def ax():
    return Figure().add_subplot()


def integral(x, y):
    return torch.trapezoid(torch.tensor(y, dtype=torch.float64), torch.tensor(x, dtype=torch.float64)).item()


def test_the_density_is_that_of_all_eigenvalues_but_the_smallest(ax):
    sigma = torch.linalg.svdvals(torch.randn(300, 200))
    plot_esd(ax, sigma, label="noise", color="b")
    (steps,) = ax.patches
    values, edges, _ = steps.get_data()
    assert torch.nansum(torch.tensor(values) * torch.tensor(edges).diff()).item() == pytest.approx(0.98, abs=0.006)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert edges[-1] == pytest.approx(float(sigma[0]) ** 2, rel=1e-5)


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (200, 200), (1000, 50)])
def test_the_bulk_is_the_law_of_noise(ax, shape):
    """Of Gaussian noise the curve agrees with the histogram, has the mass of all eigenvalues, and ends at the edge."""
    (noise,) = analyze_matrices({"noise": torch.randn(shape)})
    bulk = (noise.marchenko_pastur_edge, shape)
    plot_esd(ax, noise.sigma, label="noise", color="b", bulk=bulk, bulk_color="r")
    curve, edge = ax.lines
    x, y = curve.get_data()
    assert integral(x, y) == pytest.approx(1.0, abs=0.05)  # without what lies below the smallest one drawn
    assert edge.get_xdata()[0] == noise.marchenko_pastur_edge
    assert x[-1] == pytest.approx(noise.marchenko_pastur_edge, rel=0.03)
    assert noise.spectral_norm**2 == pytest.approx(noise.marchenko_pastur_edge, rel=0.15)
    values, edges, _ = ax.patches[0].get_data()
    middle = len(values) * 2 // 3
    center = math.sqrt(edges[middle] * edges[middle + 1])
    nearest = min(range(len(x)), key=lambda i: abs(x[i] - center))
    assert y[nearest] == pytest.approx(values[middle], rel=0.4)


def test_the_fit_is_the_density_of_the_tail(ax):
    (found,) = analyze_matrices({"w": heavy(300, 200)})
    fit = found.fits["hill"]
    plot_esd(ax, found.sigma, label="w", color="b", fit=fit)
    (line,) = ax.lines
    x, y = line.get_data()
    assert x[0] == pytest.approx(fit.xmin)
    assert math.log(y[0] / y[1]) / math.log(x[1] / x[0]) == pytest.approx(fit.alpha)
    # From xmin to infinity it has the share of the tail: y0 xmin / (alpha - 1).
    assert y[0] * x[0] / (fit.alpha - 1) == pytest.approx(fit.tail_size / 200)


def test_a_spectrum_of_equal_values_or_few_can_be_drawn_and_one_of_zeros_not(ax):
    plot_esd(ax, torch.ones(20), label="equal", color="b")
    plot_esd(ax, torch.tensor([2.0]), label="one", color="r")
    plot_esd(ax, torch.tensor([2.0, 1.0, 0.0, 0.0]), label="low rank", color="g")
    with pytest.raises(ValueError, match="must have a value above zero"):
        plot_esd(ax, torch.zeros(5), label="zero", color="b")


def test_each_type_has_a_row_with_its_matrices_and_their_mean(ax):
    good = [PowerLawFit(estimator="ks", alpha=alpha) for alpha in (2.0, 4.0)]
    failed = PowerLawFit(estimator="ks", status="no_spread")
    plot_alphas_by_type(ax, {"q": good, "v": [failed], "o": [*good[1:], failed]}, label="a", color="b", shift=0.25)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["q", "v", "o"]
    (means,) = ax.lines
    assert list(zip(*means.get_data(), strict=True)) == [(3.0, 0.25), (4.0, 2.25)]
    assert ax.collections[0].get_offsets().tolist() == [[2.0, 0.25], [4.0, 0.25], [4.0, 2.25]]
    assert ax.get_ylim() == (2.5, -0.5)
