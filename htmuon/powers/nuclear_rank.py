"""Powers from a comparison of the ranks of gradients and activations."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from htmuon._checks import check_number
from htmuon.powers.base import RULES, SpectralRule, Spectrum


def nuclear_rank(squares: Tensor) -> Tensor:
    """`nr = (sum sigma)^2 / sum sigma^2`, the squared ratio of the nuclear to the Frobenius norm, between 1 and r.

    Args:
        squares: eigenvalues `sigma^2`, `[*batch, r]`.

    Example:
        >>> import torch
        >>> nuclear_rank(torch.tensor([4.0, 4.0, 0.0]))
        tensor(2.)
    """
    return squares.sqrt().sum(dim=-1).square() / squares.sum(dim=-1)


@dataclass(frozen=True)
class NuclearRank(SpectralRule):
    """Where a spectral step promises more descent than a Euclidean one, the power is low, and high where it is less.

    With G the gradient and A the incoming activations of a matrix,

        nr(G) = |G|_*^2 / |G|_F^2,   st(A) = |A|_F^2 / |A|_op^2
        p = lowest + (highest - lowest) st^s / (st^s + nr^s)

    A matrix W that A is multiplied by has a loss of curvature at most `|A|_op^2` in the Frobenius norm of a step and
    `|A|_F^2` in its spectral norm, so that the best steps promise `|G|_F^2 / (2 |A|_op^2)` and
    `|G|_*^2 / (2 |A|_F^2)`. The spectral step, p = 0, wins where `nr(G) > st(A)`, and the Euclidean one, p = 1, where
    it is smaller. That condition is the publication's; the passage from one to the other is ours, half-way at the
    threshold and the publication's switch as s grows.

    Args:
        lowest: the power where the spectral step is far better.
        highest: the power where the Euclidean step is.
        averaging: of powers over looks.
        sharpness: s, above 0.

    Raises:
        TypeError: a setting is no number.
        ValueError: a setting is out of range.

    Example:
        >>> import torch
        >>> flat, steep = torch.ones(12, dtype=torch.float64), torch.tensor([1.0, 0.5, 0.5, 0.5, 0.5]).double()
        >>> NuclearRank()(flat, steep)  # nr = 12, st = 3
        tensor(0.2000, dtype=torch.float64)

    Source: Davis and Drusvyatskiy, When do spectral gradient updates help in deep learning?, arXiv 2512.04299.

    Not for matrices whose activations nobody sees (see `PowerController`): they keep their power. The condition is of
    one step along a gradient, and says nothing of momentum or noise.
    """

    sharpness: float = 1.0

    looks_at: ClassVar[tuple[Spectrum, ...]] = ("gradients", "activations")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("sharpness", self.sharpness, above=0.0, remedy="Pass a float such as 1.0.")

    def __call__(self, gradients: Tensor, activations: Tensor) -> Tensor:  # type: ignore[override]
        """See `SpectralRule`: of eigenvalues `[*batch, r]` and `[in]`."""
        stable_rank = activations.sum(dim=-1) / activations.amax(dim=-1)
        # nr^s / st^s, which overflows to infinity and so to the lowest power.
        odds = (nuclear_rank(gradients) / stable_rank) ** self.sharpness
        return self.lowest + (self.highest - self.lowest) / (1 + odds)


RULES.register("nuclear_rank")(NuclearRank())
