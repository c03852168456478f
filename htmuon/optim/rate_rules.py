"""How each matrix finds its own learning rate while it trains.

A rule looks at what the last update has done, in the light of the gradient that came after it, and moves a factor of
the learning rate of each matrix parameter. A new rule is one more class here.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.linalg import vecdot

from htmuon._checks import check_number
from htmuon._registry import Registry
from htmuon._typing import Group
from htmuon.layouts import add_up, part
from htmuon.linalg.base import compute_dtype, widest
from htmuon.linalg.parts import PartDict
from htmuon.optim.named import part_of

if TYPE_CHECKING:
    from htmuon.layouts.base import ProcessGroup

# What a rule keeps of a parameter, beside `LAST_UPDATE`: 0-d, float32.
ALIGNMENT, LOG_RATE = "alignment", "log_rate"
LAST_UPDATE = "last_update"

# Elements of the matrices that are multiplied by one call: a copy in the cache costs less than the calls that it saves.
TOGETHER = 2**18


class RateRule(Protocol):
    """Moves the logarithms of the factors."""

    def __call__(self, cosine: Tensor, alignment: Tensor, log_rate: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
        """From the cosines of this step, `[n]`, to the new averages of them and the new logarithms, both `[n]`.

        Args:
            cosine: of the new gradient with the last update of each parameter.
            alignment: the average so far.
            log_rate: the logarithms so far.
            moves: which of them count, `[n]` bool; what is said of the others is not taken.
        """


RATE_RULES: Registry[RateRule] = Registry("rate_rule")
RateRuleChoice = str | PartDict | RateRule | None


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
        """See `RateRule`."""
        alignment = torch.lerp(cosine, alignment, self.averaging)
        mean = torch.where(moves, alignment, 0.0).sum() / moves.sum().clamp(min=1)
        bound = math.log(self.most)
        return alignment, (log_rate + self.speed * (alignment - mean)).clamp(-bound, bound)


RATE_RULES.register("alignment")(Alignment())


def rate_rule_of(choice: RateRuleChoice) -> RateRule | None:
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


def advance_rates(
    rule: RateRule,
    gradients: Sequence[Tensor],
    states: Sequence[dict[str, Tensor]],
    signals: Sequence[Tensor],
    finite: Tensor,
    groups: "Sequence[ProcessGroup]",
) -> None:
    """Move the factors of the parameters that share a rule; nothing moves where the step is not taken.

    Args:
        rule: which.
        gradients: what this rank holds of each.
        states: of each, with the update of the step before.
        signals: of each, flags of its matrices that have a gradient: without any it rests.
        finite: 0-d bool, whether the step is taken.
        groups: of ranks that hold parts of parameters, or copies, which change no cosine.
    """
    device = finite.device
    sums = add_up(_products(gradients, [part(state[LAST_UPDATE]) for state in states]).to(device), groups)
    cosine = sums[:, 0] / (sums[:, 1] * sums[:, 2]).sqrt()
    moves = cosine.isfinite() & torch.stack([flags.any().to(device) for flags in signals]) & finite
    cosine = torch.where(moves, cosine, 0.0).to(torch.float32)
    alignment, log_rate = (torch.stack([state[name].to(device) for state in states]) for name in (ALIGNMENT, LOG_RATE))
    moved = rule(cosine, alignment, log_rate, moves)
    for name, old, new in zip((ALIGNMENT, LOG_RATE), (alignment, log_rate), moved, strict=True):
        kept = torch.where(moves, new, old)
        torch._foreach_copy_([state[name] for state in states], list(kept.unbind()))


def _products(gradients: Sequence[Tensor], lasts: Sequence[Tensor]) -> Tensor:
    """`<G, O>`, `|G|^2` and `|O|^2` of what this rank holds, `[n, 3]`, in float64 where the device has it."""
    alike: dict[tuple[torch.Size, torch.device], list[int]] = defaultdict(list)
    for number, last in enumerate(lasts):
        alike[last.shape, last.device].append(number)
    order, found = [], []
    for numbers in alike.values():
        together = max(1, TOGETHER // max(1, lasts[numbers[0]].numel()))
        for first in range(0, len(numbers), together):
            some = numbers[first : first + together]
            g, o = (_flat([tensors[number] for number in some]) for tensors in (gradients, lasts))
            order += some
            found.append(torch.stack([vecdot(g, o), vecdot(g, g), vecdot(o, o)], dim=-1).to(widest(g.device)))
    rows = torch.cat([sums.to(found[0].device) for sums in found]).unbind()
    # On the host: an index that is copied to an accelerator would make it wait, and could not be captured.
    return torch.stack([row for _, row in sorted(zip(order, rows, strict=True), key=itemgetter(0))])


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    """Equally shaped tensors as rows; one alone is not copied."""
    rows = tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(list(tensors))
    return rows.flatten(1).to(compute_dtype(rows.dtype))
