"""How weights take an update: what decays, and what keeps its size. A new way is one more class here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from htmuon._registry import Registry
from htmuon._typing import Group
from htmuon.linalg.base import safe_divisor
from htmuon.linalg.parts import PartDict

# A larger decay at each step is meant as that of `decoupled`, and would end the weights.
MOST_INDEPENDENT = 0.01
# Adds numbers up over the ranks that hold parts of the same parameters.
Total = Callable[[Tensor], Tensor]


class WeightUpdate(Protocol):
    """Moves equally shaped weights by their updates.

    One that has the attribute `ignores`, a dict, is said to have no use for these settings of a group, except for the
    values in it; one with `keeps_zero` cannot move weights that are zero. Both are warned of when a group is made.
    """

    def __call__(self, weight: Tensor, update: Tensor, rate: float | Tensor, group: Group, total: Total) -> None:
        """Change `weight`, `[stack, *part]` in float32 or wider, in place.

        Args:
            weight: what this rank holds of each.
            update: O of each, scaled.
            rate: the learning rate; a tensor broadcasts, and is 0 for a matrix that rests, which must stay as it is.
            group: with `weight_decay`.
            total: adds numbers of the parts up to those of the whole.
        """


WEIGHT_UPDATES: Registry[WeightUpdate] = Registry("weight_update")
WeightUpdateChoice = str | PartDict | WeightUpdate


def descend(weight: Tensor, update: Tensor, rate: float | Tensor) -> Tensor:
    """`weight - rate update`, in place."""
    if isinstance(rate, Tensor):
        return weight.addcmul_(update, rate, value=-1)
    return weight.add_(update, alpha=-rate)


@dataclass(frozen=True)
class Decoupled:
    """`W <- (1 - lr weight_decay) W - lr O`, as AdamW decays."""

    def __call__(self, weight: Tensor, update: Tensor, rate: float | Tensor, group: Group, total: Total) -> None:
        """See `WeightUpdate`."""
        descend(weight.mul_(1 - rate * group["weight_decay"]), update, rate)


@dataclass(frozen=True)
class Cautious:
    """`W <- W - lr (weight_decay W [W O > 0] + O)`: only weights decay that the update makes smaller anyway.

    Source: Chen et al., Cautious Weight Decay, arXiv 2510.12402.
    """

    def __call__(self, weight: Tensor, update: Tensor, rate: float | Tensor, group: Group, total: Total) -> None:
        """See `WeightUpdate`."""
        shrinking = torch.where(weight * update > 0, weight, 0.0)
        descend(descend(weight, shrinking, rate * group["weight_decay"]), update, rate)


@dataclass(frozen=True)
class Independent:
    """`W <- (1 - f weight_decay) W - lr O` with `f = lr / initial_lr`: the decay follows the schedule, not the rate.

    torch's schedulers keep `initial_lr` in each group; without one f is 1. The factor of a rate rule is not in it.
    `weight_decay` is the share of the weights that goes at each step, at most `MOST_INDEPENDENT`: about that of
    `decoupled` times the learning rate.

    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, arXiv 1711.05101.
    """

    def __call__(self, weight: Tensor, update: Tensor, rate: float | Tensor, group: Group, total: Total) -> None:
        """See `WeightUpdate`."""
        lr, peak = group["lr"], group.get("initial_lr", group["lr"])
        share = lr / (torch.where(peak == 0, 1.0, peak) if isinstance(peak, Tensor) else peak or 1.0)
        # Nothing of a matrix that rests, whose rate is zero.
        descend(weight.mul_(1 - (rate != 0) * share * group["weight_decay"]), update, rate)


@dataclass(frozen=True)
class Hyperball:
    """`W <- |W| V / |V|` with `V = W - lr |W| O / |O|`: weights keep their Frobenius norm, steps are relative to it.

    The norms are those of all matrices of a parameter that move. `weight_decay` and the scale of the update have no
    meaning; the learning rate is the length of a step in units of the weights. A parameter that is zero stays zero: not
    for weights that start there, as the last ones of residual branches and of adapters do. Weights in bfloat16 keep
    their norm up to its rounding in each step, which adds up to about half a percent in a thousand.

    Source: Wen et al., Hyperball Optimization, arXiv 2606.16899.
    """

    ignores: ClassVar[dict[str, tuple[object, ...]]] = {"weight_decay": (0.0,), "adjust_lr_fn": (None, "none")}
    keeps_zero: ClassVar[bool] = True

    def __call__(self, weight: Tensor, update: Tensor, rate: float | Tensor, group: Group, total: Total) -> None:
        """See `WeightUpdate`."""
        moves = rate != 0 if isinstance(rate, Tensor) else True
        of_weight, of_update = total(torch.stack([_squares(weight * moves), _squares(update * moves)])).unbind()
        length = (of_weight / safe_divisor(of_update)).sqrt()
        descend(weight, update, _like(length, weight) * rate)
        norm = safe_divisor(total(_squares(weight * moves)))
        growth = _like((of_weight / norm).sqrt(), weight)
        weight.mul_(torch.where(moves, growth, 1.0) if isinstance(moves, Tensor) else growth)


def _squares(stack: Tensor) -> Tensor:
    """The sum of squares of each member of a stack, `[stack]`."""
    return stack.flatten(1).square().sum(1)


def _like(numbers: Tensor, stack: Tensor) -> Tensor:
    """`[stack]` so that it broadcasts against a stack."""
    return numbers.view(-1, *(1,) * (stack.ndim - 1))


WEIGHT_UPDATES.register("decoupled")(Decoupled())
WEIGHT_UPDATES.register("cautious")(Cautious())
WEIGHT_UPDATES.register("independent")(Independent())
WEIGHT_UPDATES.register("hyperball")(Hyperball())
