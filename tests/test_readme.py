"""The README's Python runs, and what it names exists."""

import re
from pathlib import Path

import pytest

import htmuon

README = Path(__file__).parent.parent / "README.md"


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


def run_block(block: str, page: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Run a block by itself; the maps that it registers are forgotten afterwards."""
    monkeypatch.setattr(htmuon.spectral.MAPS, "_parts", dict(htmuon.spectral.MAPS.items()))
    names: dict[str, object] = {}
    exec(compile(block, str(page), "exec"), names)
    return names


BLOCKS = python_blocks(README)


def test_there_is_python_to_run():
    assert BLOCKS


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_runs(block, monkeypatch):
    assert run_block(block, README, monkeypatch)["htmuon"] is htmuon


def test_the_targets_that_it_names_are_in_the_makefile():
    makefile = (README.parent / "Makefile").read_text()
    for target in set(re.findall(r"`?make (\w+)", README.read_text())):
        assert f"\n{target}:" in makefile


def test_it_is_short():
    assert len(README.read_text().splitlines()) <= 140
