"""What is said where an optimizer is called with an argument that it has not, or without one that it needs."""

from collections.abc import Callable
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, signature
from typing import ParamSpec, TypeVar

from htmuon.routing.routing import param_groups

P = ParamSpec("P")
T = TypeVar("T")

# Arguments of other libraries, and what to do here.
ELSEWHERE = {
    "betas": "AdamW's are adamw_betas=(0.9, 0.95), and that of the matrices is momentum=0.95.",
    "ns_steps": "Pass method=htmuon.linalg.NewtonSchulz(coefficients=...), a row for each step.",
    "ns_coefficients": "Pass method=htmuon.linalg.NewtonSchulz(coefficients=...).",
    "maximize": "Negate the loss, and leave it out.",
    "model": "Pass htmuon.param_groups(model), or call for_model(model, lr=..., adamw_lr=...).",
}
# What is said of one that is missing.
NEEDED = {
    "params": "Pass htmuon.param_groups(model), or call {name}.for_model(model, lr=..., adamw_lr=...).",
    "model": "Pass the model that is trained.",
    "lr": "lr is the learning rate of the matrices.",
    "adamw_lr": "adamw_lr is the learning rate of all other parameters: pass adamw_lr=3e-3, say.",
}


def explained(function: Callable[P, T]) -> Callable[P, T]:
    """A decorator of a constructor or a class method: arguments that are unknown or missing are said with a remedy.

    The error names the class that was called, also where that inherits the function.

    Raises:
        TypeError: in place of Python's own.

    Example:
        >>> import torch, htmuon
        >>> htmuon.Muon.for_model(torch.nn.Linear(4, 4), lr=0.02)
        Traceback (most recent call last):
        TypeError: Muon.for_model(...) must be given adamw_lr. adamw_lr is the learning rate of all other parameters: \
pass adamw_lr=3e-3, say.
    """
    _, *parameters = signature(function).parameters.values()
    names = [p.name for p in parameters if p.kind is not Parameter.VAR_KEYWORD]
    positional = [p.name for p in parameters if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
    needed = [p.name for p in parameters if p.name in names and p.default is Parameter.empty]

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        name = args[0].__name__ if isinstance(args[0], type) else type(args[0]).__name__
        who = name if function.__name__ == "__init__" else f"{name}.{function.__name__}"
        unknown = next((key for key in kwargs if key not in names), None) if len(names) == len(parameters) else None
        if unknown is not None:
            raise TypeError(f"{who}(...) takes no argument {unknown!r}. {_remedy(unknown, names)}")
        missing = [key for key in needed if key not in {*kwargs, *positional[: len(args) - 1]}]
        if missing:
            remedies = " ".join(NEEDED[key].format(name=name) for key in missing if key in NEEDED)
            raise TypeError(f"{who}(...) must be given {' and '.join(missing)}. {remedies}".rstrip())
        return function(*args, **kwargs)

    return called


def _remedy(unknown: str, names: list[str]) -> str:
    """What to do in place of an argument that is unknown."""
    if unknown in ELSEWHERE:
        return ELSEWHERE[unknown]
    if unknown in signature(param_groups).parameters:
        return f"Pass it to htmuon.param_groups(model, {unknown}=...), or to for_model, which makes these groups."
    near = get_close_matches(unknown, names, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"It takes {', '.join(names)}."
