"""Power-law fits of eigenvalues: rho(lambda) ~ lambda^-alpha for lambda >= xmin.

Two estimators of alpha are in use, and their numbers are not comparable, so every fit carries the name of its own:

- `ks`: xmin is the eigenvalue from which on the tail is nearest to a power law in Kolmogorov-Smirnov distance
  (Clauset, Shalizi, Newman 2009, arXiv 0706.1062). The alpha that WeightWatcher reports.
- `hill`: xmin is the median eigenvalue, so that alpha describes the upper half of the spectrum. The alpha of
  TempBalance, AlphaDecay and HTMuon (arXiv 2603.10067).
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from htmuon._registry import unknown_name

Estimator = Literal["ks", "hill"]
Status = Literal["ok", "too_few", "not_finite", "no_spread"]

ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)
# A fit to fewer points says nothing: the standard error of alpha is (alpha - 1) / sqrt(n), a third of alpha - 1 here.
MIN_TAIL_SIZE = 10
# The distances of all candidates are computed as one [candidates, eigenvalues] matrix, in blocks of at most 32 MB.
_BLOCK_ELEMENTS = 2**22

_MESSAGES: dict[Status, str] = {
    "ok": "the fit succeeded",
    "too_few": f"fewer than {MIN_TAIL_SIZE} positive eigenvalues: too few for a fit",
    "not_finite": "some eigenvalues are not finite",
    "no_spread": "the eigenvalues of the tail are all equal: no exponent describes them",
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
        """Standard error `(alpha - 1) / sqrt(n)` of alpha for a given xmin."""
        return (self.alpha - 1) / math.sqrt(self.tail_size) if self.ok else math.nan


def fit_power_law(eigenvalues: Tensor, *, estimator: Estimator = "ks") -> PowerLawFit:
    """Fit `rho(x) ~ x^-alpha, x >= xmin`, to eigenvalues by maximum likelihood.

    `alpha = 1 + n / sum_i ln(x_i / xmin)` over the n eigenvalues >= xmin; `estimator` says how xmin is chosen. The
    distance is `max_i |1 - (x_i / xmin)^(1 - alpha) - i / n|`, i = 0 ... n - 1, as in Clauset's code.

    Eigenvalues that are zero are left out. What cannot be fitted gives a status, never an invented number.

    Args:
        eigenvalues: `[r]`, in any order, sigma^2 of one matrix.
        estimator: "ks" or "hill", see the module's head.

    Raises:
        ValueError: `eigenvalues` is not one-dimensional, or `estimator` is unknown.

    Example:
        >>> import torch
        >>> uniform = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
        >>> fit = fit_power_law((1 - uniform) ** (-1 / 1.5))  # quantiles of the law with alpha = 2.5
        >>> round(fit.alpha, 2), fit.status
        (2.5, 'ok')
        >>> fit_power_law(torch.zeros(100)).message
        'fewer than 10 positive eigenvalues: too few for a fit'

    Not for deciding whether a spectrum *is* a power law: any spectrum gets an alpha; look at `ks_distance` too.
    """
    if eigenvalues.ndim != 1:
        raise ValueError(f"eigenvalues must be one-dimensional; got shape {tuple(eigenvalues.shape)}; fit one by one.")
    if estimator not in ESTIMATORS:
        raise unknown_name("estimator", estimator, list(ESTIMATORS))
    values = eigenvalues.detach().to(device="cpu", dtype=torch.float64)
    if not bool(torch.isfinite(values).all()):
        return PowerLawFit(estimator=estimator, status="not_finite")
    values = values[values > 0].sort().values
    if len(values) < MIN_TAIL_SIZE:
        return PowerLawFit(estimator=estimator, status="too_few")
    starts = _median_start(len(values)) if estimator == "hill" else _distinct_starts(values)
    return _best_fit(values, starts, estimator)


def _median_start(count: int) -> Tensor:
    return torch.tensor([min(count // 2, count - MIN_TAIL_SIZE)])


def _distinct_starts(values: Tensor) -> Tensor:
    """Indices at which a tail of sorted `values` may start: first of its equals, and enough of them above."""
    first_of_equals = torch.ones(len(values), dtype=torch.bool)
    first_of_equals[1:] = values[1:] > values[:-1]
    return first_of_equals.nonzero().squeeze(1)[: len(values) - MIN_TAIL_SIZE + 1]


def _best_fit(values: Tensor, starts: Tensor, estimator: Estimator) -> PowerLawFit:
    logs = values.log()
    starts = starts[starts <= len(values) - MIN_TAIL_SIZE]
    tail_sizes = (len(values) - starts).double()  # a quotient of integer tensors would be float32
    tail_sums = logs.flip(0).cumsum(0).flip(0)[starts]
    slopes = tail_sizes / (tail_sums - tail_sizes * logs[starts])  # alpha - 1
    # Equal eigenvalues leave only rounding in the sum of logarithms: that is no spread, whatever number it gives.
    spread = logs[-1] - logs[starts] > 1e-12
    if not bool(spread.any()):
        return PowerLawFit(estimator=estimator, status="no_spread")
    starts, tail_sizes, slopes = starts[spread], tail_sizes[spread], slopes[spread]
    block = max(1, _BLOCK_ELEMENTS // len(values))
    distances = torch.cat(
        [
            _ks_distances(logs, *parts)
            for parts in zip(*(torch.split(x, block) for x in (starts, tail_sizes, slopes)), strict=True)
        ]
    )
    best = int(distances.argmin())
    return PowerLawFit(
        estimator=estimator,
        alpha=1 + float(slopes[best]),
        xmin=float(values[starts[best]]),
        ks_distance=float(distances[best]),
        tail_size=int(tail_sizes[best]),
    )


def _ks_distances(logs: Tensor, starts: Tensor, tail_sizes: Tensor, slopes: Tensor) -> Tensor:
    """Kolmogorov-Smirnov distance of the tail from each start: `[candidates]`."""
    rank = torch.arange(len(logs)) - starts[:, None]
    in_tail = rank >= 0
    above = (logs - logs[starts, None]).clamp(min=0)
    fitted = -torch.expm1(-slopes[:, None] * above)
    return torch.where(in_tail, (fitted - rank / tail_sizes[:, None]).abs(), 0.0).amax(dim=1)


def fit_power_laws(eigenvalues: Tensor, estimator: Estimator) -> list[PowerLawFit]:
    """Fit every spectrum of a stack `[batch, r]`, see `fit_power_law`."""
    return [fit_power_law(values, estimator=estimator) for values in eigenvalues]
