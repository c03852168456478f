"""A method as people choose it, an object, a name or a dict, and as a parameter group holds it: a name or a plain dict.

Polynomial(levels=8)  <->  {"name": "polynomial", "levels": 8, "precision": None}
Polynomial()          <->  "polynomial"
"""

from htmuon._registry import unknown_name
from htmuon.linalg.base import METHODS, Method
from htmuon.linalg.parts import PartDict, as_dict, is_part, name_of, with_fields

AUTO = "auto"
MethodChoice = str | PartDict | Method


def method_of(choice: MethodChoice) -> Method:
    """The method that a name, a dict or an object stands for.

    Args:
        choice: everything except `auto`, which stands for no one method.

    Raises:
        TypeError: it is none of the three.
        ValueError: the method does not exist, or has no such setting.

    Example:
        >>> method_of({"name": "polynomial", "levels": 8})
        Polynomial(levels=8, precision=None)
    """
    if isinstance(choice, Method):
        return choice
    if not isinstance(choice, str | dict):
        raise TypeError(
            f"method must be a name, a dict or a method; got {choice!r} of type {type(choice).__name__}. "
            "Pass 'auto', or an object such as htmuon.linalg.Polynomial(levels=8)."
        )
    name = choice if isinstance(choice, str) else name_of("method", choice)
    if name not in METHODS:
        raise unknown_name("method", name, [AUTO, *METHODS] if isinstance(choice, str) else list(METHODS))
    return METHODS[name] if isinstance(choice, str) else with_fields("method", METHODS[name], choice)


def method_setting(choice: MethodChoice) -> str | PartDict:
    """A method as a parameter group and a file hold it: its name, or a dict where its settings are not the defaults.

    Args:
        choice: names and dicts stay as they are.

    Raises:
        TypeError: it is no name, dict or method.
        ValueError: the method is not registered.

    Example:
        >>> from htmuon.linalg import Polynomial
        >>> method_setting(Polynomial(levels=8)), method_setting(Polynomial())
        ({'name': 'polynomial', 'levels': 8, 'precision': None}, 'polynomial')
    """
    if isinstance(choice, str | dict):
        return choice
    method = method_of(choice)
    if method.name in METHODS and METHODS[method.name] == method:
        return method.name
    if method.name not in METHODS or type(METHODS[method.name]) is not type(method) or not is_part(method):
        raise ValueError(
            f"a method of an optimizer must be registered, and a dataclass if it has settings, so that it can be saved;"
            f" got {method!r}. Call htmuon.linalg.METHODS.register({method.name!r})(...) first."
        )
    return as_dict(method.name, method)
