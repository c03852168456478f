"""Where the parameters of a model go: one route for each, a listing of all, and the parameter groups they make."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from htmuon._checks import check_flag, check_learning_rate, check_number, plain
from htmuon._typing import Group, MatrixView
from htmuon.routing.split import Split, part_shapes


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True)
class Routing:
    """Where every trainable parameter of a model goes; `str()` of it is a table.

    Attributes:
        routes: one per parameter, in the order of the model.
    """

    routes: tuple[Route, ...]

    def groups(
        self,
        *,
        lr: float | Tensor | None = None,
        adamw_lr: float | Tensor | None = None,
        weight_decay: float | None = None,
        adamw_weight_decay: float | None = None,
        named: bool = True,
    ) -> list[Group]:
        """Parameter groups: matrices (one group per view and split), other parameters, vectors without weight decay.

        The arguments are those of `htmuon.param_groups`.
        """
        _check_rate("lr", lr)
        _check_rate("adamw_lr", adamw_lr)
        _check_decay("weight_decay", weight_decay)
        _check_decay("adamw_weight_decay", adamw_weight_decay)
        check_flag("named", named)

        groups = []
        kinds = dict.fromkeys((route.view, route.split) for route in self.routes if route.view is not None)
        for view, split in kinds:
            alike = [route for route in self.routes if (route.view, route.split) == (view, split)]
            matrices = {"matrix_view": view, **_given(split=split, lr=lr, weight_decay=weight_decay)}
            groups.append({"params": _parameters(alike, named), "use_muon": True, **matrices})
        for decays, decay in ((True, adamw_weight_decay), (False, 0.0)):
            others = [route for route in self.routes if route.view is None and route.decays is decays]
            if others:
                settings = _given(lr=adamw_lr, weight_decay=decay)
                groups.append({"params": _parameters(others, named), "use_muon": False, **settings})
        return groups

    def __str__(self) -> str:
        rows = [("parameter", "shape", "optimizer", "matrix [out, in]", "reason")]
        for route in self.routes:
            shape = tuple(route.parameter.shape)
            matrix = ""
            if route.view is not None:
                shapes = part_shapes(shape, route.view, route.split)
                matrix = " + ".join("x".join(map(str, of)) for of in shapes)
            side = "AdamW" if route.view is None else "spectral"
            rows.append((route.name, "x".join(map(str, shape)) or "scalar", side, matrix, route.reason))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        matrices = sum(route.parameter.numel() for route in self.routes if route.view is not None)
        total = sum(route.parameter.numel() for route in self.routes)
        lines.append(f"{matrices:,} of {total:,} parameters are matrices on the spectral side.")
        return "\n".join(lines)


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
