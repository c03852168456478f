"""docs/recipes.md names every image recipe, and its numbers are those that were measured."""

import json
import statistics
from pathlib import Path

from htmuon.recipes import RECIPES

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "recipes.md").read_text()


def test_every_image_recipe_has_its_steps_in_the_table():
    for name, recipe in RECIPES.items():
        run = recipe()
        if run.data.task == "images":
            rows = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")]
            assert f"({run.steps:,}) |" in rows[0]


def test_the_speed_of_loading_is_the_measured_one():
    stored = json.loads((ROOT / "benchmarks" / "results" / "image_loading.json").read_text())
    assert f"`{stored['command']}`" in PAGE
    for entry in stored["results"]:
        for run in entry["runs"]:
            loader = statistics.median(entry["loader, images per second"][str(run["workers"])])
            row = [entry["recipe"], run["workers"], f"{loader:.0f}", f"{run['images per second']:.1f}"]
            cells = [f"`{row[0]}`", *map(str, row[1:]), f"{100 * run['share of waiting']:.1f} %"]
            assert f"| {' | '.join(cells)} |" in PAGE
