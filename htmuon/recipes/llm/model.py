"""The network of a language-model run: LLaMA or GPT-2 from `transformers`, with new weights."""

from typing import Any

import torch

from htmuon.recipes.config import DataConfig, ModelConfig, RunConfig
from htmuon.recipes.extras import require
from htmuon.recipes.llm.gpt2_config import GPT2Config
from htmuon.recipes.llm.stream_config import StreamConfig


def build_model(config: RunConfig) -> torch.nn.Module:
    """The network of a run with its initial weights, on the CPU; equal settings and seeds give equal weights."""
    data, model = config.data, config.model
    assert isinstance(data, DataConfig | StreamConfig)
    assert isinstance(model, ModelConfig | GPT2Config)
    return build_network(model, vocab_size=data.vocab_size, sequence_length=data.sequence_length, seed=config.seed)


def build_network(
    config: ModelConfig | GPT2Config, *, vocab_size: int, sequence_length: int, seed: int
) -> torch.nn.Module:
    """A float32 `LlamaForCausalLM` or `GPT2LMHeadModel` on the CPU whose weights depend on the arguments alone.

    The random state of the caller is not changed.

    Args:
        config: the shape.
        vocab_size: rows of the embeddings.
        sequence_length: the longest input.
        seed: of the initial weights.
    """
    transformers = require("transformers")
    without_special_tokens: dict[str, Any] = {"use_cache": False, "bos_token_id": None, "eos_token_id": None}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: torch.nn.Module
        if isinstance(config, ModelConfig):
            llama = transformers.LlamaConfig(
                vocab_size=vocab_size,
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                num_key_value_heads=config.num_heads,
                max_position_embeddings=sequence_length,
                tie_word_embeddings=False,
                **without_special_tokens,
            )
            model = transformers.LlamaForCausalLM(llama)
        else:
            gpt2 = transformers.GPT2Config(
                vocab_size=vocab_size,
                n_positions=sequence_length,
                n_embd=config.hidden_size,
                n_layer=config.num_layers,
                n_head=config.num_heads,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                **without_special_tokens,
            )
            model = transformers.GPT2LMHeadModel(gpt2)
    return model.float()
