from pathlib import Path

import pytest
import torch

from htmuon.compare.compare_config import CompareConfig
from htmuon.compare.grid import GridConfig
from htmuon.compare.report import comparison_page as report
from htmuon.training.run_config import RunConfig


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """For the fixtures of a whole module, which are made before those of a test."""
    torch.set_num_threads(1)


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without figures, which take longer to draw than such runs to train."""
    monkeypatch.setattr(report, "build_figures", lambda *_: [])


@pytest.fixture
def tiny(tiny_run: RunConfig, tmp_path: Path) -> CompareConfig:
    """A comparison of two optimizers that tunes with a small grid."""
    return CompareConfig(
        run=tiny_run,
        out=tmp_path / "out",
        optimizers=("muon", "htmuon:power=0.25"),
        learning_rates="tune",
        grid=GridConfig(points=3, max_extensions=1),
    )
