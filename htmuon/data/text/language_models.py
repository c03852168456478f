"""Language models by their shape: LLaMA and GPT-2 of `transformers`, with new weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from htmuon._checks import check_whole
from htmuon._extras import require
from htmuon.training.run_config import MODELS, register_kind
from htmuon.training.task import TaskKind


@register_kind(MODELS)
@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """The shape of a LLaMA with separate input and output embeddings.

    Args:
        hidden_size: width of the residual stream.
        intermediate_size: width of the gated MLP.
        num_layers: number of decoder blocks.
        num_heads: attention heads; `hidden_size / num_heads` must be a whole even number.
    """

    kind: ClassVar[str] = "llama"
    task: ClassVar[TaskKind] = "language"
    noun: ClassVar[str] = "LLaMA language model"

    hidden_size: int = 128
    intermediate_size: int = 352
    num_layers: int = 6
    num_heads: int = 4

    def __post_init__(self) -> None:
        for name in ("hidden_size", "intermediate_size", "num_layers", "num_heads"):
            check_whole(name, getattr(self, name), 1)
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size must be a multiple of 2 * num_heads, because rotary embeddings turn pairs of channels; "
                f"got hidden_size={self.hidden_size}, num_heads={self.num_heads}."
            )

    def build_model(self, *, vocab_size: int, sequence_length: int, seed: int) -> torch.nn.Module:
        """A float32 `LlamaForCausalLM` on the CPU whose weights depend on the arguments alone.

        Args:
            vocab_size: rows of the embeddings.
            sequence_length: the longest input.
            seed: of the initial weights.
        """
        transformers = require("transformers")
        config = transformers.LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_heads,
            max_position_embeddings=sequence_length,
            tie_word_embeddings=False,
            **_WITHOUT,
        )
        return _initialized(lambda: transformers.LlamaForCausalLM(config), seed)


@register_kind(MODELS)
@dataclass(frozen=True, kw_only=True)
class GPT2Config:
    """The shape of a GPT-2 without dropout, whose output head is its input embedding.

    Args:
        hidden_size: width of the residual stream; the MLP is four times as wide.
        num_layers: number of decoder blocks.
        num_heads: attention heads; `hidden_size / num_heads` must be a whole number.
    """

    kind: ClassVar[str] = "gpt2"
    task: ClassVar[TaskKind] = "language"
    noun: ClassVar[str] = "GPT-2 language model"

    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_layers", "num_heads"):
            check_whole(name, getattr(self, name), 1)
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_heads; got hidden_size={self.hidden_size}, "
                f"num_heads={self.num_heads}."
            )

    def build_model(self, *, vocab_size: int, sequence_length: int, seed: int) -> torch.nn.Module:
        """A float32 `GPT2LMHeadModel` on the CPU whose weights depend on the arguments alone.

        Args:
            vocab_size: rows of the embeddings.
            sequence_length: the longest input.
            seed: of the initial weights.
        """
        transformers = require("transformers")
        config = transformers.GPT2Config(
            vocab_size=vocab_size,
            n_positions=sequence_length,
            n_embd=self.hidden_size,
            n_layer=self.num_layers,
            n_head=self.num_heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            **_WITHOUT,
        )
        return _initialized(lambda: transformers.GPT2LMHeadModel(config), seed)


def _initialized(build: Callable[[], torch.nn.Module], seed: int) -> torch.nn.Module:
    """A float32 network on the CPU whose weights depend on the seed alone; the caller's random state is not changed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().float()


# A run has no special tokens but its own, and no generation.
_WITHOUT: dict[str, Any] = {"use_cache": False, "bos_token_id": None, "eos_token_id": None}
