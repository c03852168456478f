"""Methods, spectral maps and splits that are given as objects: what a group holds of them, and whose power counts.

A group holds a name or a plain dict, and the exponent of a map as its `power`: one that is edited later, or that a
schedule writes, makes the map again with that exponent.
"""

from torch import Tensor

from htmuon._checks import plain
from htmuon._typing import Group
from htmuon.linalg import method_setting
from htmuon.optim.hindsight import POWER_RULES, RATE_RULES
from htmuon.optim.momentum_rules import MOMENTUM_RULES
from htmuon.optim.named import setting_of
from htmuon.optim.weight_updates import WEIGHT_UPDATES
from htmuon.routing.split import split_setting
from htmuon.spectral import map_setting
from htmuon.spectral.choice import exponent


def without_objects(group: Group) -> Group:
    """The method, the split and the map of a group as they are stored."""
    stored: Group = {"method": method_setting(group["method"])} if "method" in group else {}
    for registry in (RATE_RULES, POWER_RULES, MOMENTUM_RULES, WEIGHT_UPDATES):
        if group.get(registry.kind) is not None:
            stored[registry.kind] = setting_of(registry, group[registry.kind])
    if "split" in group:
        stored["split"] = split_setting(group["split"])
    if "spectral_map" in group:
        stored["spectral_map"] = map_setting(group["spectral_map"])
        power = _own_power(group)
        stored |= {} if power is None else {"power": power}
    return stored


def _own_power(group: Group) -> float | Tensor | None:
    """The exponent of a map that is an object; None where a group has a name or a dict, or the object has none."""
    function = group.get("spectral_map")
    return None if function is None or isinstance(function, str | dict) else exponent(function)


def check_one_power(group: Group, usual: object = None) -> None:
    """Raise ValueError if a map that is an object has another exponent than the power that is given with it.

    Args:
        group: settings as they are given.
        usual: the default of `power`, which counts as not given.
    """
    map_setting(group.get("spectral_map", "power"))  # raises where it is none
    own = _own_power(group)
    if own is not None and "power" in group and plain(group["power"]) not in (usual, plain(own)):
        raise ValueError(
            f"power must be that of the spectral map, {plain(own)}, or be left out; got power={group['power']!r} with "
            f"spectral_map={group['spectral_map']!r}. Leave power out: the map holds it."
        )
