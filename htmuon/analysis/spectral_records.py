"""The spectra of a step as plain numbers that JSON can hold, and all singular values of a finished run."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from htmuon.analysis.hidden import HiddenMatrix, LastUpdate, hidden_matrices
from htmuon.analysis.matrix_analysis import MatrixAnalysis, analyze_matrices
from htmuon.analysis.record_log import Record
from htmuon.analysis.signal import OCTILES

RecordKind = Literal["weights", "momentum", "updates"]

QUANTILES = (0, 10, 25, 50, 75, 90, 100)  # of the singular values, in percent


@torch.no_grad()
def spectral_records(
    step: int,
    matrices: Sequence[HiddenMatrix],
    tensors: Mapping[RecordKind, Mapping[str, Tensor]],
    rounding: Mapping[str, Tensor] | None = None,
    signal: Mapping[str, Tensor] | None = None,
    found: Mapping[str, Mapping[str, float]] | None = None,
) -> list[Record]:
    """The records of one step.

    Args:
        step: steps done.
        matrices: how the named parameters are matrices.
        tensors: by kind and name, in the shape of the parameter.
        rounding: of the updates, by name; see `LastUpdate`.
        signal: of the step's gradient in the momentum before it, by name; see `signal_by_sigma`.
        found: what rules have found for a parameter, by its name; see `found_by_rules`.

    Returns:
        By kind, then by matrix: numbers rounded to six digits, NaN where a status says why there is none. The matrices
        of a batch (stacked experts) have a record each, named `name[i]`.

    Example:
        >>> from htmuon.analysis.hidden import hidden_matrices
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 1))
        >>> torch.nn.init.eye_(model[0].weight).shape
        torch.Size([16, 16])
        >>> [record] = spectral_records(5, hidden_matrices(model), {"weights": {"0.weight": model[0].weight}})
        >>> record["step"], record["name"], record["stable_rank"], record["sigma_q50"], record["status_ks"]
        (5, '0.weight', 16.0, 1.0, 'no_spread')
    """
    views = {matrix.name: matrix for matrix in matrices}
    # All kinds in one call: equal shapes become one stack.
    given = {
        f"{kind}/{name}": views[name].matrix(values)
        for kind, named in tensors.items()
        for name, values in named.items()
    }
    levels = {f"updates/{name}": level for name, level in (rounding or {}).items()}
    with torch.autocast(next(iter(given.values())).device.type, enabled=False):
        records = [_record(step, analysis) for analysis in analyze_matrices(given, rounding=levels)]
    shares = _by_matrix(signal or {})
    for record in records:
        if record["kind"] == "momentum":
            of_octiles = shares.get(record["name"], [math.nan] * OCTILES)
            record |= {f"signal_{octile}": float(f"{share:.6g}") for octile, share in enumerate(of_octiles, 1)}
            name, _, _ = record["name"].partition("[")
            record |= {key: float(f"{number:.6g}") for key, number in (found or {}).get(name, {}).items()}
    return records


def _by_matrix(signal: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """The shares of each matrix, under the name that its record has."""
    found: dict[str, list[float]] = {}
    for name, shares in signal.items():
        if shares.ndim == 1:
            found[name] = shares.tolist()
        else:
            found |= {f"{name}[{i}]": of for i, of in enumerate(shares.flatten(end_dim=-2).tolist())}
    return found


def _record(step: int, analysis: MatrixAnalysis) -> Record:
    kind, _, name = analysis.name.partition("/")
    ks, hill = analysis.fits["ks"], analysis.fits["hill"]
    share = torch.tensor(QUANTILES, dtype=torch.float64) / 100
    quantiles = analysis.sigma.double().quantile(share).tolist()
    numbers = {
        "alpha_ks": ks.alpha,
        "alpha_hill": hill.alpha,
        "ks_distance": ks.ks_distance,
        "stable_rank": analysis.stable_rank,
        "spectral_entropy": analysis.spectral_entropy,
        "spectral_norm": analysis.spectral_norm,
        "frobenius_norm": analysis.frobenius_norm,
        **{f"sigma_q{percent}": value for percent, value in zip(QUANTILES, quantiles, strict=True)},
    }
    return {
        "step": step,
        "kind": kind,
        "name": name,
        "shape": list(analysis.shape),
        "status": analysis.status,
        "status_ks": ks.status,
        "status_hill": hill.status,
        **{key: float(f"{number:.6g}") for key, number in numbers.items()},
        "spikes": analysis.spikes,
    }


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
