"""A spectral map as people choose it, an object, a name or a dict, and as a parameter group holds it.

A group holds the exponent as its `power`, which a schedule or a user may change, and all else as a name or plain dict:

    Knee(0.125)            <->  "knee" and 0.125
    Knee(0.125, tau=0.02)  <->  {"name": "knee", "tau": 0.02, "sharpness": 4.0} and 0.125
"""

from typing import cast

from torch import Tensor

from htmuon.linalg.parts import PartDict, as_dict, is_part, name_of, with_fields
from htmuon.spectral.base import MAPS, SpectralMap

MapChoice = str | PartDict | SpectralMap
# What a group holds as its power, and what `at` fills in for each matrix.
NOT_IN_DICTS = ("power", "exponent", "shape")


def map_of(choice: MapChoice, power: float | Tensor) -> SpectralMap:
    """The map that a name or a dict stands for, at an exponent; that of an object is replaced.

    Raises:
        TypeError: it is no name, dict or map.
        ValueError: the map does not exist, has no such setting, or not this exponent.

    Example:
        >>> map_of({"name": "knee", "tau": 0.02}, 0.125)
        Knee(exponent=0.125, tau=0.02, sharpness=4.0, shape=None)
    """
    setting = map_setting(choice)
    if isinstance(setting, str):
        return MAPS[setting](power)
    usual = MAPS[name_of("spectral_map", setting)](power)
    return with_fields("spectral_map", usual, setting, NOT_IN_DICTS)


def map_setting(choice: MapChoice) -> str | PartDict:
    """A map without its exponent as a parameter group and a file hold it: a name, or a dict.

    Args:
        choice: names and dicts stay as they are.

    Raises:
        TypeError: it is no name, dict or map.
        ValueError: the map is not registered.

    Example:
        >>> from htmuon.spectral import Knee, Quantile
        >>> map_setting(Knee(0.125)), map_setting(Knee(0.125, tau=Quantile(0.5)))
        ('knee', {'name': 'knee', 'tau': {'share': 0.5}, 'sharpness': 4.0})
    """
    if isinstance(choice, str | dict):
        return choice
    name, power = _registered_name(choice), exponent(choice)
    setting = as_dict(name, choice, NOT_IN_DICTS)
    usual = MAPS[name](0.0 if power is None else power)
    return name if is_part(usual) and as_dict(name, usual, NOT_IN_DICTS) == setting else setting


def any_map(name: str) -> SpectralMap:
    """A registered map at an exponent that it has: some have no free one.

    Example:
        >>> any_map("knee").power is None, any_map("soren").power is None
        (True, True)
    """
    for power in (1.0, 0.0):
        try:
            return MAPS[name](power)
        except ValueError as error:
            refused = error
    raise refused


def exponent(function: SpectralMap) -> float | Tensor | None:
    """The exponent that a parameter group holds as its `power`; of published maps that of their weak directions.

    Example:
        >>> from htmuon.spectral import Clip, Knee
        >>> exponent(Knee(0.125)), exponent(Clip())
        (0.125, 1.0)
    """
    return cast("float | Tensor | None", getattr(function, "exponent", function.power))


def _registered_name(function: object) -> str:
    if isinstance(function, type) or not hasattr(function, "at"):
        raise TypeError(
            f"spectral_map must be a name, a dict or a map; got {function!r} of type {type(function).__name__}. "
            "Pass 'power', or an object such as htmuon.spectral.Knee(0.125)."
        )
    kind: object = type(function)
    own = [name for name, factory in MAPS.items() if factory is kind]
    name = own[0] if own else getattr(function, "name", None)
    if name not in MAPS or not is_part(function):
        raise ValueError(
            f"a map of an optimizer must be registered by name, so that it can be saved; got {function!r}. Register a "
            "function of the power that returns it, @htmuon.spectral.MAPS.register('mine'), and pass "
            "spectral_map='mine'."
        )
    return str(name)
