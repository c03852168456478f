"""Drawings of spectra and power-law exponents on given matplotlib axes; the only file here that knows matplotlib."""

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
