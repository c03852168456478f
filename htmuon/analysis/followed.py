"""What a monitor follows: the optimizer inside its wrappers, its parameters as they are now, the steps taken."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from htmuon.analysis.hidden import HiddenMatrix, check_unsharded
from htmuon.routing.models import unwrapped

# Under these names libraries keep the optimizer that they wrap: accelerate and DeepSpeed, SAM and its kin,
# schedule-free, pytorch_optimizer, Opacus, Lightning, timm.
_INNER = ("optimizer", "base_optimizer", "base", "original_optimizer", "_optimizer", "_base_optimizer")


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
class _Slot:
    """Where a parameter stands in an optimizer's groups, and its name there if it has one."""

    group: int
    index: int
    name: str | None


def _places(optimizer: torch.optim.Optimizer) -> dict[Tensor, _Slot]:
    return {
        parameter: _Slot(i, j, group["param_names"][j] if "param_names" in group else None)
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

    def _followed(self, matrix: HiddenMatrix, places: dict[Tensor, _Slot]) -> HiddenMatrix:
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
        check_unsharded(matrix.name, parameter)
        return replace(matrix, parameter=parameter)

    def _successor(self, matrix: HiddenMatrix, place: _Slot, places: dict[Tensor, _Slot]) -> Tensor | None:
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


class StepCount:
    """How many steps were taken.

    A `torch.amp.GradScaler` calls the step of a fused optimizer also where gradients are not finite, and leaves it to
    the device to skip it. Whether it did is kept there until somebody asks.

    Args:
        done: steps taken before.

    Example:
        >>> count = StepCount(5)
        >>> count.add(torch.tensor(1.0)), count.add(torch.tensor(0.0)), count.at_most, count.taken()
        (None, None, 7, 6)
    """

    def __init__(self, done: int) -> None:
        self.at_most = done
        self._skipped: list[Tensor] = []

    def add(self, found_inf: Tensor | None) -> None:
        """Count a call of `step`, skipped where the flag is above zero; None is a step that was taken."""
        self.at_most += 1
        if isinstance(found_inf, Tensor):
            skipped = (found_inf.detach() > 0).to(torch.int64).sum()
            self._skipped = [sum(self._skipped, skipped)]

    def taken(self) -> int:
        """The steps that were taken; waits for the device where some may have been skipped since it was last asked."""
        for skipped in self._skipped:
            self.at_most -= int(skipped)
        self._skipped = []
        return self.at_most
