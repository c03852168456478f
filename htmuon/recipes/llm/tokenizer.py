"""A byte-level BPE tokenizer, trained on the training documents of a run."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from htmuon.recipes.extras import require

END_OF_TEXT = "<|endoftext|>"
END_TOKEN = 0


def train_tokenizer(documents: Sequence[str], vocab_size: int) -> Any:
    """Train byte-level BPE with `tokenizers`; token 0 is the end token, and every text can be encoded.

    Args:
        documents: the text.
        vocab_size: entries of the vocabulary, at least 257; a short text may fill fewer.

    Example:
        >>> tokenizer = train_tokenizer(["to be or not to be"], 260)
        >>> tokenizer.decode(tokenizer.encode("not to be").ids)
        'not to be'
    """
    tokenizers = require("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def encode(tokenizer: Any, documents: Sequence[str]) -> list[Tensor]:
    """The tokens of each document and an end token, int32 `[length]`.

    The words "<|endoftext|>" inside a document are encoded as the plain text that they are.
    """
    tokenizer.encode_special_tokens = True
    encodings = tokenizer.encode_batch(documents, add_special_tokens=False)
    return [torch.tensor([*encoding.ids, END_TOKEN], dtype=torch.int32) for encoding in encodings]
