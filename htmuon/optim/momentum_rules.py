"""What a step remembers of the gradients before it. A new way is one more class here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from htmuon._checks import check_number
from htmuon._registry import Registry
from htmuon._typing import Group
from htmuon.linalg.parts import PartDict

# The buffer that every rule keeps, and that of a second average.
MOMENTUM, SLOW = "momentum_buffer", "slow_momentum_buffer"


class MomentumRule(Protocol):
    """Advances the buffers of equally shaped matrices and makes a direction of them.

    Attributes:
        buffers: names in the state, `momentum_buffer` first; each has the shape of the parameter.

    One that has the attribute `ignores`, a dict, is said to have no use for these settings of a group, except for the
    values in it, as a warning says when the group is made.
    """

    buffers: ClassVar[tuple[str, ...]]

    def __call__(
        self, buffers: Sequence[Tensor], gradient: Tensor, moves: float | Tensor, group: Group, out: Tensor
    ) -> None:
        """Change the buffers in place and write the direction to `out`; all are `[stack, *part]`.

        Args:
            buffers: in the order of the names.
            gradient: zero for matrices that rest.
            moves: 1 for matrices that move, 0 for those that rest, whose buffers stay; it broadcasts.
            group: with `momentum` and `nesterov`.
            out: for the direction, unused for those that rest.
        """


MOMENTUM_RULES: Registry[MomentumRule] = Registry("momentum_rule")
MomentumRuleChoice = str | PartDict | MomentumRule


@dataclass(frozen=True)
class Average:
    """An exponential moving average: `M <- beta M + (1 - beta) G`; Nesterov's direction is `beta M + (1 - beta) G`."""

    buffers: ClassVar[tuple[str, ...]] = (MOMENTUM,)

    def __call__(
        self, buffers: Sequence[Tensor], gradient: Tensor, moves: float | Tensor, group: Group, out: Tensor
    ) -> None:
        """See `MomentumRule`."""
        [momentum], beta = buffers, group["momentum"]
        momentum.lerp_(gradient, (1 - beta) * moves)
        if group["nesterov"]:
            torch.lerp(gradient, momentum, beta, out=out)
        else:
            out.copy_(momentum)


@dataclass(frozen=True)
class Sum:
    """The sum of SGD: `M <- beta M + G`; Nesterov's direction is `beta M + G`.

    It is `1 / (1 - beta)` times the average, which is nothing at p = 0, and at other powers a larger update where the
    normalization leaves the scale in.
    """

    buffers: ClassVar[tuple[str, ...]] = (MOMENTUM,)

    def __call__(
        self, buffers: Sequence[Tensor], gradient: Tensor, moves: float | Tensor, group: Group, out: Tensor
    ) -> None:
        """See `MomentumRule`."""
        [momentum], beta = buffers, group["momentum"]
        momentum.mul_(1 - (1 - beta) * moves).add_(gradient)
        if group["nesterov"]:
            torch.add(gradient, momentum, alpha=beta, out=out)
        else:
            out.copy_(momentum)


@dataclass(frozen=True)
class TwoAverages:
    """A fast and a slow average together: `(1 - share) F + share S`, each `<- beta M + (1 - beta) G` at its own beta.

    The fast one stands in `momentum_buffer`. `momentum` and `nesterov` of the group have no meaning.

    Args:
        fast: beta of the fast average, in [0, 1).
        slow: that of the slow one.
        share: of the slow one in the direction, in [0, 1].

    Raises:
        TypeError: a setting is no number.
        ValueError: a setting is out of range.

    Source: the speed runs of nanoGPT (modded-nanogpt, pull request 340), whose numbers are the defaults.
    """

    buffers: ClassVar[tuple[str, ...]] = (MOMENTUM, SLOW)
    ignores: ClassVar[dict[str, tuple[object, ...]]] = {"momentum": (), "nesterov": (False,)}
    fast: float = 0.85
    slow: float = 0.98
    share: float = 0.56

    def __post_init__(self) -> None:
        for name in ("fast", "slow"):
            check_number(name, getattr(self, name), below=1.0, remedy="Pass a float such as 0.9.")
        check_number("share", self.share, most=1.0, remedy="Pass a float such as 0.5.")

    def __call__(
        self, buffers: Sequence[Tensor], gradient: Tensor, moves: float | Tensor, group: Group, out: Tensor
    ) -> None:
        """See `MomentumRule`."""
        fast, slow = buffers
        fast.lerp_(gradient, (1 - self.fast) * moves)
        slow.lerp_(gradient, (1 - self.slow) * moves)
        torch.lerp(fast, slow, self.share, out=out)


MOMENTUM_RULES.register("average")(Average())
MOMENTUM_RULES.register("sum")(Sum())
MOMENTUM_RULES.register("two_averages")(TwoAverages())
