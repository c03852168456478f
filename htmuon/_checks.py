"""Settings of any kind: in Python's own types, and checked, with errors that name the requirement and the value."""

import math
from typing import Any

import torch
from torch import Tensor


def plain(value: Any) -> Any:
    """A setting in Python's own types: NumPy's numbers and arrays, 0-d tensors, and these in tuples, lists and dicts.

    A state_dict with others cannot be loaded with `weights_only=True`.

    Example:
        >>> import torch
        >>> plain((torch.tensor(0.5), 3))
        (0.5, 3)
    """
    if value is None or type(value) in (float, int, bool, str):
        return value
    if isinstance(value, dict):
        return {key: plain(of) for key, of in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(map(plain, value)) if type(value) in (tuple, list) else value
    of_numpy = type(value).__module__ == "numpy"
    return value.tolist() if of_numpy or (isinstance(value, Tensor) and value.ndim == 0) else value


def check_text(name: str, value: object) -> None:
    """Raise TypeError unless `value` is a string."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string; got {value!r}.")


def check_flag(name: str, value: object) -> None:
    """Raise TypeError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False; got {value!r} of type {type(value).__name__}.")


def check_whole(name: str, value: object, least: int, most: float = math.inf) -> None:
    """Raise ValueError unless `value` is a whole number from `least` to `most`."""
    if type(value) is not int or not least <= value <= most:
        upper = "" if math.isinf(most) else f" and at most {most}"
        raise ValueError(f"{name} must be a whole number of at least {least}{upper}; got {value!r}.")


def check_real(name: str, value: object, remedy: str = "") -> float:
    """The value, if it is a real number; else raise TypeError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number; got {value!r} of type {type(value).__name__}. {remedy}".rstrip())
    return value


def check_number(
    name: str,
    value: object,
    *,
    least: float = 0.0,
    above: float | None = None,
    most: float = math.inf,
    below: float | None = None,
    remedy: str = "",
) -> None:
    """Raise TypeError or ValueError unless `value` is a finite number within the bounds given.

    Example:
        >>> check_number("lr", -1.0, above=0.0)
        Traceback (most recent call last):
        ValueError: lr must be a finite number greater than 0; got -1.0.
    """
    number = check_real(name, value, remedy)
    inside = least <= number <= most and (above is None or number > above) and (below is None or number < below)
    if not (math.isfinite(number) and inside):
        lower = f"at least {least:g}" if above is None else f"greater than {above:g}"
        upper = "" if math.isinf(most) else f" and at most {most:g}"
        upper = upper if below is None else f" and less than {below:g}"
        raise ValueError(f"{name} must be a finite number {lower}{upper}; got {value!r}. {remedy}".rstrip())


def check_learning_rate(name: str, lr: object, *, wait: bool) -> None:
    """Raise unless a learning rate is valid; one on an accelerator is read only where `wait`."""
    remedy = f"Pass a float such as {3e-4 if name.startswith('adamw') else 0.02}."
    if not isinstance(lr, Tensor):
        check_number(name, lr, remedy=remedy)
        return
    if lr.numel() != 1 or not lr.is_floating_point():
        raise TypeError(
            f"{name} must be a number or a floating-point tensor of one element; got shape {tuple(lr.shape)} and dtype "
            f"{lr.dtype}. {remedy}"
        )
    value = lr.item() if wait and not lr.is_meta else known(lr)
    if value is not None:
        check_number(name, value, remedy=remedy)


def host_may_look(tensor: Tensor) -> bool:
    """Whether reading a value costs nothing: an accelerator would have to be waited for, a compiled graph be broken."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def known(power: float | Tensor | None) -> float | None:
    """The value of an exponent, if it is one for all matrices and the host may look."""
    if isinstance(power, Tensor):
        return power.item() if power.ndim == 0 and host_may_look(power) else None
    return power
