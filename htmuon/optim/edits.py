"""What users, schedulers and trainers write into the groups between two steps."""

import copy
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from htmuon._typing import Group
from htmuon._warnings import warn


@dataclass(frozen=True)
class Seen:
    """What a step has seen of a group, for the next one to tell what was edited.

    `OneCycleLR` and `CyclicLR` cycle `betas[0]` in every group of an optimizer that has betas, and trainers log it; so
    in a group of matrices it is the momentum, whichever of the two is edited.

    Attributes:
        momentum: of the group.
        matrices: what says which matrices its parameters are.
        power: at which matrices start that have a rule for it.
    """

    momentum: float
    matrices: tuple[Any, ...]
    power: object

    @classmethod
    def of(cls, group: Group) -> "Seen":
        """What there is to see; `betas[0]` becomes the momentum."""
        if group["use_muon"] and _is_pair(group["betas"]) and group["betas"][0] != group["momentum"]:
            group["betas"] = (group["momentum"], group["betas"][1])
        return cls(group["momentum"], _matrices(group), group["power"])

    def follow(self, group: Group) -> "Seen":
        """Take the momentum from `betas[0]` where that alone was edited; what has then been seen.

        A `matrix_view` or `split` that was edited is still to be checked.
        """
        if group["use_muon"] and _is_pair(group["betas"]) and group["momentum"] == self.momentum:
            group["momentum"] = group["betas"][0]
        return replace(self, momentum=Seen.of(group).momentum)

    def warn_of_power(self, group: Group) -> None:
        """Warn if a power was edited that its matrices have left behind."""
        if group["power_rule"] is not None and isinstance(group["power"], float) and group["power"] != self.power:
            warn(
                f"power={group['power']!r} of a group has no effect on matrices that a power_rule moves: they start "
                'at it. Set optimizer.state[p]["power"] of each, or power_rule=None for one power.'
            )

    def has_other_matrices(self, group: Group) -> bool:
        """Whether what its parameters are was edited, so that they must be checked again."""
        return self.matrices != _matrices(group)


def _matrices(group: Group) -> tuple[Any, ...]:
    return group["use_muon"], group["matrix_view"], copy.deepcopy(group["split"])  # a list or a dict, edited in place


def _is_pair(betas: object) -> TypeGuard[tuple[Any, Any]]:
    """Whether it is one; what is none is refused by its check."""
    return isinstance(betas, tuple | list) and len(betas) == 2
