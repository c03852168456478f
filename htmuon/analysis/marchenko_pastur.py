"""The Marchenko-Pastur law: where the eigenvalues of a matrix of pure noise would end."""

import math
from functools import lru_cache

import torch
from torch import Tensor


def marchenko_pastur_edge(eigenvalues: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Upper edge of the noise bulk of each spectrum, and how many eigenvalues ("spikes") lie beyond it.

    Independent entries of variance s^2 put the eigenvalues of `W^T W`, W of `[m, n]` with the longer side N and the
    shorter M, `Q = N / M >= 1`, into `s^2 N (1 -+ 1/sqrt(Q))^2`. The variance is that of the noise alone, found from
    the middle of the spectrum, which spikes don't move: `s^2 = median(eigenvalues) / (N mu)`, where mu is the median
    of the law for Q with s = 1 in units of `W^T W / N`.

    Args:
        eigenvalues: `[*batch, min(m, n)]`, in any order, zeros included.
        shape: (m, n).

    Returns:
        (edges, counts): `[*batch]` each; the edge has the units of `eigenvalues`.

    Example:
        >>> import torch
        >>> noise = torch.randn(400, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> edge, spikes = marchenko_pastur_edge(torch.linalg.svdvals(noise) ** 2, (400, 100))
        >>> abs(float(edge) / 400 - (1 + 1 / 2) ** 2) < 0.1, int(spikes)
        (True, 0)

    Source: Gavish, Donoho 2014 (arXiv 1305.5870), equation 11 and section 5 for the noise level.

    Not a test for correlations by itself: the largest eigenvalue of pure noise exceeds the edge in about one matrix of
    six, by a distance that shrinks as N^(-2/3).
    """
    long, short = max(shape), min(shape)
    middle = eigenvalues.double().quantile(0.5, dim=-1) if short else eigenvalues.new_zeros(eigenvalues.shape[:-1])
    variance = middle / (long * _median(short / long)) if short else middle
    edges = variance * (math.sqrt(long) + math.sqrt(short)) ** 2
    return edges, (eigenvalues > edges[..., None]).sum(dim=-1)


@lru_cache(maxsize=1024)
def _median(ratio: float) -> float:
    """Median of the Marchenko-Pastur law with s = 1 and M / N = ratio, in units of `W^T W / N`.

    With `x = 1 + ratio - 2 sqrt(ratio) cos(t)`, t in [0, pi], the density becomes `2 sin(t)^2 / (pi x)`, smooth even
    where the law itself has a pole (ratio = 1), so that the trapezoidal rule on 4,096 points is exact to 1e-6.
    """
    t = torch.linspace(0, math.pi, 4097, dtype=torch.float64)
    x = 1 + ratio - 2 * math.sqrt(ratio) * t.cos()
    density = torch.where(x > 0, t.sin().square() / x.clamp(min=1e-300), 1.0)
    below = torch.cumulative_trapezoid(density)
    below = torch.cat([below.new_zeros(1), below / below[-1]])
    upper = int(torch.searchsorted(below, 0.5))
    share = (0.5 - below[upper - 1]) / (below[upper] - below[upper - 1])
    return float(1 + ratio - 2 * math.sqrt(ratio) * (t[upper - 1] + share * (t[upper] - t[upper - 1])).cos())
