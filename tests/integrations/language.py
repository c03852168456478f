"""A language model of a few thousand weights and sentences of random words, for the trainers of transformers."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

WORDS = 64
RATES = {"lr": 0.02, "adamw_lr": 0.003}


def language_model():
    torch.manual_seed(0)
    sizes = {"vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 32}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    # transformers 5 does not say what stands at the beginning and the end of such a vocabulary.
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, bos_token_id=1, eos_token_id=2, pad_token_id=0))


def sentences(count=32, length=16):
    drawn = torch.randint(3, WORDS, (count, length), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": words, "labels": words} for words in drawn]


def equal(one, other):
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)
