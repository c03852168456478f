"""What a monitor looks at: the optimizer inside its wrappers, and the parameters that this optimizer has now."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from htmuon.analysis.hidden import HiddenMatrix, check_whole
from htmuon.optim.roles import unwrapped

# Under these names libraries keep the optimizer that they wrap: accelerate and DeepSpeed, SAM and its kin,
# schedule-free, pytorch_optimizer, Opacus, Lightning.
_INNER = ("optimizer", "base_optimizer", "base", "original_optimizer", "_optimizer")


def inner_model(model: Any) -> torch.nn.Module:
    """The model inside torch.compile, DistributedDataParallel and the engines that keep it as `module`.

    Raises:
        TypeError: there is no module in it.

    Example:
        >>> layer = torch.nn.Linear(2, 2)
        >>> inner_model(torch.nn.ModuleDict({"module": layer})) is layer
        True
    """
    found = model
    while found is not None and not isinstance(found, torch.nn.Module):
        found = getattr(found, "module", getattr(found, "_orig_mod", None))
    if found is None:
        raise TypeError(
            f"model must be a torch.nn.Module, or keep one as .module or ._orig_mod; got {type(model).__name__}. "
            "Pass the module whose parameters are trained."
        )
    return unwrapped(found)


def inner_optimizer(optimizer: Any, parameters: Sequence[Tensor], *, hooked: bool) -> torch.optim.Optimizer:
    """Of an optimizer and what it wraps, the innermost that updates most of the parameters.

    Wrappers hold neither the momentum nor, often, the hooks.

    Args:
        optimizer: one of torch, or a wrapper.
        parameters: that are looked at.
        hooked: whether its steps must be such that a hook hears of them.

    Raises:
        TypeError: there is no optimizer in it.
        ValueError: it has none of the parameters.
    """
    fit: list[torch.optim.Optimizer] = [found for found in _chain(optimizer) if not hooked or _is_hooked(found)]
    if not fit:
        names = ", ".join(f".{name}" for name in _INNER)
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer, or keep one as {names}; got {type(optimizer).__name__}. "
            "Pass the optimizer whose step() updates the parameters."
        )
    # The first of equals is the innermost.
    best = max(reversed(fit), key=lambda found: len(_places(found).keys() & set(parameters)))
    if set(_places(best)).isdisjoint(parameters):
        raise ValueError(
            f"the optimizer must have parameters of the model; none of the {len(parameters)} hidden matrices is "
            "among its parameters. Give the optimizer of this model, made after the model was moved or wrapped."
        )
    return best


def _chain(optimizer: Any) -> Iterator[Any]:
    """An optimizer, the one that it wraps, and so on."""
    seen: set[int] = set()
    while optimizer is not None and id(optimizer) not in seen:
        seen.add(id(optimizer))
        if hasattr(optimizer, "param_groups") and hasattr(optimizer, "state"):
            yield optimizer
        inner = (getattr(optimizer, name, None) for name in _INNER)
        optimizer = next((found for found in inner if hasattr(found, "step") and id(found) not in seen), None)


def _is_hooked(optimizer: Any) -> bool:
    """Whether `step` runs hooks: torch sees to it where its own constructor has been called."""
    return "_optimizer_step_pre_hooks" in vars(optimizer) and getattr(type(optimizer).step, "hooked", False)


@dataclass(frozen=True)
class _Place:
    """Where a parameter stands in an optimizer's groups, and its name there if it has one."""

    group: int
    index: int
    name: str | None


def _places(optimizer: torch.optim.Optimizer) -> dict[Tensor, _Place]:
    return {
        parameter: _Place(i, j, group["param_names"][j] if "param_names" in group else None)
        for i, group in enumerate(optimizer.param_groups)
        for j, parameter in enumerate(group["params"])
    }


class FollowedMatrices:
    """Hidden matrices, with the parameters that the optimizer has for them now.

    Sharding a model puts new parameters in the place of the old ones, in the model and, as accelerate does, in an
    optimizer that was made before; the old ones are never updated again.

    Args:
        model: they are of this model.
        optimizer: has some of them; the others are looked at in the model.
        matrices: as they are now.
    """

    def __init__(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, matrices: Sequence[HiddenMatrix]
    ) -> None:
        self._model, self._optimizer = model, optimizer
        self._matrices = list(matrices)
        self._places = _places(optimizer)

    def current(self) -> list[HiddenMatrix]:
        """The matrices, after a look at the optimizer.

        Raises:
            ValueError: one has a new parameter that is sharded; or its parameter is neither in the model nor in the
                optimizer any more, and which one took its place cannot be told.
        """
        places = _places(self._optimizer)
        self._matrices = [self._followed(matrix, places) for matrix in self._matrices]
        self._places = places
        return self._matrices

    def _followed(self, matrix: HiddenMatrix, places: dict[Tensor, _Place]) -> HiddenMatrix:
        if matrix.parameter in places:
            return matrix
        place = self._places.get(matrix.parameter)
        parameter = self._in_model(matrix.name) if place is None else self._successor(matrix, place, places)
        if parameter is None:
            raise ValueError(
                f"the parameters of a monitored optimizer must stay the same, or be replaced in their places; "
                f"{matrix.name!r} is no longer in it. Make the monitor after the model and the optimizer were prepared."
            )
        if parameter is matrix.parameter:
            return matrix
        check_whole(matrix.name, parameter)
        return replace(matrix, parameter=parameter)

    def _successor(self, matrix: HiddenMatrix, place: _Place, places: dict[Tensor, _Place]) -> Tensor | None:
        """The parameter that came in the place of a matrix's own; a frozen one, which left the optimizer, is its own.

        What was in the optimizer before is another matrix that has moved up.
        """
        for parameter, now in places.items():
            at_place = now.name == place.name if place.name else (now.group, now.index) == (place.group, place.index)
            if at_place and parameter not in self._places and parameter.shape == matrix.parameter.shape:
                return parameter
        return self._in_model(matrix.name, only=matrix.parameter)

    def _in_model(self, name: str, only: Tensor | None = None) -> Tensor | None:
        """The model's parameter of a name; if `only` is given, that one or none."""
        try:
            parameter = self._model.get_parameter(name)
        except AttributeError:
            return None
        return parameter if only is None or parameter is only else None
