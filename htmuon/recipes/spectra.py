"""Singular values of a run's hidden matrices: at the start, at the end, and of the last update."""

import torch
from torch import Tensor

from htmuon.analysis.hidden import HiddenMatrix, LastUpdate, hidden_matrices


def run_spectra(initial: torch.nn.Module, final: torch.nn.Module, last_update: LastUpdate) -> dict[str, Tensor]:
    """All singular values of a finished run, under "initial_weights/<name>", "weights/<name>" and "updates/<name>".

    Each is float32 `[*batch, min(out, in)]` on the CPU, descending.
    """
    spectra = {}
    for kind, model in (("initial_weights", initial), ("weights", final)):
        for matrix in hidden_matrices(model):
            spectra[f"{kind}/{matrix.name}"] = _singular_values(matrix, matrix.parameter)
    updates = last_update.directions()
    for matrix in hidden_matrices(final):
        spectra[f"updates/{matrix.name}"] = _singular_values(matrix, updates[matrix.name])
    return spectra


def _singular_values(matrix: HiddenMatrix, values: Tensor) -> Tensor:
    sigma: Tensor = torch.linalg.svdvals(matrix.matrix(values.cpu().double()))
    return sigma.float()
