"""How each matrix finds its own learning rate while it trains: a rule moves the logarithm of a factor of the rate.

A new rule is one more class here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from htmuon._checks import check_number
from htmuon._typing import Group
from htmuon.linalg.parts import PartDict
from htmuon.optim.hindsight import RATE_RULES, Rule
from htmuon.optim.named import part_of

RateRuleChoice = str | PartDict | Rule | None


@dataclass(frozen=True)
class Alignment:
    """A matrix whose last update still points downhill gets a higher rate, one that has overshot a lower one.

    With O the last update and G the gradient after it, from fresh data, averaged over some steps:

        h = <G, O> / (|G| |O|),   log c <- log c + speed (h - mean h),   rate = c lr

    The mean over all matrices that move is taken off, so that the rate of the whole network stays what it was given as.
    It is the descent on the logarithm of the rate (Baydin et al., arXiv 1703.04782) by the cosine alone. A parameter
    has one factor, also where it is a stack of experts or fuses several matrices.

    Args:
        speed: of the logarithms, at each step.
        averaging: of the cosines, in [0, 1): the share of the past.
        most: factors stay within `1 / most` and `most`.

    Raises:
        TypeError: a setting is no number.
        ValueError: a setting is out of range.

    Example:
        >>> rule = Alignment(speed=1.0, averaging=0.0)
        >>> cosine, zero = torch.tensor([0.2, -0.2]), torch.zeros(2)
        >>> [factor.item() for factor in rule(cosine, zero, zero, cosine != 0)[1].exp()]
        [1.2214027643203735, 0.8187307715415955]

    Not for one matrix alone, which has nobody to differ from.
    """

    speed: float = 0.3
    averaging: float = 0.95
    most: float = 4.0

    def __post_init__(self) -> None:
        check_number("speed", self.speed, remedy="Pass a float such as 0.3.")
        check_number("averaging", self.averaging, below=1.0, remedy="Pass a float such as 0.95.")
        check_number("most", self.most, least=1.0, remedy="Pass a float such as 4.")

    def __call__(self, cosine: Tensor, alignment: Tensor, log_rate: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
        """See `Rule`."""
        alignment = torch.lerp(cosine, alignment, self.averaging)
        mean = torch.where(moves, alignment, 0.0).sum() / moves.sum().clamp(min=1)
        bound = math.log(self.most)
        return alignment, (log_rate + self.speed * (alignment - mean)).clamp(-bound, bound)


RATE_RULES.register("alignment")(Alignment())


def rate_rule_of(choice: RateRuleChoice) -> Rule | None:
    """The rule that a name, a dict or an object stands for.

    Raises:
        TypeError: it is none of the three.
        ValueError: the rule does not exist, or has no such setting.

    Example:
        >>> rate_rule_of({"name": "alignment", "speed": 0.2})
        Alignment(speed=0.2, averaging=0.95, most=4.0)
    """
    return None if choice is None else part_of(RATE_RULES, choice)


def check_one_rule(groups: Sequence[Group]) -> None:
    """Raise ValueError if groups of matrices have different rules: the mean over all of them would be none."""
    rules = [group["rate_rule"] for group in groups if group["use_muon"] and group["rate_rule"] is not None]
    other = next((rule for rule in rules if rule != rules[0]), None)
    if other is not None:
        raise ValueError(
            f"rate_rule must be the same in all groups that have one; got {rules[0]!r} and {other!r}. Give it to the "
            "optimizer, and rate_rule=None to groups without."
        )
