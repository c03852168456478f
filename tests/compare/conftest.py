import random
from pathlib import Path

import pytest
import torch

from htmuon.compare.compare_config import CompareConfig
from htmuon.compare.grid import GridConfig
from htmuon.compare.report import comparison_page as report
from htmuon.data.text.language_models import LlamaConfig
from htmuon.data.text.text_config import TextConfig
from htmuon.training.run_config import OptimizerConfig, RunConfig

WORDS = ["the", "of", "nation", "people", "state", "congress", "year", "war", "peace", "law", "public", "great", "good"]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """For the fixtures of a whole module, which are made before those of a test."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve documents of 200 words each."""
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("<|endoftext|>".join(" ".join(draw.choices(WORDS, k=200)) for _ in range(12)))
    return path


@pytest.fixture(scope="session")
def tiny_run(text: Path) -> RunConfig:
    """Settings of a run that takes a fraction of a second."""
    return RunConfig(
        recipe="llama-tiny",
        data=TextConfig(path=str(text), vocab_size=300, sequence_length=16),
        model=LlamaConfig(hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2),
        optimizer=OptimizerConfig(weight_decay=0.05),
        steps=6,
        batch_size=2,
        eval_interval=2,
        log_interval=1,
        checkpoint_interval=2,
        monitor_every=3,
        device="cpu",
    )


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
