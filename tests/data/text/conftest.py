"""A small text in the format of C4, a tokenizer, and the settings of a run on them."""

import pytest
from text_streams import write_c4, write_tokenizer

from htmuon.data.text.language_models import LlamaConfig
from htmuon.data.text.text_config import TextStreamConfig
from htmuon.training.run_config import OptimizerConfig, RunConfig


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("streams")
    write_c4(root / "c4")
    write_tokenizer(root / "tokenizer.json")
    return root


@pytest.fixture
def data(root):
    return TextStreamConfig(
        path=str(root / "c4"),
        dataset="allenai/c4",
        tokenizer=str(root / "tokenizer.json"),
        end_token="</s>",
        vocab_size=20,
        sequence_length=12,
    )


@pytest.fixture
def run(data):
    return RunConfig(
        recipe="test",
        data=data,
        model=LlamaConfig(hidden_size=8, intermediate_size=12, num_layers=1, num_heads=2),
        optimizer=OptimizerConfig(name="htmuon", lr=0.02, adamw_lr=0.003),
        steps=12,
        batch_size=4,
        accumulation=2,
        eval_interval=6,
        log_interval=1,
        checkpoint_interval=5,
        device="cpu",
    )
