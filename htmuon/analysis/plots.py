"""Drawings of spectra and power-law exponents on given matplotlib axes; the only file here that knows matplotlib."""

import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from torch import Tensor

from htmuon.analysis.power_law import PowerLawFit


def plot_spectra(
    ax: Axes, spectra: Sequence[Tensor], *, label: str, color: str, relative: bool = False, linestyle: str = "-"
) -> None:
    """Draw the singular values of matrices of one shape: their median as a line, their range as a band.

    Args:
        ax: where to draw; its y axis becomes logarithmic.
        spectra: `[r]` each, descending, all of the same length.
        label: legend entry.
        color: any matplotlib color.
        relative: divide each spectrum by its largest value, so that only the shape is compared.
        linestyle: any matplotlib line style.

    Raises:
        ValueError: `spectra` is empty.
    """
    if not spectra:
        raise ValueError("spectra must hold at least one spectrum; got none.")
    sigma = torch.stack([s.double() for s in spectra])
    if relative:
        sigma = sigma / sigma[:, :1].clamp(min=torch.finfo(torch.float64).tiny)
    # Zeros and rounding noise would stretch a logarithmic axis over decades that mean nothing.
    sigma = sigma.clamp(min=1e-7 * float(sigma.max()))
    index = range(1, sigma.shape[1] + 1)
    ax.fill_between(index, sigma.amin(0).tolist(), sigma.amax(0).tolist(), color=color, alpha=0.15, linewidth=0)
    ax.plot(index, sigma.median(0).values.tolist(), color=color, label=label, linestyle=linestyle)
    ax.set_yscale("log")


def plot_alphas(
    ax: Axes, fits: Mapping[int, Sequence[PowerLawFit]], *, label: str, color: str, marker: str = "o"
) -> None:
    """Draw alpha against depth: every matrix as a faint point, the mean of each depth as a line.

    Args:
        ax: where to draw.
        fits: the fits of the matrices at each depth; failed ones are left out.
        label: legend entry.
        color: any matplotlib color.
        marker: any matplotlib marker.
    """
    alphas = {depth: [fit.alpha for fit in fits[depth] if fit.ok] for depth in sorted(fits)}
    alphas = {depth: values for depth, values in alphas.items() if values}
    points = [(depth, alpha) for depth, values in alphas.items() for alpha in values]
    ax.scatter([p[0] for p in points], [p[1] for p in points], color=color, marker=marker, s=9, alpha=0.3, linewidths=0)
    means = [sum(values) / len(values) for values in alphas.values()]
    ax.plot(list(alphas), means, color=color, marker=marker, markersize=4.5, label=label)


def plot_esd(
    ax: Axes,
    sigma: Tensor,
    *,
    label: str,
    color: str,
    fit: PowerLawFit | None = None,
    fit_color: str | None = None,
    bulk: tuple[float, tuple[int, int]] | None = None,
    bulk_color: str | None = None,
) -> None:
    """Draw the density of the eigenvalues sigma^2 on log-log axes, with a power-law fit and the bulk that noise has.

    The smallest 2 % of the eigenvalues are left out: they would stretch the axis over decades that mean nothing.

    Args:
        ax: where to draw; both axes become logarithmic.
        sigma: `[r]` singular values, at least one above zero.
        label: legend entry of the density; the fit and the bulk have their own where they have colors of their own.
        color: any matplotlib color.
        fit: drawn dashed from its xmin to the largest eigenvalue, if there is one.
        fit_color: `color` if not given.
        bulk: the Marchenko-Pastur edge and the shape (m, n) of the matrix; drawn as a thin line that ends at the edge.
        bulk_color: `color` if not given.

    Raises:
        ValueError: no singular value is above zero.
    """
    values = sigma.double().square()
    if not bool((values > 0).any()):
        raise ValueError("sigma must have a value above zero to be drawn on a logarithmic axis; it has none.")
    values = values[values >= max(float(values.quantile(0.02)), 1e-12 * float(values.max()))]
    density, edges = _log_histogram(values, bins=min(50, max(8, int(2 * len(values) ** 0.5))))
    density = density * (len(values) / len(sigma))
    heights = [value if value > 0 else math.nan for value in density.tolist()]
    ax.stairs(heights, edges.tolist(), baseline=None, color=color, label=label, linewidth=1.3)
    ax.set(xscale="log", yscale="log")
    # The densities of the eigenvalues decide what is seen; the lines may leave the picture.
    visible = [value for value in heights if value > 0]
    ax.set_ylim(*_joined(ax.get_ylim() if len(ax.patches) > 1 else None, (min(visible) / 3, 3 * max(visible))))
    if bulk is not None and bulk[0] > 0:  # neither NaN nor the edge of no noise
        x, y = _marchenko_pastur_density(*bulk, float(edges[0]))
        named = "noise (Marchenko-Pastur)" if bulk_color else None
        ax.plot(x, y, color=bulk_color or color, linestyle="-", linewidth=0.9, alpha=0.8, label=named)
        ax.axvline(bulk[0], color=bulk_color or color, linestyle=":", linewidth=1.3)
    if fit is not None and fit.ok:
        ends = [fit.xmin, float(values.max())]
        share = fit.tail_size / len(sigma)
        line = [share * (fit.alpha - 1) / fit.xmin * (x / fit.xmin) ** -fit.alpha for x in ends]
        named = "power law" if fit_color else None
        ax.plot(ends, line, color=fit_color or color, linestyle="--", linewidth=2, label=named)


def _joined(first: tuple[float, float] | None, second: tuple[float, float]) -> tuple[float, float]:
    return second if first is None else (min(first[0], second[0]), max(first[1], second[1]))


def _log_histogram(values: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Density of positive values in bins of equal width on a logarithmic axis `[bins]`, and their edges."""
    low, high = float(values.min().log()), float(values.max().log())
    edges = torch.linspace(low, max(high, low + 1e-3), bins + 1, dtype=torch.float64).exp()
    inside = torch.bucketize(values, edges[1:-1])
    return torch.bincount(inside, minlength=bins) / (len(values) * edges.diff()), edges


def _marchenko_pastur_density(edge: float, shape: tuple[int, int], start: float) -> tuple[list[float], list[float]]:
    """The law whose bulk ends at `edge`, from `start` on: points (eigenvalue, density) of a curve."""
    long, short = max(shape), min(shape)
    ratio = (short / long) ** 0.5
    scale = edge / (1 + ratio) ** 2  # variance times the longer side
    low = (1 - ratio) ** 2
    begin = max(low, start / scale)
    x = torch.linspace(math.log(max(begin, 1e-12)), 2 * math.log1p(ratio), 400, dtype=torch.float64).exp()
    y = ((x[-1] - x) * (x - low)).clamp(min=0).sqrt() / (2 * math.pi * ratio**2 * x)
    positive = y > 0
    return (x[positive] * scale).tolist(), (y[positive] / scale).tolist()


def plot_alphas_by_type(
    ax: Axes,
    fits: Mapping[str, Sequence[PowerLawFit]],
    *,
    label: str,
    color: str,
    marker: str = "o",
    shift: float = 0.0,
) -> None:
    """Draw alpha by type of module, one type below the other: every matrix as a faint point, the mean in full.

    Args:
        ax: where to draw.
        fits: the fits of the matrices of each type, the first one at the top; failed ones are left out.
        label: legend entry.
        color: any matplotlib color.
        marker: any matplotlib marker.
        shift: moves the points down by this part of a row, to draw several series beside each other.
    """
    rows = [[fit.alpha for fit in each if fit.ok] for each in fits.values()]
    points = [(alpha, row + shift) for row, alphas in enumerate(rows) for alpha in alphas]
    ax.scatter([p[0] for p in points], [p[1] for p in points], color=color, marker=marker, s=9, alpha=0.3, linewidths=0)
    means = [(sum(alphas) / len(alphas), row + shift) for row, alphas in enumerate(rows) if alphas]
    ax.plot([m[0] for m in means], [m[1] for m in means], color=color, marker=marker, linestyle="", label=label)
    ax.set_yticks(range(len(fits)), list(fits))
    ax.set_ylim(len(fits) - 0.5, -0.5)
