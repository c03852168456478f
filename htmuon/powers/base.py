"""What a rule is that finds the powers of matrices in their spectra.

A rule is a function of eigenvalues `sigma^2`, float64 and descending, of one parameter:

- `weights`: of `W^T W`, `[*batch, r]`
- `gradients`: of `G^T G`, `[*batch, r]`
- `activations`: of `A^T A`, `[in]`, A the rows that W was multiplied by in the step, one for each token

It names those that it takes, and gives a power for each matrix, `[*batch]`. `PowerController` measures and sets them.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from htmuon._checks import check_number
from htmuon._registry import Registry
from htmuon.optim.power_rules import check_bounds

Spectrum = Literal["weights", "gradients", "activations"]


@dataclass(frozen=True)
class SpectralRule(ABC):
    """Finds the power of a matrix in its spectra; the base of all such rules.

    Args:
        lowest: powers are never below it.
        highest: and never above.
        averaging: of powers over looks, in [0, 1): the share of the one that a matrix has.

    Attributes:
        looks_at: the spectra that it takes, in the order of its arguments.

    Raises:
        TypeError: a setting is no number.
        ValueError: a setting is out of range.

    Example:
        >>> import torch
        >>> @dataclass(frozen=True)
        ... class StableRank(SpectralRule):
        ...     looks_at = ("weights",)
        ...     def __call__(self, weights):
        ...         return (weights.sum(dim=-1) / weights[..., 0] / weights.shape[-1]).clamp(self.lowest, self.highest)
        >>> StableRank(highest=0.25)(torch.tensor([4.0, 2.0, 1.0, 1.0])).item()
        0.25

    One that is to be had by name is registered: `RULES.register("stable_rank")(StableRank())`.
    """

    lowest: float = 0.0
    highest: float = 1.0
    averaging: float = 0.5

    looks_at: ClassVar[tuple[Spectrum, ...]]

    def __post_init__(self) -> None:
        check_bounds(self.lowest, self.highest, "0.0", "1.0")
        check_number("averaging", self.averaging, below=1.0, remedy="Pass a float such as 0.5.")

    @abstractmethod
    def __call__(self, *spectra: Tensor) -> Tensor:
        """The powers `[*batch]` of matrices, within the bounds; NaN for one that keeps the power that it has."""


RULES: Registry[SpectralRule] = Registry("rule")
