"""Checks of single settings, with errors that name the requirement and the value."""

import math


def check_text(name: str, value: object) -> None:
    """Raise TypeError unless `value` is a string."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string; got {value!r}.")


def check_whole(name: str, value: object, least: int, most: float = math.inf) -> None:
    """Raise ValueError unless `value` is a whole number from `least` to `most`."""
    if type(value) is not int or not least <= value <= most:
        upper = "" if math.isinf(most) else f" and at most {most}"
        raise ValueError(f"{name} must be a whole number of at least {least}{upper}; got {value!r}.")


def check_number(
    name: str, value: object, *, above: float | None = None, most: float = math.inf, below: float | None = None
) -> None:
    """Raise ValueError unless `value` is a finite number of at least 0 within the bounds given.

    Example:
        >>> check_number("lr", -1.0, above=0.0)
        Traceback (most recent call last):
        ValueError: lr must be a finite number greater than 0; got -1.0.
    """
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    inside = 0 <= number <= most and (above is None or number > above) and (below is None or number < below)
    if not (math.isfinite(number) and inside):
        lower = "at least 0" if above is None else f"greater than {above:g}"
        upper = "" if math.isinf(most) else f" and at most {most:g}"
        upper = upper if below is None else f" and less than {below:g}"
        raise ValueError(f"{name} must be a finite number {lower}{upper}; got {value!r}.")
