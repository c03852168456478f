"""The hidden matrices of a model: their weights, their momentum, and the direction in which a step moves them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from htmuon._typing import MatrixView
from htmuon.analysis.rounding import rounding_level
from htmuon.routing.routes import Route
from htmuon.routing.routing import route
from htmuon.routing.views import default_view, matrix_view

# torch's optimizers that add weight decay to the gradient. All others shrink the weights beside their update, save
# those whose groups say `decoupled_weight_decay=False`.
_COUPLED = tuple(
    getattr(torch.optim, name) for name in ("SGD", "RMSprop", "Adagrad", "Adadelta", "Adamax", "ASGD", "Rprop")
)
# What optimizers call the smoothed gradient in their state: Muon, HTMuon and SGD; Adam and its kin.
_MOMENTUM_KEYS = ("momentum_buffer", "exp_avg")


@dataclass(frozen=True, kw_only=True)
class HiddenMatrix:
    """A parameter that spectral optimizers update.

    Attributes:
        name: in the model.
        parameter: in its own shape.
        view: how it is a matrix.
    """

    name: str
    parameter: Tensor
    view: MatrixView

    def matrix(self, values: Tensor) -> Tensor:
        """`values`, in the shape of the parameter, as matrices `[*batch, out, in]` without a gradient."""
        return matrix_view(_here(values.detach()), self.view)

    @property
    def values(self) -> Tensor:
        """The numbers of the parameter, in its own memory and without a gradient."""
        return _here(self.parameter.detach())


def hidden_matrices(model: torch.nn.Module, names: Sequence[str] = ()) -> list[HiddenMatrix]:
    """The hidden matrices of a model, by the routing of `htmuon.param_groups`.

    Args:
        model: any module.
        names: shell-style patterns over parameter names: those parameters instead, whatever their role.

    Raises:
        TypeError: as `htmuon.route`; or a matrix is complex.
        ValueError: as `htmuon.route`; or the model has no hidden matrix, or one that is sharded.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 9))
        >>> [matrix.name for matrix in hidden_matrices(model)], [m.name for m in hidden_matrices(model, ["0.*"])]
        (['1.weight'], ['0.weight'])
    """
    routes = _named(model, names) if names else route(model).routes
    found = [
        HiddenMatrix(name=entry.name, parameter=entry.parameter, view=entry.view)
        for entry in routes
        if entry.view is not None
    ]
    if not found:
        raise ValueError(
            f"{type(model).__name__} must have a hidden matrix to look at; it has none. print(htmuon.route(model)) "
            'gives the reasons; name parameters by patterns such as ["*.weight"].'
        )
    for matrix in found:
        if matrix.parameter.is_complex():
            raise TypeError(
                f"matrices must be real; {matrix.name!r} is {matrix.parameter.dtype}. Name others by patterns."
            )
        check_unsharded(matrix.name, matrix.parameter)
    return found


def check_unsharded(name: str, parameter: Tensor) -> None:
    """Raise ValueError if this rank has a part of a parameter alone."""
    if hasattr(parameter, "placements") and not _is_whole(parameter):  # a DTensor, known without torch.distributed
        raise ValueError(
            f"matrices must be whole to have a spectrum; {name!r} is sharded over ranks (a DTensor). "
            "Analyze a checkpoint of the whole model instead."
        )


def _is_whole(tensor: Any) -> bool:
    """Whether this rank has all of a DTensor: where it is sharded, it is alone."""
    mesh = getattr(tensor, "device_mesh", None)
    return mesh is not None and all(
        placement.is_replicate() or mesh.size(dim) == 1 for dim, placement in enumerate(tensor.placements)
    )


def _here(tensor: Any) -> Tensor:
    """A tensor's own numbers, of a DTensor those of this rank."""
    found: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return found


def _named(model: torch.nn.Module, names: Sequence[str]) -> list[Route]:
    """The parameters that patterns name, as the matrices that their modules say they are; vectors are none."""
    if isinstance(names, str):
        raise ValueError(f'names must be a list of patterns; got {names!r}. Pass ["{names}"].')
    routes = route(model).routes
    for pattern in names:
        if not any(fnmatchcase(entry.name, pattern) for entry in routes):
            raise ValueError(
                f"names pattern {pattern!r} matches no trainable parameter; they are named like {routes[0].name!r}."
            )
    wanted = [
        entry
        for entry in routes
        if entry.parameter.ndim >= 2 and any(fnmatchcase(entry.name, pattern) for pattern in names)
    ]
    return [replace(entry, view=entry.view or default_view(entry.parameter.ndim)) for entry in wanted]


def momentum_of(optimizer: torch.optim.Optimizer, parameter: Tensor) -> Tensor | None:
    """The smoothed gradient in the optimizer's state, in the shape of the parameter; None where there is none."""
    state: dict[str, Any] = optimizer.state.get(parameter, {})
    found = (state.get(key) for key in _MOMENTUM_KEYS)
    return next((value for value in found if isinstance(value, Tensor) and value.shape == parameter.shape), None)


def average_of(optimizer: torch.optim.Optimizer, parameter: Tensor) -> Tensor | None:
    """A copy of the smoothed gradient as an average of gradients, where the optimizer keeps their sum."""
    momentum = momentum_of(optimizer, parameter)
    if momentum is None:
        return None
    group = next(group for group in optimizer.param_groups if any(p is parameter for p in group["params"]))
    return momentum * (1 - group["momentum"]) if group.get("momentum_rule") == "sum" else momentum.clone()


def rate_factor(state: Mapping[str, Any]) -> float | None:
    """The factor of the learning rate that a rule has found for a parameter of this state; None without a rule."""
    return math.exp(float(state["log_rate"])) if "log_rate" in state else None


def found_by_rules(state: Mapping[str, Any]) -> dict[str, float]:
    """What rules have found for a parameter of this state: `rate_factor` and `power`, those that it has."""
    factor = rate_factor(state)
    found = {} if factor is None else {"rate_factor": factor}
    return {**found, "power": float(state["power"])} if "power" in state else found


class LastUpdate:
    """The direction in which a step moved each hidden matrix: `(W_before (1 - lr decay) - W_after) / lr`.

    Where a rule gives each matrix a factor of the learning rate, that of the step is counted in.

    The decay is left out where the optimizer adds it to the gradient, as `torch.optim.SGD` does, and stays in the
    direction where a `weight_update` of this library takes other than the decoupled one. In narrow dtypes this
    is what the step did to the weights, their rounding included.

    Args:
        optimizer: its groups have the learning rate and the decay of the step.
        matrices: as they are before the step; those that the optimizer does not have are left out.

    Attributes:
        rounding: by name, `[*batch]`: the `rounding_level` that the weights before and after the step leave in its
            direction, which grows as `lr` falls; once `directions` is known.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, matrices: Sequence[HiddenMatrix]) -> None:
        self._coupled = isinstance(optimizer, _COUPLED)
        self._groups = {p: group for group in optimizer.param_groups for p in group["params"]}
        self._state = optimizer.state
        ours = [matrix for matrix in matrices if matrix.parameter in self._groups]
        self._before = [(matrix, matrix.values.clone()) for matrix in ours]
        self.rounding: dict[str, Tensor] = {}

    def directions(self, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        """By name, after the step; zero for a matrix that the step left as it was. To be asked once.

        Differences are taken in float64. The copy of a matrix is freed when its direction is known, so that in float32
        they need no more memory than the copies.
        """
        found = {}
        while self._before:
            matrix, before = self._before.pop()
            found[matrix.name] = self._direction(matrix, before).to(dtype)
            self.rounding[matrix.name] = self._rounding(matrix, before)
        return dict(reversed(found.items()))

    def _direction(self, matrix: HiddenMatrix, before: Tensor) -> Tensor:
        group, after, rate = self._groups[matrix.parameter], matrix.values, self._rate(matrix)
        if rate == 0 or torch.equal(before, after):
            return torch.zeros_like(before, dtype=torch.float64)
        decoupled = group.get("decoupled_weight_decay", not self._coupled)
        decoupled = decoupled and group.get("weight_update", "decoupled") == "decoupled"
        decay = group.get("weight_decay", 0.0) if decoupled else 0.0
        direction: Tensor = (before.double() * (1 - rate * decay) - after.double()) / rate
        return direction

    def _rate(self, matrix: HiddenMatrix) -> float:
        """The learning rate that the matrix had in the step."""
        factor = rate_factor(self._state.get(matrix.parameter, {}))
        return float(self._groups[matrix.parameter]["lr"]) * (1.0 if factor is None else factor)

    def _rounding(self, matrix: HiddenMatrix, before: Tensor) -> Tensor:
        weights = [matrix.matrix(values) for values in (before, matrix.parameter)]
        wide = torch.promote_types(before.dtype, torch.float32)
        norms = [torch.linalg.vector_norm(w, dim=(-2, -1), dtype=wide) for w in weights]
        rate = self._rate(matrix)
        return rounding_level(sum(norms, torch.zeros_like(norms[0])), weights[0].shape, before.dtype) / (rate or 1.0)
