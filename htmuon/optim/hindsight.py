"""What the next gradient says of the last update, and the numbers of each matrix that rules move by it.

With G a gradient from fresh data, O the update before it and M the momentum of which O was made, G is compared

- with O: does more of the same still lead downhill? A *rate rule* moves the learning rate of each matrix by it.
- with what M has beside O: M weighs the strong directions more than O does, so do they deserve more weight? A *power
  rule* moves the exponent of each matrix by it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from htmuon._registry import Registry
from htmuon._typing import Group, State
from htmuon.layouts import add_up, part
from htmuon.layouts.payload import take
from htmuon.linalg.base import compute_dtype, widest
from htmuon.optim.momentum_rules import MOMENTUM
from htmuon.optim.named import part_of

if TYPE_CHECKING:
    from htmuon.layouts.base import ProcessGroup

# What rules keep of a parameter: the update, and numbers, 0-d and float32.
LAST_UPDATE = "last_update"
ALIGNMENT, LOG_RATE = "alignment", "log_rate"
POWER_ALIGNMENT, POWER = "power_alignment", "power"

# Elements of the matrices that are multiplied by one call: on a CPU their copies stay in the cache of a core, on an
# accelerator a call costs more than copies.
TOGETHER, TOGETHER_ON_ACCELERATORS = 2**16, 2**24
# Of the square of M's length the share beside O, below which that is rounding.
PARALLEL = 1e-6


class Rule(Protocol):
    """Moves a number of each matrix."""

    def __call__(self, cosine: Tensor, average: Tensor, value: Tensor, moves: Tensor, /) -> tuple[Tensor, Tensor]:
        """From the cosines of this step, `[n]`, to the new averages of them and the new numbers, both `[n]`.

        Args:
            cosine: of the new gradient with the direction that the number stands for.
            average: of cosines so far.
            value: the numbers so far.
            moves: which of them count, `[n]` bool; what is said of the others is not taken.
        """


RATE_RULES: Registry[Rule] = Registry("rate_rule")
POWER_RULES: Registry[Rule] = Registry("power_rule")


def along(correlation: Tensor) -> Tensor:
    """The cosine of G with O."""
    return correlation[:, 0, 1]


def beside(correlation: Tensor) -> Tensor:
    """The cosine of G with `M / |M| - <M, O> / (|M| |O|^2) O`, which is M without what it shares with O.

    Example:
        >>> g, o, m = torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])
        >>> rows = torch.nn.functional.normalize(torch.stack([g, o, m]), dim=-1)
        >>> round(beside((rows @ rows.mT)[None]).item(), 4)
        0.7071
    """
    gradient_update, gradient_momentum, update_momentum = (
        correlation[:, one, other] for one, other in ((0, 1), (0, 2), (1, 2))
    )
    rest = 1 - update_momentum.square()
    cosine = (gradient_momentum - update_momentum * gradient_update) / rest.sqrt()
    return torch.where(rest > PARALLEL, cosine, torch.nan)


class Followed(NamedTuple):
    """A number of each matrix.

    Attributes:
        rules: that move it; their kind is the setting of a group that names one.
        average: the name in the state of the average of cosines.
        value: that of the number.
        direction: the cosine, from correlations of G, O and M, `[n, 3, 3]`.
    """

    rules: Registry[Rule]
    average: str
    value: str
    direction: Callable[[Tensor], Tensor]

    @property
    def setting(self) -> str:
        """Of a group: which rule it has, or None."""
        return self.rules.kind

    def looks_back(self, group: Group) -> bool:
        """Whether a group has a rule that compares gradients with the last update: all do that don't say otherwise."""
        choice = group[self.setting]
        if choice is None:
            return False
        rule = self.rules[choice["name"]] if isinstance(choice, dict) else part_of(self.rules, choice)
        return getattr(rule, "looks_back", True)


RATES = Followed(RATE_RULES, ALIGNMENT, LOG_RATE, along)
POWERS = Followed(POWER_RULES, POWER_ALIGNMENT, POWER, beside)
FOLLOWED = (RATES, POWERS)
NUMBERS = tuple(name for followed in FOLLOWED for name in (followed.average, followed.value))


def numbers(group: Group) -> dict[str, float]:
    """The numbers that a parameter of a group has, with what they start at.

    Example:
        >>> numbers({"rate_rule": None, "power_rule": "alignment", "power": 0.125})
        {'power_alignment': 0.0, 'power': 0.125}
        >>> numbers({"rate_rule": None, "power_rule": "held", "power": 0.125})
        {'power': 0.125}
    """
    ruled = [f for f in FOLLOWED if group[f.setting] is not None]
    names = [name for f in ruled for name in ((f.average, f.value) if f.looks_back(group) else (f.value,))]
    return {name: float(group["power"]) if name == POWER else 0.0 for name in names}


def looks_back(group: Group) -> bool:
    """Whether the parameters of a group need their last update."""
    return any(followed.looks_back(group) for followed in FOLLOWED)


@dataclass(frozen=True)
class Seen:
    """A parameter with a gradient now and an update before.

    Attributes:
        group: its settings.
        gradient: what this rank holds of it.
        state: of the parameter.
        flags: of its matrices that have a gradient: without any it rests.
    """

    group: Group
    gradient: Tensor
    state: State
    flags: Tensor


def advance(seen: Sequence[Seen], finite: Tensor, groups: "Sequence[ProcessGroup]") -> None:
    """Move the numbers of all parameters whose rules look back; nothing moves where the step is not taken.

    Args:
        seen: parameters of which each has such a rule of some kind.
        finite: 0-d bool, whether the step is taken.
        groups: of ranks that hold parts of parameters, or copies, which change no cosine.
    """
    device = finite.device
    kept = [LAST_UPDATE, *([MOMENTUM] if any(POWERS.looks_back(of.group) for of in seen) else [])]
    vectors = [[of.gradient, *(part(of.state[name]) for name in kept)] for of in seen]
    correlation = _correlation(add_up(_gram(vectors).to(device), groups))
    active = torch.stack([of.flags.any().to(device) for of in seen]) & finite
    for followed in FOLLOWED:
        for choice in _different(of.group[followed.setting] for of in seen if followed.looks_back(of.group)):
            places = [place for place, of in enumerate(seen) if of.group[followed.setting] == choice]
            states = [seen[place].state for place in places]
            cosine = followed.direction(take(correlation, places))
            moves = take(active, places) & cosine.isfinite()
            cosine = torch.where(moves, cosine, 0.0).to(torch.float32)
            names = (followed.average, followed.value)
            average, value = (torch.stack([state[name].to(device) for state in states]) for name in names)
            moved = part_of(followed.rules, choice)(cosine, average, value, moves)
            for name, before, after in zip(names, (average, value), moved, strict=True):
                new = torch.where(moves, after, before)
                torch._foreach_copy_([state[name] for state in states], list(new.unbind()))


def _different(choices: Iterable[object]) -> list[object]:
    """Each rule once, which may be a name or a dict."""
    found: list[object] = []
    for choice in choices:
        if choice not in found:
            found.append(choice)
    return found


def _correlation(gram: Tensor) -> Tensor:
    """Inner products of vectors of length one, `[n, count, count]`, from those of any vectors."""
    length = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    return gram / (length.unsqueeze(-1) * length.unsqueeze(-2))


def _gram(vectors: Sequence[Sequence[Tensor]]) -> Tensor:
    """Inner products of what this rank has of each parameter, `[n, count, count]`, float64 where the device has that.

    Args:
        vectors: of each parameter, `[n][count]`.
    """
    alike: dict[tuple[torch.Size, torch.device], list[int]] = defaultdict(list)
    for number, (first, *_) in enumerate(vectors):
        alike[first.shape, first.device].append(number)
    order, found = [], []
    for all_alike in alike.values():
        first = vectors[all_alike[0]][0]
        most = TOGETHER if first.device.type == "cpu" else TOGETHER_ON_ACCELERATORS
        together = max(1, most // max(1, first.numel()))
        for start in range(0, len(all_alike), together):
            some = all_alike[start : start + together]
            order += some
            found.append(_products([vectors[number] for number in some]))
    grams = torch.cat([of_some.to(found[0].device) for of_some in found]).unbind()
    # On the host: an index that is copied to an accelerator would make it wait, and could not be captured.
    return torch.stack([gram for _, gram in sorted(zip(order, grams, strict=True), key=itemgetter(0))])


def _products(vectors: Sequence[Sequence[Tensor]]) -> Tensor:
    """The same for a few that have one shape: several as a stack, one alone without a copy."""
    first, count = vectors[0][0], len(vectors[0])
    flat = [vector.reshape(-1).to(compute_dtype(first.dtype)) for of_one in vectors for vector in of_one]
    if len(vectors) > 1:
        rows = torch.stack(flat).view(len(vectors), count, -1)
        return torch.bmm(rows, rows.mT).to(widest(first.device))
    # Not by vecdot, which makes all products before it adds them up: five times as long on a CPU.
    dots = {(i, j): torch.dot(flat[i], flat[j]) for i in range(count) for j in range(i, count)}
    entries = [dots[min(i, j), max(i, j)] for i in range(count) for j in range(count)]
    return torch.stack(entries).view(1, count, count).to(widest(first.device))
