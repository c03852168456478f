"""Powers from the tails of the weights, as HT-SR theory has weight decay and learning rates from them."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from htmuon._checks import check_number
from htmuon.analysis.power_law import fit_power_laws
from htmuon.powers.base import RULES, SpectralRule, Spectrum


@dataclass(frozen=True)
class Alpha(SpectralRule):
    """Weights with heavy tails get a low power, those with light tails a high one.

    With alpha the exponent of the upper half of the eigenvalues of `W^T W` (median-Hill):

        p = lowest + (highest - lowest) clip((alpha - heavy) / (light - heavy), 0, 1)

    A power makes tails heavier, so it goes where they are light. AlphaDecay maps the same exponent to weight decay by a
    line, between the least and the greatest of the model. The line to powers and its fixed ends are ours.

    Args:
        lowest: the power of heavy tails.
        highest: the power of light ones.
        averaging: of powers over looks.
        heavy: the exponent from which down tails are heavy.
        light: and from which up they are light.

    Raises:
        TypeError: a setting is no number.
        ValueError: a setting is out of range.

    Example:
        >>> import torch
        >>> uniform = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
        >>> Alpha(lowest=0.0, highest=0.25)((1 - uniform) ** (-1 / 2)).item()  # quantiles of a law with alpha = 3
        0.12...

    A matrix without a fit keeps its power: one of fewer than ten eigenvalues, or of equal ones.

    Source: He et al., AlphaDecay, arXiv 2506.14562; Martin and Mahoney, arXiv 1810.01075.

    Not a measure that is free of shapes: of independent Gaussian entries alpha is 2.1 where matrices are square, 3.0 at
    1 : 3 and 3.5 at 1 : 4. In short trainings, which move it less than that, the rule gives powers to shapes.
    """

    highest: float = 0.25
    averaging: float = 0.0
    heavy: float = 2.0
    light: float = 4.0

    looks_at: ClassVar[tuple[Spectrum, ...]] = ("weights",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("heavy", self.heavy, least=1.0, remedy="Pass a float such as 2.0.")
        check_number("light", self.light, above=self.heavy, remedy="Pass a float such as 4.0.")

    def __call__(self, weights: Tensor) -> Tensor:  # type: ignore[override]
        """See `SpectralRule`: of eigenvalues `[*batch, r]`."""
        fits = fit_power_laws(weights.reshape(-1, weights.shape[-1]), "hill")
        alpha = weights.new_tensor([fit.alpha for fit in fits]).view(weights.shape[:-1])
        share = ((alpha - self.heavy) / (self.light - self.heavy)).clamp(0, 1)
        return self.lowest + (self.highest - self.lowest) * share


RULES.register("alpha")(Alpha())
