"""Singular values of a run's hidden matrices: at the start, at the end, and of the last update."""

import dataclasses

import torch
from torch import Tensor

import htmuon
from htmuon._typing import MatrixView


@dataclasses.dataclass(frozen=True, kw_only=True)
class HiddenMatrix:
    """A parameter that the spectral optimizers update.

    Args:
        name: in the model.
        parameter: in its own shape.
        view: how it is a matrix.
    """

    name: str
    parameter: Tensor
    view: MatrixView

    def singular_values(self, values: Tensor) -> Tensor:
        """Of `values`, in the shape of the parameter: float32 `[*batch, min(out, in)]` on the CPU, descending."""
        matrix = htmuon.matrix_view(values.detach().cpu().double(), self.view)
        singular_values: Tensor = torch.linalg.svdvals(matrix)
        return singular_values.float()


def hidden_matrices(model: torch.nn.Module) -> list[HiddenMatrix]:
    """The hidden matrices of a model, by the routing of `htmuon.param_groups`."""
    return [
        HiddenMatrix(name=route.name, parameter=route.parameter, view=route.view)
        for route in htmuon.route(model).routes
        if route.view is not None
    ]


class LastUpdate:
    """The direction in which the last step moved each hidden matrix: (W_before (1 - lr decay) - W_after) / lr.

    Args:
        optimizer: its groups have the learning rate and the decay of the step.
        matrices: as they are before the step.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, matrices: list[HiddenMatrix]) -> None:
        self._groups = {p: group for group in optimizer.param_groups for p in group["params"]}
        self._before = [(matrix, matrix.parameter.detach().clone()) for matrix in matrices]

    def directions(self) -> dict[str, Tensor]:
        """By name, float64, after the step; zero for a matrix that the step left as it was."""
        found = {}
        for matrix, before in self._before:
            group, after = self._groups[matrix.parameter], matrix.parameter.detach()
            decayed = before.double() * (1 - group["lr"] * group["weight_decay"])
            moved = not torch.equal(before, after)
            found[matrix.name] = (decayed - after.double()) / group["lr"] if moved else torch.zeros_like(decayed)
        return found


def run_spectra(initial: torch.nn.Module, final: torch.nn.Module, last_update: LastUpdate) -> dict[str, Tensor]:
    """All singular values of a finished run, under "initial_weights/<name>", "weights/<name>" and "updates/<name>"."""
    spectra = {}
    for kind, model in (("initial_weights", initial), ("weights", final)):
        for matrix in hidden_matrices(model):
            spectra[f"{kind}/{matrix.name}"] = matrix.singular_values(matrix.parameter)
    updates = last_update.directions()
    for matrix in hidden_matrices(final):
        spectra[f"updates/{matrix.name}"] = matrix.singular_values(updates[matrix.name])
    return spectra
