"""How each matrix finds its own power while it trains: a rule moves the exponent.

A new rule is one more class here. It may say in `powers` between which ends it moves them; else they lie in [-1, 1].
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from htmuon._checks import check_number
from htmuon.linalg.parts import PartDict
from htmuon.optim.hindsight import POWER_RULES, Rule
from htmuon.optim.named import part_of
from htmuon.spectral.base import POWER_RANGE

PowerRuleChoice = str | PartDict | Rule | None


@dataclass(frozen=True)
class PowerAlignment:
    """A matrix whose strong directions still point downhill gets a higher power, one where they overshot a lower one.

    With O the last update, M the momentum before it and G the gradient after it, from fresh data, averaged over some
    steps:

        D = M / |M| - <M, O> / (|M| |O|^2) O,   h = <G, D> / (|G| |D|),   p <- p + speed h

    M is about the update at p = 1 (Nesterov's looks one gradient ahead), so D turns O towards its strong directions
    without making it longer in the first order, as the derivative of O by p at a fixed Frobenius norm does. It costs no
    product, no decomposition and no buffer beside that of the last update. Each matrix starts at the `power` of its
    group. A parameter has one power, also where it is a stack of experts or fuses several matrices.

    Args:
        speed: of the powers, at each step.
        averaging: of the cosines, in [0, 1): the share of the past.
        lowest: powers stay above it.
        highest: and below it.

    Raises:
        TypeError: a setting is no number.
        ValueError: a setting is out of range.

    Example:
        >>> rule = PowerAlignment(speed=0.5, averaging=0.0)
        >>> cosine, zero = torch.tensor([0.25, -0.25]), torch.zeros(2)
        >>> rule(cosine, zero, zero, cosine != 0)[1].tolist()
        [0.125, -0.125]
    """

    speed: float = 0.02
    averaging: float = 0.95
    lowest: float = -0.5
    highest: float = 0.5

    def __post_init__(self) -> None:
        low, high = POWER_RANGE
        check_number("speed", self.speed, remedy="Pass a float such as 0.02.")
        check_number("averaging", self.averaging, below=1.0, remedy="Pass a float such as 0.95.")
        check_number("lowest", self.lowest, least=low, most=high, remedy="Pass a float such as -0.5.")
        check_number("highest", self.highest, least=self.lowest, most=high, remedy="Pass a float such as 0.5.")

    @property
    def powers(self) -> tuple[float, float]:
        """The ends of the range of powers."""
        return self.lowest, self.highest

    def __call__(self, cosine: Tensor, average: Tensor, value: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
        """See `Rule`."""
        average = torch.lerp(cosine, average, self.averaging)
        return average, (value + self.speed * average).clamp(self.lowest, self.highest)


POWER_RULES.register("alignment")(PowerAlignment())


def powers_of(rule: Rule) -> tuple[float, float]:
    """The ends of the range in which a rule moves powers: its `powers`, where it has them.

    Example:
        >>> powers_of(PowerAlignment()), powers_of(lambda cosine, average, value, moves: (average, value))
        ((-0.5, 0.5), (-1.0, 1.0))
    """
    low, high = getattr(rule, "powers", POWER_RANGE)
    return low, high


def power_rule_of(choice: PowerRuleChoice) -> Rule | None:
    """The rule that a name, a dict or an object stands for.

    Raises:
        TypeError: it is none of the three.
        ValueError: the rule does not exist, or has no such setting.

    Example:
        >>> power_rule_of({"name": "alignment", "speed": 0.01})
        PowerAlignment(speed=0.01, averaging=0.95, lowest=-0.5, highest=0.5)
    """
    return None if choice is None else part_of(POWER_RULES, choice)
