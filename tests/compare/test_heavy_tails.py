"""The tables of docs/heavy_tails.md are those of the committed results."""

import runpy
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.mark.parametrize("script", ["heavy_tails.py", "monitor_cost.py"])
def test_the_page_holds_what_was_measured(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    tables = runpy.run_path(str(BENCHMARKS / script))
    page = tables["PAGE"].read_text()
    assert tables["filled"](page) == page, f"run `python benchmarks/{script}`; its head says how"
