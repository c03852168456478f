import dataclasses
import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest

from htmuon.compare.compare_config import CompareConfig
from htmuon.compare.grid import GridConfig, best_learning_rate, is_interior, search_learning_rate
from htmuon.compare.tuned_rates import TunedOptimizer, TunedRecipe, load_tuned, merge_tuned, tuned_to_json
from htmuon.compare.tuning import first_learning_rate
from htmuon.recipes import RECIPES

STORED = load_tuned(Path(str(files("htmuon.compare") / "tuned.json")))


def valley(best: float) -> Callable[[float], float]:
    """A loss that is quadratic in ln(lr) and least at `best`."""
    return lambda lr: 3 + math.log(lr / best) ** 2


@pytest.mark.parametrize("best", [0.02, 0.005, 0.3, 0.0007])
def test_grid_is_extended_until_the_optimum_is_interior(best: float) -> None:
    grid = search_learning_rate(valley(best), 0.02, GridConfig(points=5, factor=2.0, max_extensions=8))
    assert is_interior(grid)
    # The nearest point of a grid of factor 2 is at most a factor sqrt(2) away.
    assert abs(math.log(best_learning_rate(grid) / best)) <= math.log(2) / 2 + 1e-9
    rates = list(grid)
    ratios = [after / before for before, after in itertools.pairwise(rates)]
    assert ratios == pytest.approx([2.0] * len(ratios), rel=1e-5)


def test_an_interior_optimum_costs_no_more_than_the_grid() -> None:
    calls: list[float] = []

    def loss(lr: float) -> float:
        calls.append(lr)
        return valley(0.02)(lr)

    search_learning_rate(loss, 0.02, GridConfig(points=5))
    assert calls == [0.005, 0.01, 0.02, 0.04, 0.08]


def test_extension_is_bounded() -> None:
    grid = search_learning_rate(lambda lr: -lr, 1.0, GridConfig(points=3, max_extensions=2))
    assert list(grid) == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert not is_interior(grid)


def test_divergence_bounds_the_grid_from_above_and_moves_it_down() -> None:
    grid = search_learning_rate(lambda lr: math.nan if lr > 0.3 else valley(10.0)(lr), 1.0, GridConfig(points=3))
    assert best_learning_rate(grid) == 0.25
    assert grid[0.5] == math.inf
    assert is_interior(grid)


def test_the_first_rate_ignores_the_settings_of_a_spec() -> None:
    assert first_learning_rate("htmuon:power=0.25") == first_learning_rate("htmuon")
    assert first_learning_rate("adamw") < first_learning_rate("muon")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"points": 2}, "grid.points must be at least 3"),
        ({"factor": 1.0}, "grid.factor must be greater than 1"),
        ({"factor": math.nan}, "grid.factor must be greater than 1"),
        ({"max_extensions": -1}, "grid.max_extensions must not be negative"),
    ],
)
def test_rejects_a_grid_that_cannot_work(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GridConfig(**settings)  # type: ignore[arg-type]


def recipe(steps: int, **optimizers: TunedOptimizer) -> TunedRecipe:
    return TunedRecipe(
        settings={"steps": steps}, seeds=(100,), command="typed", versions={"torch": "2"}, optimizers=optimizers
    )


ADAMW = TunedOptimizer(lr=0.004, adamw_lr=0.004, grid={0.002: 3.1, 0.004: 3.0, 0.008: math.inf}, interior=True)
SOAP = TunedOptimizer(lr=0.008, adamw_lr=0.008, grid={0.004: 2.9, 0.008: 2.8, 0.016: 2.85}, interior=True)
MUON = TunedOptimizer(lr=0.02, adamw_lr=0.004, grid={0.01: 2.9, 0.02: 2.8, 0.04: 2.85}, interior=True)


def test_stored_rates_survive_the_file(tmp_path: Path) -> None:
    stored = {"llama-tiny": recipe(10, adamw=ADAMW, muon=MUON)}
    path = tmp_path / "tuned.json"
    path.write_text(tuned_to_json(stored))
    assert load_tuned(path) == stored


def test_merging_keeps_other_recipes_and_results_of_the_same_settings() -> None:
    stored = {"other": recipe(5, adamw=ADAMW), "llama-tiny": recipe(10, adamw=ADAMW)}
    same = merge_tuned(stored, "llama-tiny", recipe(10, adamw=ADAMW, muon=MUON))
    assert same["other"] == stored["other"]
    assert dict(same["llama-tiny"].optimizers) == {"adamw": ADAMW, "muon": MUON}
    other = merge_tuned(stored, "llama-tiny", recipe(20, adamw=ADAMW, muon=MUON))
    assert dict(other["llama-tiny"].optimizers) == {"adamw": ADAMW, "muon": MUON}
    assert other["llama-tiny"].settings == {"steps": 20}


def test_merging_keeps_what_the_new_search_does_not_contradict() -> None:
    stored = {"llama-tiny": recipe(10, adamw=ADAMW, muon=MUON, soap=SOAP)}
    for found in ({"adamw": ADAMW}, {"adamw": ADAMW, "soap": SOAP}, {"adamw": ADAMW, "htmuon": MUON}):
        merged = merge_tuned(stored, "llama-tiny", recipe(10, **found))["llama-tiny"]
        assert dict(merged.optimizers) == {"adamw": ADAMW, "muon": MUON, "soap": SOAP, **found}
    # With another rate of the other parameters, Muon's best one may be another: its old one no longer compares.
    moved = dataclasses.replace(MUON, adamw_lr=0.032)
    merged = merge_tuned(stored, "llama-tiny", recipe(10, adamw=ADAMW, htmuon=moved))["llama-tiny"]
    assert dict(merged.optimizers) == {"adamw": ADAMW, "soap": SOAP, "htmuon": moved}


def test_names_each_changed_setting() -> None:
    assert recipe(10).changed_settings({"steps": 20}) == ["steps was 10, is 20"]
    assert recipe(10).changed_settings({"steps": 10}) == []


@pytest.mark.parametrize("content", ["{", "[]", '{"llama-tiny": {}}', '{"llama-tiny": 3}'])
def test_rejects_another_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tuned.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="--save-tuned"):
        load_tuned(path)
    assert path.read_text() == content


def test_the_settings_of_a_comparison_load_no_library_of_figures() -> None:
    code = (
        "import sys, htmuon.compare.compare_config; "
        "heavy = {'matplotlib', 'jinja2', 'transformers', 'tokenizers'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(STORED))
def test_stored_rates_were_found_with_the_settings_of_the_recipe(name: str, tmp_path: Path) -> None:
    config = CompareConfig(run=RECIPES[name](), out=tmp_path)
    assert STORED[name].changed_settings(config.tuning_settings()) == []
