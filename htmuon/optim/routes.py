"""Where the parameters of a model go: one route for each, a listing of all, and the parameter groups they make."""

from dataclasses import dataclass
from typing import Any

from torch.nn import Parameter

from htmuon._typing import MatrixView
from htmuon.optim.settings import Group
from htmuon.optim.split import part_shapes


@dataclass(frozen=True, kw_only=True)
class Route:
    """Where one parameter goes, and why.

    Attributes:
        name: the parameter's name in the model.
        parameter: the parameter.
        view: how it is a matrix, or None where it takes AdamW.
        reason: one clause for the listing.
        split: parts of it that are matrices of their own: so many equal ones, or the output rows of each.
        decays: whether weight decay is good for it where it takes AdamW: not so for vectors, gains and coordinates.
    """

    name: str
    parameter: Parameter
    view: MatrixView | None
    reason: str
    split: int | tuple[int, ...] | None = None
    decays: bool = True


@dataclass(frozen=True)
class Routing:
    """Where every trainable parameter of a model goes; `str()` of it is a table.

    Attributes:
        routes: one per parameter, in the order of the model.
    """

    routes: tuple[Route, ...]

    def groups(self) -> list[Group]:
        """Parameter groups: matrices (one group per view and split), other parameters, vectors without weight decay."""
        kinds = dict.fromkeys((route.view, route.split) for route in self.routes if route.view is not None)
        groups = []
        for view, split in kinds:
            alike = [route for route in self.routes if (route.view, route.split) == (view, split)]
            groups.append(_group(alike, use_muon=True, matrix_view=view, **({} if split is None else {"split": split})))
        others = [route for route in self.routes if route.view is None]
        vectors = [route for route in others if not route.decays]
        tables = [route for route in others if route.decays]
        if tables:
            groups.append(_group(tables, use_muon=False))
        if vectors:
            groups.append(_group(vectors, use_muon=False, weight_decay=0.0))
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


def _group(routes: list[Route], **settings: Any) -> Group:
    return {"params": [(route.name, route.parameter) for route in routes], **settings}
