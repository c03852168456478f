"""Where the parameters of a model go: one route for each, a listing of all, and the parameter groups they make."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from htmuon._checks import check_flag, check_learning_rate, check_number, plain
from htmuon._typing import Group, MatrixView
from htmuon.routing.kinds import KindRates, by_kind, kinds_of, rates_by_kind
from htmuon.routing.split import Split, part_shapes

# Of the listing.
COLUMNS = ("parameter", "shape", "optimizer", "matrix [out, in]", "reason")


@dataclass(frozen=True, kw_only=True, eq=False)
class Route:
    """Where one parameter goes, and why.

    Attributes:
        name: the parameter's name in the model.
        parameter: the parameter.
        view: how it is a matrix, or None where it takes AdamW.
        reason: one clause for the listing.
        split: parts of it that are matrices of their own: so many equal ones, the output rows of each,
            or `Interleaved`.
        decays: whether weight decay is good for it where it takes AdamW: not so for vectors, gains and coordinates.
    """

    name: str
    parameter: Parameter
    view: MatrixView | None
    reason: str
    split: Split | None = None
    decays: bool = True

    @property
    def cells(self) -> tuple[str, ...]:
        """What the listing says of it, under the heads `COLUMNS`."""
        shape = tuple(self.parameter.shape)
        matrices = [] if self.view is None else part_shapes(shape, self.view, self.split)
        return (
            self.name,
            _sides(shape) or "scalar",
            "AdamW" if self.view is None else "spectral",
            " + ".join(map(_sides, matrices)),
            self.reason,
        )


@dataclass(frozen=True, eq=False, repr=False)
class Routing:
    """Where every trainable parameter of a model goes; `str()` of it is a table.

    Attributes:
        routes: one per parameter, in the order of the model.
        names: of all parameters of the model, also of those that are frozen: kinds are read off them.
    """

    routes: tuple[Route, ...]
    names: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(route.parameter.numel() for route in self.routes)

    @property
    def spectral_parameters(self) -> int:
        """How many of them are in matrices on the spectral side."""
        return sum(route.parameter.numel() for route in self.routes if route.view is not None)

    @property
    def largest_other(self) -> Route | None:
        """The largest parameter that takes AdamW; None where none does."""
        others = [route for route in self.routes if route.view is None]
        return max(others, key=lambda route: route.parameter.numel(), default=None)

    @property
    def kinds(self) -> dict[str, str | None]:
        """What each matrix on the spectral side does in its block, by its name; None where names don't say it."""
        found = kinds_of(self.names)
        return {route.name: found[route.name] for route in self.routes if route.view is not None}

    def groups(
        self,
        *,
        lr: float | Tensor | None = None,
        adamw_lr: float | Tensor | None = None,
        weight_decay: float | None = None,
        adamw_weight_decay: float | None = None,
        power: Mapping[str, float] | None = None,
        lr_scale: KindRates | None = None,
        named: bool = True,
    ) -> list[Group]:
        """Parameter groups: matrices (one group per view, split, power and rate), others, vectors without weight decay.

        The arguments are those of `htmuon.param_groups`.
        """
        _check_rate("lr", lr)
        _check_rate("adamw_lr", adamw_lr)
        _check_decay("weight_decay", weight_decay)
        _check_decay("adamw_weight_decay", adamw_weight_decay)
        check_flag("named", named)

        matrices = [route for route in self.routes if route.view is not None]
        kinds = self.kinds
        powers = {} if power is None else by_kind("power", power, kinds, least=-1.0, most=1.0)
        scales = {} if lr_scale is None else rates_by_kind(lr_scale, kinds)
        alike: dict[tuple[Any, ...], list[Route]] = {}
        for route in matrices:
            shared = (route.view, route.split, powers.get(route.name), scales.get(route.name))
            alike.setdefault(shared, []).append(route)
        groups = []
        for (view, split, own_power, scale), routes in alike.items():
            rate = {"lr": lr, "rate_factor": scale} if lr is None or scale is None else {"lr": lr * scale}
            given = _given(split=split, **rate, weight_decay=weight_decay, power=own_power)
            groups.append({"params": _parameters(routes, named), "use_muon": True, "matrix_view": view, **given})
        for decays, decay in ((True, adamw_weight_decay), (False, 0.0)):
            others = [route for route in self.routes if route.view is None and route.decays is decays]
            if others:
                settings = _given(lr=adamw_lr, weight_decay=decay)
                groups.append({"params": _parameters(others, named), "use_muon": False, **settings})
        return groups

    def __str__(self) -> str:
        rows = [COLUMNS, *(route.cells for route in self.routes)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        counts = f"{self.spectral_parameters:,} of {self.parameters:,}"
        return "\n".join([*lines, f"{counts} parameters are matrices on the spectral side."])

    __repr__ = __str__


def _sides(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _parameters(routes: list[Route], named: bool) -> list[Any]:
    return [(route.name, route.parameter) if named else route.parameter for route in routes]


def _given(**settings: Any) -> Group:
    """The settings that are not None; a tensor is copied, for a scheduler that changes it in place does so by group."""
    given = {name: value for name, value in settings.items() if value is not None}
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in given.items()}


def _check_rate(name: str, value: object) -> None:
    if value is not None:
        check_learning_rate(name, value if isinstance(value, Tensor) else plain(value), wait=True)


def _check_decay(name: str, value: object) -> None:
    if value is not None:
        check_number(name, plain(value), remedy="Pass a float such as 0.1.")
