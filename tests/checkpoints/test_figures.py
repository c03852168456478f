"""What the figures and the words of an analysis choose."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from stored_models import heavy, write

from htmuon.checkpoints import AnalyzeConfig, analyze
from htmuon.checkpoints.checkpoint_figures import _spread


def test_spectra_are_drawn_evenly_over_the_depth() -> None:
    names = [str(i) for i in range(50)]
    chosen = [int(name) for name in _spread(names)]
    steps = [after - before for before, after in pairwise(chosen)]
    assert (chosen[0], chosen[-1]) == (0, 49)
    assert max(steps) - min(steps) <= 1
    assert _spread(names[:3]) == names[:3]


def test_the_better_law_is_the_likeliest_one(tmp_path: Path) -> None:
    stored = write(tmp_path / "x.safetensors", {"w": heavy(60, 40)})
    (row,) = analyze(AnalyzeConfig(path=stored, alternatives=True)).checkpoints[0].rows
    law = next(iter(row.comparisons["ks"].values()))
    ratios = {"lognormal": -2.0, "exponential": -9.0, "truncated_power_law": 5.0}
    comparisons = {
        name: replace(law, status="ok", log_likelihood_ratio=ratio, p_value=0.01) for name, ratio in ratios.items()
    }
    assert replace(row, comparisons={"ks": comparisons}).better_law("ks") == "exponential"
    chance = {name: replace(found, p_value=0.5) for name, found in comparisons.items()}
    assert replace(row, comparisons={"ks": chance}).better_law("ks") is None
