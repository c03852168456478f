"""What the package promises about itself."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import htmuon

PACKAGE = Path(htmuon.__file__).parent


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_importing_the_library_loads_torch_and_nothing_heavier():
    code = (
        "import torch, sys; before = set(sys.modules); import htmuon;"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"transformers", "tokenizers", "safetensors", "matplotlib", "rich", "tyro", "jinja2", "scipy", "pandas"}
    heavy |= {"accelerate", "lightning", "timm"}
    assert "htmuon" in loaded
    assert not heavy & set(loaded)


def test_only_layouts_and_training_know_of_ranks():
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] not in ("layouts", "training"):
            assert not [name for name in imported(path) if name.startswith("torch.distributed")], path


def test_matplotlib_is_imported_by_the_plots_and_the_report_alone():
    users = {path.name for path in PACKAGE.rglob("*.py") if any(n.startswith("matplotlib") for n in imported(path))}
    assert {name for name in users if not name.endswith("figures.py")} <= {"plots.py"}


def test_public_names_exist_and_are_documented():
    for name in htmuon.__all__:
        assert getattr(htmuon, name).__doc__, name


def test_analysis_is_there_after_the_import_and_loaded_when_it_is_used():
    code = (
        "import htmuon, sys; assert 'analysis' in dir(htmuon) and 'htmuon.analysis' not in sys.modules;"
        "print(htmuon.analysis.stable_rank.__name__)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert said == "stable_rank"
    with pytest.raises(AttributeError, match="no attribute 'analyses'"):
        _ = htmuon.analyses


@pytest.mark.parametrize("room", ["linalg", "spectral", "optim"])
def test_every_module_of_a_room_that_registers_parts_is_imported(room):
    code = f"import htmuon, sys; print(*(name for name in sys.modules if name.startswith('htmuon.{room}.')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    there = {f"htmuon.{room}.{path.stem}" for path in (PACKAGE / room).glob("*.py") if path.stem != "__init__"}
    assert there == set(loaded)
