"""How each matrix finds its own power while it trains: a rule moves the exponent.

A new rule is one more class here. It may say in `powers` between which ends it moves them; else they lie in [-1, 1].
Rules that look at spectra now and then set powers that are `held`: `htmuon.powers`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from htmuon._checks import check_number
from htmuon.linalg.parts import PartDict
from htmuon.optim.hindsight import POWER_RULES, Rule
from htmuon.optim.named import part_of
from htmuon.spectral.base import POWER_RANGE

PowerRuleChoice = str | PartDict | Rule | None


def check_bounds(lowest: float, highest: float, low: str, high: str) -> None:
    """Raise unless a rule may keep powers between `lowest` and `highest`; `low` and `high` are such bounds."""
    least, most = POWER_RANGE
    check_number("lowest", lowest, least=least, most=most, remedy=f"Pass a float such as {low}.")
    check_number("highest", highest, least=lowest, most=most, remedy=f"Pass a float such as {high}.")


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
        check_number("speed", self.speed, remedy="Pass a float such as 0.02.")
        check_number("averaging", self.averaging, below=1.0, remedy="Pass a float such as 0.95.")
        check_bounds(self.lowest, self.highest, "-0.5", "0.5")

    @property
    def powers(self) -> tuple[float, float]:
        """The ends of the range of powers."""
        return self.lowest, self.highest

    def __call__(self, cosine: Tensor, average: Tensor, value: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
        """See `Rule`."""
        average = torch.lerp(cosine, average, self.averaging)
        return average, (value + self.speed * average).clamp(self.lowest, self.highest)


POWER_RULES.register("alignment")(PowerAlignment())


@dataclass(frozen=True)
class Held:
    """A matrix keeps the power that it was given, until somebody sets another: by hand, or by `htmuon.powers`.

    It starts at the `power` of its group. `optimizer.state[p]["power"]`, 0-d and float32, is there from the first step
    on, counts in the next one and is saved with the state; no last update is kept. With `normalization="auto"` the size
    of an update is that of Muon's, `rms`, whatever the power.

    Args:
        lowest: no power that is set is below it; a method that cannot compute it is refused.
        highest: and none above. Steps don't look whether powers keep to these bounds.

    Raises:
        TypeError: a bound is no number.
        ValueError: a bound is out of range.

    Example:
        >>> import htmuon
        >>> weight = torch.nn.Parameter(torch.eye(3))
        >>> optimizer = htmuon.HTMuon([weight], lr=0.02, power_rule="held")
        >>> weight.sum().backward(); optimizer.step()
        >>> optimizer.state[weight]["power"]
        tensor(0.1250)
        >>> _ = optimizer.state[weight]["power"].fill_(0.5)

    Not for one power that is the same for all, which `group["power"]` is.
    """

    lowest: float = 0.0
    highest: float = 1.0

    looks_back: ClassVar = False

    def __post_init__(self) -> None:
        check_bounds(self.lowest, self.highest, "0.0", "1.0")

    @property
    def powers(self) -> tuple[float, float]:
        """The ends of the range of powers."""
        return self.lowest, self.highest

    def __call__(self, cosine: Tensor, average: Tensor, value: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
        """See `Rule`: nothing moves."""
        return average, value


POWER_RULES.register("held")(Held())


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
