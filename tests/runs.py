import dataclasses
import multiprocessing
import random
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest

from htmuon.data.text.language_models import LlamaConfig
from htmuon.data.text.text_config import TextConfig
from htmuon.training.run_config import OptimizerConfig, RunConfig
from htmuon.training.run_result import Observer

STATE = ["nation", "people", "congress", "year", "war", "peace", "law", "public", "great", "good"]
WORDS = ["the", "of", "and", "to", "in", "that", "it", "is", "was", "for", "on", "are", "as", "with", "his", "they"]


@pytest.fixture(scope="session")
def text_file(tmp_path_factory) -> Path:
    """Forty documents of random common words."""
    draw = random.Random(0)
    documents = [" ".join(draw.choices(WORDS, k=60)) for _ in range(40)]
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("\n\n".join(documents))
    return path


@pytest.fixture
def config(text_file) -> RunConfig:
    """A run of about a third of a second."""
    return RunConfig(
        recipe="test",
        data=TextConfig(path=str(text_file), separator="\n\n", vocab_size=280, sequence_length=16),
        model=LlamaConfig(hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2),
        optimizer=OptimizerConfig(name="htmuon", lr=0.02, adamw_lr=0.003),
        steps=12,
        batch_size=4,
        eval_interval=5,
        log_interval=2,
        checkpoint_interval=3,
        device="cpu",
    )


@pytest.fixture
def with_optimizer(config):
    """The same run with another optimizer."""

    def change(spec: str, **settings) -> RunConfig:
        return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, name=spec, **settings))

    return change


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve documents of 200 words each."""
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("<|endoftext|>".join(" ".join(draw.choices(STATE, k=200)) for _ in range(12)))
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


PRELOAD = ["htmuon.recipes", "transformers.models.llama.modeling_llama", "tokenizers", "safetensors.torch"]
PRELOAD += ["datasets", "pyarrow"]


@pytest.fixture(scope="session")
def processes() -> BaseContext:
    """A server that has the libraries loaded, so that a new process costs milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # the processes inherit it from the server, which starts with the first
        context.Process(target=print).start()
    return context


class Recorder(Observer):
    """Keeps what a run tells; `at_step` is called with the number of steps done."""

    def __init__(self, at_step=lambda step: None):
        self.at_step = at_step
        self.first_steps, self.steps, self.evaluations, self.messages, self.results = [], [], [], [], []

    def on_start(self, run, first_step):
        self.first_steps.append(first_step)

    def on_step(self, step, loss, seconds):
        self.steps.append((step, loss))
        self.at_step(step)

    def on_evaluation(self, step, loss):
        self.evaluations.append((step, loss))

    def on_message(self, text):
        self.messages.append(text)

    def on_finish(self, result):
        self.results.append(result)


@pytest.fixture
def recorder():
    return Recorder
