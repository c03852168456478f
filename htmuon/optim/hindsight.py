"""What the next gradient says of the last update, and the numbers of each matrix that rules move by it.

With G a gradient from fresh data, O the update before it and M the momentum then, G is compared

- with O: does more of the same still lead downhill? A *rate rule* moves the learning rate of each matrix by it.
- with what M has beside O: M weighs the strong directions more than O does, so do they deserve more weight? A *power
  rule* moves the exponent of each matrix by it.
"""

import math
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
from htmuon.spectral.base import POWER_RANGE

if TYPE_CHECKING:
    from htmuon.layouts.base import ProcessGroup

# What rules keep of a parameter: the update, and numbers, 0-d and float32.
LAST_UPDATE = "last_update"
ALIGNMENT, LOG_RATE = "alignment", "log_rate"
POWER_ALIGNMENT, POWER = "power_alignment", "power"

# Elements of the matrices that are multiplied by one call: on a CPU their copies stay in the cache of a core, on an
# accelerator a call costs more than copies.
TOGETHER, TOGETHER_ON_ACCELERATORS = 2**16, 2**24
# Of the square of M's length the share beside O, below which that is rounding: of sums in float32, and of narrow state.
PARALLEL, ROUNDINGS = 1e-6, 4.0


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


def along(correlation: Tensor, parallel: float = 0.0) -> Tensor:
    """The cosine of G with O; see `aside`."""
    return correlation[:, 0, 1]


def aside(correlation: Tensor, parallel: float = 0.0) -> Tensor:
    """The cosine of G with `M / |M| - <M, O> / (|M| |O|^2) O`, which is M without what it shares with O.

    Args:
        correlation: of G, O and M, `[n, 3, 3]`.
        parallel: the share of the square of M's length below which what is left is rounding; the result is NaN.

    Example:
        >>> g, o, m = torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])
        >>> rows = torch.nn.functional.normalize(torch.stack([g, o, m]), dim=-1)
        >>> round(aside((rows @ rows.mT)[None]).item(), 4)
        0.7071
    """
    gradient_update, gradient_momentum, update_momentum = (
        correlation[:, one, other] for one, other in ((0, 1), (0, 2), (1, 2))
    )
    rest = 1 - update_momentum.square()
    cosine = (gradient_momentum - update_momentum * gradient_update) / rest.sqrt()
    return torch.where(rest > parallel, cosine, torch.nan)


class Followed(NamedTuple):
    """A number of each matrix.

    Attributes:
        rules: that move it; their kind is the setting of a group that names one.
        average: the name in the state of the average of cosines.
        value: that of the number.
        direction: the cosine, from correlations of G, O and M, `[n, 3, 3]`, and the share that is rounding.
        most: what no rule takes its magnitude beyond.
    """

    rules: Registry[Rule]
    average: str
    value: str
    direction: Callable[[Tensor, float], Tensor]
    most: float

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


RATES = Followed(RATE_RULES, ALIGNMENT, LOG_RATE, along, math.inf)
POWERS = Followed(POWER_RULES, POWER_ALIGNMENT, POWER, aside, max(POWER_RANGE))
FOLLOWED = (RATES, POWERS)
NUMBERS = tuple(name for followed in FOLLOWED for name in (followed.average, followed.value))


def numbers(group: Group) -> tuple[str, ...]:
    """The numbers that a parameter of a group has.

    Example:
        >>> numbers({"rate_rule": None, "power_rule": "alignment"})
        ('power_alignment', 'power')
        >>> numbers({"rate_rule": None, "power_rule": "held"})
        ('power',)
    """
    ruled = [f for f in FOLLOWED if group[f.setting] is not None]
    return tuple(name for f in ruled for name in ((f.average, f.value) if f.looks_back(group) else (f.value,)))


def started(name: str, group: Group, device: torch.device) -> Tensor:
    """A number before the first step: a power is that of its group, all others are zero."""
    zero = torch.zeros((), dtype=torch.float32, device=device)
    return zero.add_(group["power"]) if name == POWER else zero


def looks_back(group: Group) -> bool:
    """Whether the parameters of a group need their last update."""
    return any(followed.looks_back(group) for followed in FOLLOWED)


@dataclass(frozen=True)
class Candidate:
    """A parameter with a gradient.

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


def advance(candidates: Sequence[Candidate], finite: Tensor, groups: "Sequence[ProcessGroup]") -> None:
    """Move the numbers of all parameters whose rules look back; nothing moves where the step is not taken.

    What a rule makes infinite or NaN stays as it was.

    Args:
        candidates: parameters of which each has such a rule of some kind.
        finite: 0-d bool, whether the step is taken.
        groups: of ranks that hold parts of parameters, or copies, which change no cosine.
    """
    device = finite.device
    kept = [LAST_UPDATE, *([MOMENTUM] if any(POWERS.looks_back(of.group) for of in candidates) else [])]
    vectors = [[of.gradient, *(part(of.state[name]) for name in kept)] for of in candidates]
    correlation = _correlation(add_up(_gram(vectors).to(device), groups))
    narrowest = max(torch.finfo(of.state[LAST_UPDATE].dtype).eps for of in candidates)
    parallel = max(PARALLEL, ROUNDINGS * narrowest**2)
    active = torch.stack([of.flags.any().to(device) for of in candidates]) & finite
    for followed in FOLLOWED:
        for choice in _different(of.group[followed.setting] for of in candidates if followed.looks_back(of.group)):
            places = [place for place, of in enumerate(candidates) if of.group[followed.setting] == choice]
            states = [candidates[place].state for place in places]
            cosine = followed.direction(take(correlation, places), parallel)
            moves = take(active, places) & cosine.isfinite()
            cosine = torch.where(moves, cosine, 0.0).to(torch.float32)
            names = (followed.average, followed.value)
            average, value = (torch.stack([state[name].to(device) for state in states]) for name in names)
            moved = part_of(followed.rules, choice)(cosine, average, value, moves)
            moves = moves & moved[0].isfinite() & moved[1].isfinite()
            for name, before, after in zip(names, (average, value), moved, strict=True):
                new = torch.where(moves, after.clamp(-followed.most, followed.most), before)
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
    """Inner products of what this rank has of each parameter, `[n, count, count]`, in float32 or wider.

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
