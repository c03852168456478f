"""The reference of docs/: every public name has an entry, and every page is in the navigation."""

import importlib
import re
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = (
    "htmuon",
    "htmuon.spectral",
    "htmuon.linalg",
    "htmuon.optim",
    "htmuon.analysis",
    "htmuon.powers",
    "htmuon.training",
    "htmuon.recipes",
    "htmuon.checkpoints",
    "htmuon.bench",
    "htmuon.data",
    "htmuon.baselines",
    "htmuon.compare",
)
ENTRIES = [
    entry
    for page in (ROOT / "docs" / "reference").glob("*.md")
    for entry in re.findall(r"^::: (\S+)$", page.read_text(), flags=re.MULTILINE)
]


def resolved(entry: str) -> object:
    module, _, name = entry.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_an_entry_is_there_once():
    assert len(set(ENTRIES)) == len(ENTRIES) > 0


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_an_entry(room):
    documented = {id(resolved(entry)) for entry in ENTRIES}
    module = importlib.import_module(room)
    public = {name: getattr(module, name) for name in module.__all__}
    missing = [name for name, it in public.items() if not isinstance(it, types.ModuleType) and id(it) not in documented]
    assert missing == [], f"write `::: {room}.NAME` into a page of docs/reference"


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    docs = ROOT / "docs"
    pages = [str(page.relative_to(docs).as_posix()) for page in docs.glob("**/*.md")]
    assert [page for page in pages if not re.search(rf"[ :-] {page}$", navigation, flags=re.MULTILINE)] == []
