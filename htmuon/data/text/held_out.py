"""The held-out sequences of streamed text."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import torch
from torch import Tensor

from htmuon.data.held_back import EVERY
from htmuon.data.text.documents import Fault
from htmuon.data.text.reading_order import HOLD_OUT_EVERY, FilePlace, held_out_documents
from htmuon.data.text.sequences import Encode, Position, encoded_documents, packed, to_batch
from htmuon.data.text.shards import Shards
from htmuon.data.text.text_config import TextStreamConfig
from htmuon.training.run_config import DataSplit

# Sequences that are made into tensors at once: as lists they take eight times the memory.
_CHUNK = 256


@dataclass(frozen=True)
class HeldOutSequences:
    """What a run is evaluated on.

    Args:
        inputs: `[sequences, length]`, int32 on the CPU.
        targets: the same.
        unreadable: documents that were met and could not be read.
    """

    inputs: Tensor
    targets: Tensor
    unreadable: int


def read_held_out(
    shards: Shards, config: TextStreamConfig, use: DataSplit, encode: Encode, on_message: Callable[[str], None]
) -> HeldOutSequences:
    """Read held-out documents until they have `config.evaluation_tokens` targets, or there are no more.

    Args:
        shards: the files.
        config: the settings.
        use: what they are for.
        encode: makes tokens of texts.
        on_message: called with a sentence about documents that cannot be read.

    Raises:
        ValueError: there is no document that can be read.
    """
    unreadable, example = 0, ""

    def readable() -> Iterator[tuple[str | Fault, FilePlace]]:
        nonlocal unreadable, example
        for document in held_out_documents(shards, config, use):
            if isinstance(document, Fault):
                unreadable, example = unreadable + 1, document.what
            else:
                yield document, FilePlace()

    on_message(_announcement(shards, config, use))
    chunks: list[tuple[Tensor, Tensor]] = []
    waiting: list[list[int]] = []
    remaining = config.evaluation_tokens
    for sequence, _ in packed(encoded_documents(readable(), encode, Position(), on_message), config):
        remaining -= len(sequence) - 1
        if remaining < 0 and (chunks or waiting):
            break
        waiting.append(sequence)
        if len(waiting) == _CHUNK:
            chunks.append(_int32(waiting, config))
            waiting = []
    if waiting:
        chunks.append(_int32(waiting, config))
    if unreadable:
        on_message(f"held-out documents left out, as unreadable: {unreadable}, such as {example}.")
    if not chunks:
        raise ValueError(
            f"the data must have {use} documents that can be read; {config.path or config.dataset} has none among "
            f"{'its held-out files' if shards.held_out else f'every {HOLD_OUT_EVERY}th document'}. Give more text, at "
            f"least {2 * HOLD_OUT_EVERY} documents where no file is held out by its name{_divided(shards)}."
        )
    inputs, targets = zip(*chunks, strict=True)
    return HeldOutSequences(torch.cat(inputs), torch.cat(targets), unreadable)


def _announcement(shards: Shards, config: TextStreamConfig, use: DataSplit) -> str:
    training, held_out = len(shards.training), len(shards.held_out)
    files = f"{training} file{'s' * (training > 1)} to train on"
    if use == "confirmation":
        others = f"every {EVERY}th document of them is held back"
    elif not held_out:
        others = f"every {HOLD_OUT_EVERY}th document is held out"
    else:
        others = f"{held_out} held out, such as {PurePosixPath(shards.held_out[0]).name}"
    return f"text: {files}, {others}; first up to {config.evaluation_tokens:,} held-out tokens are read."


def _divided(shards: Shards) -> str:
    """What to add for text files, in which documents can be divided otherwise."""
    is_text = any(file.removesuffix(".gz").endswith(".txt") for file in (*shards.training, *shards.held_out))
    return ", and choose what divides the documents of .txt files with --data.separator" if is_text else ""


def _int32(sequences: list[list[int]], config: TextStreamConfig) -> tuple[Tensor, Tensor]:
    inputs, targets = to_batch(sequences, config.sequence_length)
    return inputs.int(), targets.int()
