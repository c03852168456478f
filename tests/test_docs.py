"""The pages of docs/: their Python runs, their links lead somewhere, their numbers are those of the code."""

import dataclasses
import json
import re
import runpy
import shlex
from pathlib import Path
from typing import get_args

import pytest
from test_readme import python_blocks, run_block

import htmuon
from htmuon._typing import Normalization

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
REMEDY = "run `python benchmarks/error_curves.py`"


@pytest.fixture
def error_curves(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return runpy.run_path(str(ROOT / "benchmarks" / "error_curves.py"))


def test_there_are_pages():
    assert PAGES


@pytest.mark.parametrize(
    ("page", "block"),
    [
        pytest.param(page, block, id=f"{page.name}-{i}")
        for page in PAGES[1:]
        for i, block in enumerate(python_blocks(page))
    ],
)
def test_a_block_runs(page, block, monkeypatch):
    run_block(block, page, monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_that_it_links_exist(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_optimizer_map_method_and_normalization_is_named():
    text = (ROOT / "docs" / "choices.md").read_text()
    names = [
        *(htmuon.OPTIMIZERS[name].__name__ for name in htmuon.OPTIMIZERS),
        *htmuon.spectral.MAPS,
        *htmuon.linalg.METHODS,
        *get_args(Normalization),
        *htmuon.optim.POWER_SCHEDULES,
    ]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_the_tables_of_readme_and_costs_are_those_of_the_committed_measurements(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    tables = runpy.run_path(str(ROOT / "benchmarks" / "readme_tables.py"))
    for page in tables["PAGES"]:
        assert tables["filled"](page.read_text()) == page.read_text(), "run `python benchmarks/readme_tables.py`"


def test_the_rows_of_other_muons_are_those_of_the_committed_measurements(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    table = runpy.run_path(str(ROOT / "benchmarks" / "like_table.py"))
    text = table["PAGE"].read_text()
    assert table["filled"](text) == text, "run `python benchmarks/like_table.py`"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of other packages
def test_what_is_committed_of_other_muons_is_measured_again(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    table = runpy.run_path(str(ROOT / "benchmarks" / "like_table.py"))
    stored = {row["row"]: row for row in json.loads(table["RESULT"].read_text())}
    for name in ("torch", "keller", "timm", "pytorch_optimizer"):
        again = table["measured"](name)
        # Sums of bfloat16 products in the order of another processor: some ten percent of a difference of 0.01, all of
        # one of 1e-7, and 1e-3 of an update.
        assert again["difference"] == pytest.approx(stored[name]["difference"], rel=0.3, abs=1e-6)
        for side in ("there", "here"):
            assert again[side] == pytest.approx(stored[name][side], rel=5e-3)


def test_the_results_are_those_of_the_stored_experiments(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    evidence = runpy.run_path(str(ROOT / "benchmarks" / "evidence.py"))
    for page in evidence["PAGES"]:
        text = page.read_text()
        assert evidence["filled"](text) == text, "run `python benchmarks/evidence.py`"
    text = evidence["PAGES"][0].read_text()
    for path in evidence["RESULTS"].glob("*.json"):
        assert f"<!-- {path.stem} -->" in text
        # The command on the page is the one that repeats the experiment.
        command = evidence["EXPERIMENTS"][path.stem].command(path.stem)
        assert json.loads(path.read_text())["command"] == shlex.join(command)


@pytest.mark.slow
def test_the_plan_of_many_ranks_is_the_one_that_a_step_makes(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    plan = runpy.run_path(str(ROOT / "benchmarks" / "distributed_plan.py"))
    text = plan["PAGE"].read_text()
    assert plan["filled"](text) == text, "run `python benchmarks/distributed_plan.py`"
    assert json.loads(plan["RESULT"].read_text()) == [dataclasses.asdict(p) for p in plan["planned"]()]


def test_the_tables_are_those_of_the_committed_results(error_curves):
    page = error_curves["PAGE"]
    assert error_curves["filled"](page.read_text()) == page.read_text(), REMEDY


@pytest.mark.slow
def test_the_results_are_those_of_the_levels(error_curves):
    stored = json.loads(error_curves["RESULT"].read_text())["recipes"]
    made = error_curves["results"]()["recipes"]
    assert [row["name"] for row in stored] == [row["name"] for row in made], REMEDY
    for old, new in zip(stored, made, strict=True):
        # Lawson's algorithm amplifies the last bits of another machine's products a little; rounding is not compared.
        assert old["largest error"] == pytest.approx(new["largest error"], rel=0.01, abs=1e-6), REMEDY
        assert old["products"] == new["products"], REMEDY


@pytest.mark.parametrize(
    ("name", "power", "smallest", "error"),
    [
        # The error that its author states for [1e-3, 1].
        ("spectral powers, 8 levels", 0.125, "1e-03", 0.0165),
        # Made to be exact on [1e-3, 1], and on [1e-2, 1].
        ("Polar Express, 8 steps", 0.0, "1e-03", 1e-6),
        ("matrix root, r = 4, s = 1", 0.5, "1e-02", 0.002),
    ],
)
def test_a_published_recipe_reaches_what_is_claimed_for_it(error_curves, name, power, smallest, error):
    rows = json.loads(error_curves["RESULT"].read_text())["recipes"]
    (row,) = [row for row in rows if (row["name"], row["power"]) == (name, power)]
    assert row["largest error"][smallest] <= error
