"""The network of a language-model run: LLaMA from `transformers`, with new weights."""

import torch

from htmuon.recipes.config import ModelConfig
from htmuon.recipes.extras import require


def build_llama(config: ModelConfig, *, vocab_size: int, sequence_length: int, seed: int) -> torch.nn.Module:
    """A float32 `LlamaForCausalLM` on the CPU whose weights depend on the arguments alone.

    Input and output embeddings are separate. The random state of the caller is not changed.

    Args:
        config: the shape.
        vocab_size: rows of the embeddings.
        sequence_length: the longest input.
        seed: of the initial weights.
    """
    transformers = require("transformers")
    shape = transformers.LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        max_position_embeddings=sequence_length,
        tie_word_embeddings=False,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: torch.nn.Module = transformers.LlamaForCausalLM(shape)
    return model.float()
