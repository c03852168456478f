"""Power-law fits of eigenvalues: rho(lambda) ~ lambda^-alpha for lambda >= xmin.

Two estimators of alpha are in use, and their numbers are not comparable, so every fit carries the name of its own:

- `ks`: xmin is the eigenvalue from which on the tail is nearest to a power law in Kolmogorov-Smirnov distance
  (Clauset, Shalizi, Newman 2009, arXiv 0706.1062). The alpha that WeightWatcher reports.
- `hill`: xmin is the median eigenvalue, so that alpha describes the upper half of the spectrum. The alpha of
  TempBalance, AlphaDecay and HTMuon (arXiv 2603.10067).

A tail is named by its size: with the eigenvalues of a spectrum in descending order, tail n is its first n.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from htmuon._registry import unknown_name

Estimator = Literal["ks", "hill"]
Status = Literal["ok", "too_few", "not_finite", "no_spread", "short_tail"]

ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)
# A fit to fewer points says nothing: the standard error of alpha is (alpha - 1) / sqrt(n), a third of alpha - 1 here.
MIN_TAIL_SIZE = 10
# Spectra are fitted in blocks whose largest intermediate has this many elements: 32 MB in float64.
_BLOCK_ELEMENTS = 2**22
# Every distance is first bounded from below at so many points of its tail; then only the tails that can still win are
# measured in full, so many at a time. Any two numbers give the same fit.
_BOUND_POINTS = 32
_TAILS_PER_ROUND = 8

_MESSAGES: dict[Status, str] = {
    "ok": "the fit succeeded",
    "too_few": f"fewer than {MIN_TAIL_SIZE} positive eigenvalues: too few for a fit",
    "not_finite": "some eigenvalues are not finite",
    "no_spread": "the eigenvalues of the tail are all equal, or only a few different ones: no exponent describes them",
    "short_tail": f"the tail nearest to a power law has fewer than {MIN_TAIL_SIZE} eigenvalues: "
    "xmin is at the upper end of the spectrum, and alpha would be noise",
}


@dataclass(frozen=True, kw_only=True)
class PowerLawFit:
    """The result of `fit_power_law`; the numbers are NaN unless `status` is "ok".

    Attributes:
        estimator: how xmin was chosen; alphas of different estimators are not comparable.
        status: "ok", or why there is no fit.
        alpha: the exponent of the density.
        xmin: the smallest eigenvalue of the tail.
        ks_distance: largest distance between the distribution functions of the tail and of the fit.
        tail_size: number of eigenvalues >= xmin.
    """

    estimator: Estimator
    status: Status = "ok"
    alpha: float = math.nan
    xmin: float = math.nan
    ks_distance: float = math.nan
    tail_size: int = 0

    @property
    def ok(self) -> bool:
        """Whether there is a fit."""
        return self.status == "ok"

    @property
    def message(self) -> str:
        """The status as a sentence."""
        return _MESSAGES[self.status]

    @property
    def standard_error(self) -> float:
        """Standard error `(alpha - 1) / sqrt(n)` of alpha for a given xmin.

        Where xmin was chosen ("ks") the choice adds to it: `htmuon.analysis.bootstrap` measures both together.
        """
        return (self.alpha - 1) / math.sqrt(self.tail_size) if self.ok else math.nan


def fit_power_law(eigenvalues: Tensor, *, estimator: Estimator = "ks") -> PowerLawFit:
    """Fit `rho(x) ~ x^-alpha, x >= xmin`, to the eigenvalues of one matrix by maximum likelihood.

    `alpha = 1 + n / sum_i ln(x_i / xmin)` over the n eigenvalues >= xmin; `estimator` says how xmin is chosen. The
    distance is `max_i |1 - (x_i / xmin)^(1 - alpha) - i / n|`, i = 0 ... n - 1 in ascending order, as in Clauset's
    code, the `powerlaw` package and WeightWatcher.

    Eigenvalues that are zero are left out. What cannot be fitted gives a status, never an invented number: also a tail
    whose values are equal up to the rounding of the dtype in which they are given.

    Args:
        eigenvalues: `[r]`, in any order, sigma^2 of one matrix; best from `htmuon.analysis.eigenvalues`, which knows
            how far the entries of the matrix were rounded.
        estimator: "ks" or "hill", see the module's head.

    Raises:
        TypeError: `eigenvalues` is complex.
        ValueError: `eigenvalues` is not one-dimensional, or `estimator` is unknown.

    Example:
        >>> import torch
        >>> uniform = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
        >>> fit = fit_power_law((1 - uniform) ** (-1 / 1.5))  # quantiles of the law with alpha = 2.5
        >>> round(fit.alpha, 2), fit.status
        (2.5, 'ok')
        >>> fit_power_law(torch.zeros(100)).message
        'fewer than 10 positive eigenvalues: too few for a fit'

    Not for deciding whether a spectrum *is* a power law: any spectrum gets an alpha; look at `ks_distance`,
    `alternatives.compare` and `bootstrap.goodness_of_fit` too.
    """
    if eigenvalues.ndim != 1:
        raise ValueError(
            f"eigenvalues must be one-dimensional; got shape {tuple(eigenvalues.shape)}; "
            "use fit_power_laws for a stack [batch, r]."
        )
    return fit_power_laws(eigenvalues[None], estimator)[0]


def fit_power_laws(eigenvalues: Tensor, estimator: Estimator = "ks") -> list[PowerLawFit]:
    """Fit the eigenvalues of many matrices at once, on their device: `fit_power_law` of every row.

    The fits of a stack are those of its rows, up to rounding.

    Args:
        eigenvalues: `[batch, r]`, each row in any order.
        estimator: "ks" or "hill", see the module's head.

    Raises:
        TypeError: `eigenvalues` is complex.
        ValueError: `eigenvalues` is not two-dimensional, or `estimator` is unknown.

    Example:
        >>> import torch
        >>> uniform = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
        >>> fits = fit_power_laws(torch.stack([(1 - uniform) ** (-1 / 1.5), (1 - uniform) ** (-1 / 2)]), "hill")
        >>> [round(fit.alpha, 2) for fit in fits]
        [2.5, 3.0]

    Source: Clauset, Shalizi, Newman 2009 (arXiv 0706.1062), equation 3.1 and section 3.3.
    """
    if eigenvalues.ndim != 2:
        raise ValueError(
            f"eigenvalues must be two-dimensional [batch, r]; got shape {tuple(eigenvalues.shape)}; "
            "use fit_power_law for one spectrum [r]."
        )
    if estimator not in ESTIMATORS:
        raise unknown_name("estimator", estimator, list(ESTIMATORS))
    if eigenvalues.is_complex():
        raise TypeError(f"eigenvalues must be real; got {eigenvalues.dtype}. Those of W^T W are: pass their real part.")
    batch, r = eigenvalues.shape
    if r < MIN_TAIL_SIZE:
        finite = torch.isfinite(eigenvalues).all(dim=1).tolist()
        return [PowerLawFit(estimator=estimator, status="too_few" if ok else "not_finite") for ok in finite]
    rows = max(1, _BLOCK_ELEMENTS // (r * _BOUND_POINTS))
    return [
        fit
        for start in range(0, batch, rows)
        for fit in _fit_block(eigenvalues[start : start + rows].detach(), estimator)
    ]


def _fit_block(values: Tensor, estimator: Estimator) -> list[PowerLawFit]:
    rounding = _rounding(values)
    values = values.double()
    finite = torch.isfinite(values).all(dim=1)
    values = torch.where(finite[:, None], values, 0.0).clamp(min=0).sort(dim=1, descending=True).values
    counts = (values > 0).sum(dim=1)
    # Logarithms below the largest eigenvalue: 0 = t_1 >= t_2 >= ...; zeros come last, in no tail.
    logs = torch.where(values > 0, values / values[:, :1], 1.0).log()
    sizes = torch.arange(1, values.shape[1] + 1, device=values.device)
    slopes = sizes / (logs.cumsum(dim=1) - sizes * logs)  # alpha - 1 of every tail
    # Equal eigenvalues leave only rounding in the sum of logarithms: that is no spread, whatever number it gives.
    spread = (logs < -rounding) & (sizes <= counts[:, None])
    last_of_equals = torch.ones_like(spread)
    last_of_equals[:, :-1] = values[:, 1:] < values[:, :-1]
    if estimator == "hill":
        chosen = torch.maximum(counts - counts // 2, counts.clamp(max=MIN_TAIL_SIZE)).clamp(min=1) - 1
        # All that equal xmin are in the tail.
        chosen = (values >= values.gather(1, chosen[:, None])).sum(dim=1).minimum(counts.clamp(min=1)) - 1
        distances = _ks_distances(logs, slopes, chosen[:, None])[:, 0]
    else:
        chosen, distances = _nearest_tails(logs, slopes, spread & last_of_equals)
    different = last_of_equals.cumsum(dim=1).masked_fill(~spread, 1)
    at_chosen = [table.gather(1, chosen[:, None])[:, 0] for table in (slopes, values, different)]
    columns = torch.stack([finite, counts, chosen + 1, distances, *at_chosen], dim=1).tolist()
    return [_fit_from(estimator, *column) for column in columns]


def _rounding(values: Tensor) -> float:
    """By how much the logarithms of equal eigenvalues may differ, in the dtype in which they are given.

    A decomposition leaves a few `eps sqrt(r)`, and none is made in anything narrower than float32.
    """
    eps = torch.finfo(values.dtype).eps if values.is_floating_point() else 0.0
    decomposed = 8 * math.sqrt(values.shape[1]) * min(eps, torch.finfo(torch.float32).eps)
    return max(1e-12, decomposed, 2 * eps)


def _fit_from(
    estimator: Estimator,
    finite: float,
    count: float,
    tail_size: float,
    distance: float,
    slope: float,
    xmin: float,
    different: float,
) -> PowerLawFit:
    status: Status = "ok"
    if not finite:
        status = "not_finite"
    elif count < MIN_TAIL_SIZE:
        status = "too_few"
    elif different == 1 or (different < MIN_TAIL_SIZE <= tail_size and 2 * different < tail_size):
        status = "no_spread"
    elif tail_size < MIN_TAIL_SIZE:
        status = "short_tail"
    if status != "ok":
        return PowerLawFit(estimator=estimator, status=status)
    return PowerLawFit(estimator=estimator, alpha=1 + slope, xmin=xmin, ks_distance=distance, tail_size=int(tail_size))


def _nearest_tails(logs: Tensor, slopes: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the tail with the smallest distance in each row, and that distance: `[batch]` each.

    Tails are measured in the order of a lower bound of their distance, until the bound of the next one is no smaller
    than the best distance so far: the smallest of all, at a small part of their cost.
    """
    bounds = torch.where(candidates, _distance_bounds(logs, slopes), math.inf)
    bounds, order = bounds.sort(dim=1)
    chosen, best = order[:, 0].clone(), logs.new_full(logs.shape[:1], math.inf)
    for start in range(0, order.shape[1], _TAILS_PER_ROUND):
        rows = (bounds[:, start] < best).nonzero()[:, 0]
        if not len(rows):
            break
        tails = order[rows, start : start + _TAILS_PER_ROUND]
        distances = _ks_distances(logs[rows], slopes[rows], tails)
        distances = torch.where(candidates[rows].gather(1, tails), distances, math.inf)
        nearest, index = distances.min(dim=1)
        better = nearest < best[rows]
        chosen[rows[better]] = tails.gather(1, index[:, None])[better, 0]
        best[rows[better]] = nearest[better]
    return chosen, best


def _distance_bounds(logs: Tensor, slopes: Tensor) -> Tensor:
    """Largest distance over `_BOUND_POINTS` points of every tail: `[batch, r]`."""
    last = torch.arange(logs.shape[1], device=logs.device)  # index of the smallest eigenvalue of each tail
    points = torch.arange(_BOUND_POINTS, device=logs.device) * (last[:, None] + 1) // _BOUND_POINTS
    fitted = torch.exp(slopes[:, :, None] * (logs[:, :, None] - logs[:, points]))  # of being larger than the point
    return ((points + 1).double() / (last[:, None] + 1) - fitted).abs().amax(dim=2)


def _ks_distances(logs: Tensor, slopes: Tensor, tails: Tensor) -> Tensor:
    """Kolmogorov-Smirnov distances of the chosen tails of each row: `[batch, tails]`."""
    index = torch.arange(logs.shape[1], device=logs.device)
    above = (logs.gather(1, tails)[:, :, None] - logs[:, None, :]).clamp(max=0)
    fitted = torch.exp(slopes.gather(1, tails)[:, :, None] * above)
    distances = ((index + 1).double() / (tails[:, :, None] + 1) - fitted).abs()
    return torch.where(index <= tails[:, :, None], distances, 0.0).amax(dim=2)
