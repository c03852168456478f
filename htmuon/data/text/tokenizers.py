"""Tokenizers: a byte-level BPE trained on the training documents of a run, or one that others trained."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from htmuon._extras import require
from htmuon.data.text.shards import NOT_REACHED, hub_answers
from htmuon.data.text.text_config import TextStreamConfig

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


_FILE = "tokenizer.json"
_REMEDY = f"give a {_FILE} of the tokenizers library, or a folder with one: --data.tokenizer PATH"


class StoredTokenizer:
    """Tokens of documents, as the settings ask for them.

    With packing "pad" a document gets the special tokens that the tokenizer adds by itself and is cut off at
    `sequence_length`; with "concatenate" it gets the end token.

    Args:
        config: the settings.

    Raises:
        ValueError: there is no such tokenizer, or it lacks the end token.
    """

    def __init__(self, config: TextStreamConfig) -> None:
        self.config = config
        file = _find(config.tokenizer)
        try:
            self._tokenizer: Any = require("tokenizers").Tokenizer.from_file(str(file))
        # tokenizers raises nothing narrower.
        except Exception as error:
            raise ValueError(f"{file} must be a tokenizer ({error}); {_REMEDY}.") from error
        self.fingerprint = hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()[:16]
        # The name of a special token inside a document is the plain text that it is.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if config.packing == "pad":
            self._tokenizer.enable_truncation(config.sequence_length)
        self._end = self._tokenizer.token_to_id(config.end_token)
        if self._end is None:
            names = ", ".join(token.content for token in self._tokenizer.get_added_tokens_decoder().values())
            raise ValueError(
                f"the tokenizer {config.tokenizer} must have the token {config.end_token!r}, which ends a document; "
                f"choose another with --data.end-token, such as one of its special tokens: {names or 'it has none'}."
            )

    def encode(self, documents: Sequence[str]) -> list[list[int]]:
        """The tokens of each document.

        Raises:
            ValueError: a token is not below `vocab_size`.
        """
        alone = self.config.packing == "pad"
        encodings = self._tokenizer.encode_batch_fast(documents, add_special_tokens=alone)
        tokens = [encoding.ids if alone else [*encoding.ids, self._end] for encoding in encodings]
        largest = max(map(max, filter(None, tokens)), default=0)
        if largest >= self.config.vocab_size:
            raise ValueError(
                f"every token must be below vocab_size={self.config.vocab_size}; the tokenizer gave {largest}. "
                f"Give --data.vocab-size {self._tokenizer.get_vocab_size()}."
            )
        return tokens


def _find(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        path /= _FILE
    if path.is_file():
        return path
    if path.exists() or path.suffix == ".json" or path.is_absolute() or path.name == _FILE:
        raise ValueError(f"the tokenizer {name} must be a file that exists; {_REMEDY}.")
    hub = require("huggingface_hub")
    try:
        return Path(hub.hf_hub_download(name, _FILE, local_files_only=True))
    except (OSError, ValueError):
        if not hub_answers():
            raise ValueError(f"the tokenizer {name} {NOT_REACHED}; connect to the network, or {_REMEDY}.") from None
    try:
        return Path(hub.hf_hub_download(name, _FILE))
    except (OSError, ValueError) as error:
        raise ValueError(f"the tokenizer {name} was not found on the Hugging Face hub ({error}); {_REMEDY}.") from error
