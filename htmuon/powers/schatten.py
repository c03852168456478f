"""Powers whose step promises the most descent, of all steps that are steepest in a Schatten norm."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from htmuon.powers.base import RULES, SpectralRule, Spectrum

# Of the powers that are tried, from the lowest to the highest.
POINTS = 129


def log_descent(gradients: Tensor, activations: Tensor, powers: Tensor) -> Tensor:
    """`ln(|G|_{1+p} / |A|_{2(1+p)/(1-p)})` in Schatten norms, for each power: of twice its square a step is sure.

    Args:
        gradients: eigenvalues of `G^T G`, `[*batch, r]`.
        activations: eigenvalues of `A^T A`, `[in]`.
        powers: in [0, 1], `[points]`.

    Returns:
        `[*batch, points]`; NaN without a gradient or activations.

    Example:
        >>> squares = torch.tensor([4.0, 1.0], dtype=torch.float64)
        >>> log_descent(squares, squares, torch.tensor([0.0, 1.0])).exp()  # 3 / sqrt(5), sqrt(5) / 2
        tensor([1.3416, 1.1180], dtype=torch.float64)
    """
    return _log_norm(gradients, (1 + powers) / 2) - _log_norm(activations, (1 + powers) / (1 - powers))


def _log_norm(squares: Tensor, halves: Tensor) -> Tensor:
    """`ln |X|_{2h}` for each h of `halves`, infinity included: of eigenvalues of `X^T X`, in units of the largest."""
    largest = squares.amax(dim=-1, keepdim=True)
    sums = ((squares / largest)[..., None, :] ** halves[:, None]).sum(dim=-1)
    return largest.log() / 2 + sums.log() / (2 * halves)


@dataclass(frozen=True)
class Schatten(SpectralRule):
    """The power whose step promises the most descent: `p = argmax |G|_{1+p} / |A|_{2(1+p)/(1-p)}`, in Schatten norms.

    With `q = 1 + 1/p`, G the gradient of a matrix and A its incoming activations, the loss
    `|W A - Y|_F^2 / (2n)` changes with a step D by `<G, D> + |D A|_F^2 / (2n)`, of which Hoelder's inequality says

        |D A|_F <= |D|_q |A|_k,   1/2 = 1/q + 1/k,   k = 2 (1 + p) / (1 - p)

    `U S^p V^T` of G is the direction of steepest descent in `|D|_q`, and at its best length the loss falls by at least
    `n |G|_{1+p}^2 / (2 |A|_k^2)`. At p = 0 that is `|G|_* / |A|_F` and at p = 1 `|G|_F / |A|_op`: the comparison of
    `NuclearRank`, with all powers between. The ratio may have several maxima, so that 129 powers from `lowest` to
    `highest` are tried.

    Args:
        lowest: the least power that is tried, at least 0.
        highest: the greatest.
        averaging: of powers over looks.

    Raises:
        TypeError: a setting is no number.
        ValueError: a setting is out of range.

    Example:
        >>> squares = torch.tensor([4.0, 1.0], dtype=torch.float64)
        >>> Schatten()(squares, squares).item()
        0.0

    Source: Massena et al., From SGD to Muon: Adaptive Optimization via Schatten-p Norms, arXiv 2605.19781; the formula
    is that of the first author's post (https://massena-t.github.io/blog/2026/02/19/schatten-muon.html), whose p is our
    1/p. The post averages subsampled singular values over looks, and we powers of whole spectra; what the paper itself
    does beyond its abstract, we have not read.

    Not for matrices whose activations nobody sees (see `PowerController`): they keep their power. The promise is that
    of one step along a gradient, for a loss that is quadratic in what the matrix puts out.
    """

    looks_at: ClassVar[tuple[Spectrum, ...]] = ("gradients", "activations")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lowest < 0:
            raise ValueError(
                f"lowest must be at least 0, for no power below is steepest in a norm; got {self.lowest}. Pass 0.0."
            )

    def __call__(self, gradients: Tensor, activations: Tensor) -> Tensor:  # type: ignore[override]
        """See `SpectralRule`: of eigenvalues `[*batch, r]` and `[in]`."""
        powers = torch.linspace(self.lowest, self.highest, POINTS, dtype=torch.float64, device=gradients.device)
        descent = log_descent(gradients, activations, powers)
        return torch.where(descent.isfinite().all(dim=-1), powers[descent.argmax(dim=-1)], torch.nan)


RULES.register("schatten")(Schatten())
