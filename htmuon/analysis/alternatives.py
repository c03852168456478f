"""Other laws for the same tail: is it a power law, or one with a cut-off, a lognormal, an exponential?

With `t = ln(x / xmin) >= 0` all of them are exponential families, `density(t) ~ exp(theta . T(t))`:

| law | density of x | T(t) |
|---|---|---|
| power law | `x^-alpha` | `t` |
| truncated power law | `x^-alpha exp(-lambda x)` | `t, e^t` |
| lognormal | `exp(-(ln x - mu)^2 / (2 s^2)) / x` | `t, t^2` |
| exponential | `exp(-lambda x)` | `t` with coefficient 1, `e^t` |

so that one Newton iteration on a concave likelihood fits the two that have no closed form.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from htmuon.analysis.power_law import Estimator, PowerLawFit

Alternative = Literal["truncated_power_law", "lognormal", "exponential"]
ComparisonStatus = Literal["ok", "no_fit", "limit_is_power_law"]

ALTERNATIVES: tuple[Alternative, ...] = get_args(Alternative)

_MESSAGES: dict[ComparisonStatus, str] = {
    "ok": "the alternative was fitted",
    "no_fit": "there is no power-law fit to compare with",
    "limit_is_power_law": "the likelihood of this alternative grows until it has become the power law: it has no fit",
}
# A log-concave density on t >= 0 leaves at most e^(1 - 40) of its mass beyond 40 of its means; with 100 panels per mean
# Simpson's rule is exact to 1e-9 on it.
_MEANS, _PANELS = 40, 4000


@dataclass(frozen=True, kw_only=True)
class LawComparison:
    """A power law against another law on the same tail; numbers are NaN unless `status` is "ok".

    Attributes:
        alternative: the other law.
        estimator: the one that chose the tail.
        status: "ok", or why there are no numbers.
        parameters: maximum-likelihood parameters of the alternative, in the units of the eigenvalues.
        log_likelihood_ratio: R, the log-likelihood of the power law minus that of the alternative; above 0 the power
            law is the better one.
        p_value: how probable so large an |R| would be if both laws were equally good: the sign of R says nothing
            where this is large.
    """

    alternative: Alternative
    estimator: Estimator
    status: ComparisonStatus = "ok"
    parameters: Mapping[str, float] = field(default_factory=dict)
    log_likelihood_ratio: float = math.nan
    p_value: float = math.nan

    @property
    def message(self) -> str:
        """The status as a sentence."""
        return _MESSAGES[self.status]


def compare(eigenvalues: Tensor, fit: PowerLawFit) -> dict[Alternative, LawComparison]:
    """Fit every alternative to the tail of a power-law fit and compare the likelihoods.

    `R = sum_i ln p(x_i) - ln q(x_i)` over the eigenvalues `x_i >= xmin`, p the power law, q the alternative. Its
    p-value is Vuong's, `erfc(|R| / sqrt(2 n v))` with v the variance of the summands, or, for the truncated power law
    which contains the power law, that of a likelihood-ratio test with one degree of freedom, `erfc(sqrt(|R|))`.

    Args:
        eigenvalues: `[r]`, the ones that were fitted.
        fit: the fit of `fit_power_law`; one without success gives comparisons with a status.

    Raises:
        ValueError: `eigenvalues` is not one-dimensional, or has not as many values from xmin on as `fit` says.

    Example:
        >>> import torch
        >>> from htmuon.analysis import fit_power_law
        >>> lognormal = torch.randn(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).exp()
        >>> result = compare(lognormal, fit_power_law(lognormal, estimator="hill"))["lognormal"]
        >>> result.log_likelihood_ratio < 0, result.p_value < 0.01
        (True, True)

    Source: Clauset, Shalizi, Newman 2009 (arXiv 0706.1062), section 5; Vuong 1989.

    Not limited to alpha >= 0 in the truncated power law, as the `powerlaw` package is unless told otherwise.
    """
    if eigenvalues.ndim != 1:
        raise ValueError(
            f"eigenvalues must be one-dimensional; got shape {tuple(eigenvalues.shape)}; compare one by one."
        )
    if not fit.ok:
        return {
            name: LawComparison(alternative=name, estimator=fit.estimator, status="no_fit") for name in ALTERNATIVES
        }
    values = eigenvalues.detach().to(device="cpu", dtype=torch.float64)
    t = (values[values >= fit.xmin] / fit.xmin).log()
    if len(t) != fit.tail_size:
        raise ValueError(
            f"eigenvalues must be those of the fit, with {fit.tail_size} values >= xmin = {fit.xmin:.6g}; "
            f"got {len(t)}; fit them first."
        )
    return {
        "truncated_power_law": _truncated_power_law(t, fit),
        "lognormal": _lognormal(t, fit),
        "exponential": _exponential(t, fit),
    }


def _truncated_power_law(t: Tensor, fit: PowerLawFit) -> LawComparison:
    slope = fit.alpha - 1
    # Where the data have a mean no smaller than the power law's own, a cut-off only takes likelihood away.
    if slope > 1 and float(_exponential_of(t).mean()) >= 1 / (slope - 1):
        parameters = {"alpha": fit.alpha, "lambda": 0.0}
        return LawComparison(
            alternative="truncated_power_law",
            estimator=fit.estimator,
            parameters=parameters,
            log_likelihood_ratio=0.0,
            p_value=1.0,
        )
    theta, log_density = _maximum_likelihood(t, _exponential_of)
    ratio = float((math.log(slope) - slope * t - log_density).sum())
    return LawComparison(
        alternative="truncated_power_law",
        estimator=fit.estimator,
        parameters={"alpha": 1 - theta[0], "lambda": -theta[1] / fit.xmin},
        log_likelihood_ratio=ratio,
        p_value=math.erfc(math.sqrt(abs(ratio))),
    )


def _lognormal(t: Tensor, fit: PowerLawFit) -> LawComparison:
    # E t^2 of the power law; a lognormal that decays slower than one at xmin has it only as its limit.
    if float(t.square().mean()) >= 2 / (fit.alpha - 1) ** 2:
        return LawComparison(alternative="lognormal", estimator=fit.estimator, status="limit_is_power_law")
    theta, log_density = _maximum_likelihood(t, torch.square)
    variance = -1 / (2 * theta[1])
    parameters = {"mu": theta[0] * variance + math.log(fit.xmin), "sigma": math.sqrt(variance)}
    return _vuong("lognormal", parameters, t, log_density, fit)


def _exponential(t: Tensor, fit: PowerLawFit) -> LawComparison:
    above = t.expm1()
    rate = 1 / float(above.mean())
    log_density = math.log(rate) - rate * above + t
    return _vuong("exponential", {"lambda": rate / fit.xmin}, t, log_density, fit)


def _vuong(
    name: Alternative, parameters: Mapping[str, float], t: Tensor, log_density: Tensor, fit: PowerLawFit
) -> LawComparison:
    slope = fit.alpha - 1
    terms = math.log(slope) - slope * t - log_density
    ratio = float(terms.sum())
    spread = math.sqrt(2 * len(t) * float(terms.var(correction=0)))
    return LawComparison(
        alternative=name,
        estimator=fit.estimator,
        parameters=parameters,
        log_likelihood_ratio=ratio,
        p_value=math.erfc(abs(ratio) / spread) if spread > 0 else 1.0,
    )


def _exponential_of(t: Tensor) -> Tensor:
    """`e^t - 1`, kept so small that its square is finite; so far out no density is left."""
    return t.clamp(max=300).expm1()


def _maximum_likelihood(t: Tensor, statistic: Callable[[Tensor], Tensor]) -> tuple[tuple[float, float], Tensor]:
    """Fit `density(t) ~ exp(theta_1 t + theta_2 statistic(t))`, t >= 0: theta, and the log-density at each t.

    Newton's method on the log-likelihood, which is concave: its gradient is the mean of the statistics in the data
    minus that in the fit, its Hessian minus their covariance in the fit.
    """
    scales = torch.stack([t.mean(), statistic(t).mean()])
    nodes = torch.linspace(0, float(_MEANS * scales[0]), _PANELS + 1, dtype=torch.float64)
    simpson = torch.full_like(nodes, 2.0)
    simpson[1::2] = 4.0
    simpson[[0, -1]] = 1.0
    log_weights = simpson.log() + math.log(float(nodes[1]) / 3)
    features = torch.stack([nodes, statistic(nodes)]) / scales[:, None]  # the data have mean 1 in both

    def log_likelihood(theta: Tensor) -> Tensor:
        return theta.sum() - torch.logsumexp(theta @ features + log_weights, dim=0)

    theta = torch.full((2,), -0.5, dtype=torch.float64)
    best = log_likelihood(theta)
    for _ in range(200):
        weights = torch.softmax(theta @ features + log_weights, dim=0)
        means = features @ weights
        centered = features - means[:, None]
        gradient = 1 - means
        # In a very narrow tail e^t is as good as linear and the covariance singular; its pseudo-inverse still ascends.
        step = torch.linalg.pinv((centered * weights) @ centered.mT, hermitian=True) @ gradient
        if float(step @ gradient) < 1e-18:  # what a full step would gain, in log-likelihood per eigenvalue
            break
        size = 1.0
        while size > 1e-12:
            proposal = theta + size * step
            likelihood = log_likelihood(proposal)
            if proposal[1] < 0 and likelihood > best:
                break
            size /= 2
        else:
            break
        theta, best = proposal, likelihood
    log_norm = torch.logsumexp(theta @ features + log_weights, dim=0)
    theta = theta / scales
    first, second = theta.tolist()
    return (first, second), first * t + second * statistic(t) - log_norm
