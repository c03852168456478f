"""Alpha by layer against WeightWatcher's default fit on real weights.

What WeightWatcher 0.7.7 does differently, and what it means for the comparison:

- It lays a convolution kernel out as one matrix [out, in] per position and fits the eigenvalues of all positions
  together. That is `eigenvalues(weight.movedim((0, 1), (-2, -1))).flatten()` here, while the optimizers and
  `htmuon analyze` see one matrix [out, in * h * w]: another spectrum, another alpha.
- It scales kernels by sqrt(h w / 2): alpha and the distance don't depend on scale, xmin does.
- It drops eigenvalues <= 1e-5, whatever the scale of the matrix; here those <= (8 eps)^2 of the largest are zero.
- With fewer than 20 eigenvalues it takes another estimator (n - 1 in the numerator, a distance with a bonus for long
  tails): not compared.
- It reports fits to tails of any length. Tails below 10 eigenvalues have the status "short_tail" here: of the 39
  matrices of MiniLM that is one, with alpha = 8.4.
- It skips matrices with fewer than 8 eigenvalues and warns of alpha < 2 and > 6; it reports a failed fit as -1.
"""

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from analysis.samples import efficientnet_weights, minilm_matrices
from torch import Tensor, nn

from htmuon.analysis import analyze_matrices, eigenvalues, fit_power_law

pytestmark = pytest.mark.slow


def weightwatcher_table(weights: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    """WeightWatcher's row of each weight, in a model that holds nothing else."""
    model = nn.Module()
    for name, weight in weights.items():
        layer: nn.Module
        if weight.ndim == 2:
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        else:
            layer = nn.Conv2d(weight.shape[1], weight.shape[0], (weight.shape[2], weight.shape[3]), bias=False)
        layer.weight = nn.Parameter(weight, requires_grad=False)
        model.add_module(name.replace(".", "/"), layer)
    level = logging.root.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its imports and of pandas
        import weightwatcher

        table = weightwatcher.WeightWatcher(model=model).analyze()
    logging.root.setLevel(level)
    return {row["longname"].replace("/", "."): row for row in table.to_dict("records")}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where it may leave its pictures


def test_every_matrix_of_a_transformer() -> None:
    matrices = minilm_matrices()
    reference = weightwatcher_table(matrices)
    results = analyze_matrices(matrices)
    assert len(results) == len(reference) == 39
    short = []
    for result in results:
        row, fit = reference[result.name], result.fits["ks"]
        assert result.stable_rank == pytest.approx(row["stable_rank"], rel=1e-4)
        assert result.spectral_entropy == pytest.approx(row["entropy"], rel=1e-4)
        assert result.spectral_norm**2 == pytest.approx(row["lambda_max"], rel=1e-4)
        if fit.status == "short_tail":
            short.append(row["num_pl_spikes"])
            continue
        assert fit.ok
        # The same formulas on the same float32 weights; 1e-4 leaves room for rounding in the spectra.
        assert fit.alpha == pytest.approx(row["alpha"], abs=1e-4)
        assert fit.xmin == pytest.approx(row["xmin"], rel=1e-4)
        assert fit.ks_distance == pytest.approx(row["D"], abs=1e-4)
        assert fit.tail_size == row["num_pl_spikes"]
        assert result.alpha_weighted == pytest.approx(row["alpha_weighted"], rel=1e-4)
    assert len(short) == 1
    assert max(short) < 10


def test_every_kernel_of_a_convolutional_network() -> None:
    weights = efficientnet_weights()
    reference = weightwatcher_table(weights)
    compared = 0
    for name, weight in weights.items():
        positions = weight if weight.ndim == 2 else weight.movedim((0, 1), (-2, -1))
        fit = fit_power_law(eigenvalues(positions).flatten())
        row = reference[name]
        if row["num_evals"] < 20 or row["num_pl_spikes"] < 10:
            continue
        compared += 1
        assert fit.ok, name
        assert fit.alpha == pytest.approx(row["alpha"], abs=1e-3), name
        assert fit.ks_distance == pytest.approx(row["D"], abs=1e-3), name
        assert fit.tail_size == row["num_pl_spikes"]
    assert compared >= 25


def test_the_kernel_as_one_matrix_is_another_spectrum() -> None:
    weight = torch.randn(32, 16, 3, 3, generator=torch.Generator().manual_seed(0))
    assert eigenvalues(weight.flatten(1)).shape == (32,)
    assert eigenvalues(weight.movedim((0, 1), (-2, -1))).shape == (3, 3, 16)
