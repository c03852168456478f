"""The language models of the HTMuon paper (arXiv 2603.10067): LLaMAs on C4, GPT-2 small on OpenWebText.

Each is a recipe in two forms. `NAME` is the model, its data and its budget as this library trains: hidden matrices go
to the spectral side, and documents fill every sequence in a row. `NAME-paper` is the published protocol: every
parameter of two and more dims is a matrix, embeddings and output head too, and each document is a sequence of its own,
cut off or padded. The numbers of the LLaMAs are those of the paper's code (github.com/TDCSZ327/HTmuon, configs/ and
scripts/).

That code has bfloat16 weights, in which a decay of less than 2^-9 in a step is lost: most of its runs have none. Here
weights are float32 in either form and only the products are bfloat16, so that weight decay is what it says. The gains
of RMSNorm do not decay here; in the paper's bfloat16 their decay changed nothing.

The paper trains GPT-2 small on OpenWebText, but its code has no settings for it. Here the model and data of nanoGPT,
480 x 1024 tokens, 100,000 steps, 2,000 of them warm-up, and clipping at 1 are those of MARS (github.com/AGI-Arena/MARS,
config/train_gpt2_small_muon.py), on which that code says to build. The rest is not: MARS has no decay of the matrices,
and a constant learning rate that then falls in a line to 0 (0.01 of the peak at most); here all decay by 0.1, and a
cosine ends at a tenth, as for the LLaMAs. Of the paper's protocol for GPT-2 it is only known that it gives every
matrix to the spectral side.
"""

from dataclasses import dataclass, replace

from htmuon.data.text.language_models import GPT2Config, LlamaConfig
from htmuon.data.text.text_config import TextStreamConfig
from htmuon.training.run_config import RECIPES, OptimizerConfig, RunConfig


@dataclass(frozen=True)
class _Llama:
    """A row of the paper's settings; `batch_size` of the 512 sequences of a step are in one forward pass."""

    model: LlamaConfig
    steps: int
    batch_size: int
    lr: float
    optimizer: str = "htmuon"


def _model(hidden_size: int, intermediate_size: int, num_layers: int, num_heads: int) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=hidden_size, intermediate_size=intermediate_size, num_layers=num_layers, num_heads=num_heads
    )


_SEQUENCES = 512
_LLAMAS = {
    "60m": _Llama(_model(512, 1376, 8, 8), steps=10_000, batch_size=64, lr=0.03),
    "135m": _Llama(_model(768, 2048, 12, 12), steps=20_000, batch_size=64, lr=0.03),
    "350m": _Llama(_model(1024, 2736, 24, 16), steps=60_000, batch_size=32, lr=5e-3),
    "1b": _Llama(
        _model(2048, 5461, 24, 32),
        steps=90_000,
        batch_size=16,
        lr=5e-3,
        # The one form of HTMuon that the paper's code runs at this size.
        optimizer="htmuon:schedule=interval,power=0.125,every=5",
    ),
}

_C4 = TextStreamConfig(
    dataset="allenai/c4",
    subset="en",
    held_out_split="validation",
    tokenizer="google-t5/t5-base",
    end_token="</s>",
    vocab_size=32000,
    sequence_length=256,
)
_OPENWEBTEXT = TextStreamConfig(
    dataset="Skylion007/openwebtext",
    tokenizer="openai-community/gpt2",
    end_token="<|endoftext|>",
    vocab_size=50304,  # 50257, and up to a multiple of 64, as in nanoGPT
    sequence_length=1024,
)


def _llama(size: str, row: _Llama) -> RunConfig:
    return RunConfig(
        recipe=f"llama-{size}",
        data=_C4,
        model=row.model,
        optimizer=OptimizerConfig(name=row.optimizer, lr=row.lr, adamw_lr=1e-3, weight_decay=0.1),
        steps=row.steps,
        batch_size=row.batch_size,
        accumulation=_SEQUENCES // row.batch_size,
        warmup_fraction=0.1,
        final_lr_fraction=0.1,
        eval_interval=1000,
        log_interval=10,
        checkpoint_interval=500,
        monitor_every=1000,
    )


def _gpt2_small() -> RunConfig:
    return RunConfig(
        recipe="gpt2-small",
        data=_OPENWEBTEXT,
        model=GPT2Config(hidden_size=768, num_layers=12, num_heads=12),
        optimizer=OptimizerConfig(name="htmuon", lr=0.02, adamw_lr=3e-3, weight_decay=0.1),
        steps=100_000,
        batch_size=12,
        accumulation=40,
        warmup_fraction=0.02,
        final_lr_fraction=0.1,
        max_grad_norm=1.0,
        eval_interval=1000,
        log_interval=10,
        checkpoint_interval=500,
        monitor_every=1000,
    )


def _as_published(config: RunConfig) -> RunConfig:
    """The protocol of the paper, with its routing and, where it is known, its packing."""
    data = config.data
    assert isinstance(data, TextStreamConfig)
    return replace(
        config,
        recipe=f"{config.recipe}-paper",
        data=replace(data, packing="pad") if data.dataset == _C4.dataset else data,
        optimizer=replace(config.optimizer, matrices="all"),
    )


def _register(config: RunConfig, description: str) -> None:
    def recipe() -> RunConfig:
        return config

    recipe.__doc__ = description
    RECIPES.register(config.recipe)(recipe)


for _size, _row in _LLAMAS.items():
    _config = _llama(_size, _row)
    _tokens = f"{_config.steps * _config.tokens_per_step / 1e9:.1f} billion tokens"
    _register(_config, f"LLaMA-{_size.upper()} of the HTMuon paper on C4, {_tokens}.")
    _register(_as_published(_config), "The same in the paper's protocol: all matrices spectral, padded documents.")
_register(
    _gpt2_small(),
    "GPT-2 small on OpenWebText, 49 billion tokens; model and budget of MARS, decay and schedule as for LLaMA.",
)
_register(_as_published(_gpt2_small()), "The same with all matrices spectral, as in the paper.")
