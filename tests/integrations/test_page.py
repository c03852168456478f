"""The lines of docs/integrations.md run, where the library that they are about is installed."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"
LIBRARIES = ("transformers", "accelerate", "lightning", "timm")
BEFORE, *BLOCKS = re.findall(r"```py\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)

# What these libraries say of a CPU, of short loaders without workers, and of torch 2.14.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{words}")
    for words in (
        "'pin_memory' argument is set",
        "The 'train_dataloader' does not have",
        "The number of training batches",
        ".*isinstance.treespec, Leaf",
    )
]


def needed(block):
    """The libraries of a block; the Trainer of transformers needs accelerate, too."""
    named = [name for name in LIBRARIES if re.search(rf"^(import|from) {name}\b", block, flags=re.MULTILINE)]
    return [*named, "accelerate"] if "transformers" in named else named


def test_each_library_has_its_lines():
    assert {name for block in BLOCKS for name in needed(block)} == set(LIBRARIES)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: needed(block)[0])
def test_a_block_runs(block, tmp_path, monkeypatch):
    run([BEFORE, block], tmp_path, monkeypatch)


def test_the_page_runs_as_a_whole(tmp_path, monkeypatch):
    run([BEFORE, *BLOCKS], tmp_path, monkeypatch)


def run(blocks, folder, monkeypatch):
    for library in {name for block in blocks for name in needed(block)}:
        pytest.importorskip(library)
    monkeypatch.chdir(folder)
    names = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    for path in re.findall(r'path="(\S+)"', "".join(blocks)):
        assert (folder / path).stat().st_size > 0
