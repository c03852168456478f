"""A language-model run on text that is read and tokenized while the model trains."""

import hashlib
import math
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from htmuon.data.text.held_out import read_held_out
from htmuon.data.text.next_token import held_out_loss, training_loss
from htmuon.data.text.reading_order import training_documents
from htmuon.data.text.sequences import Encode, Position, encoded_documents, packed, to_batch
from htmuon.data.text.shards import Shards, find_shards
from htmuon.data.text.text_config import TextStreamConfig
from htmuon.data.text.tokenizers import StoredTokenizer
from htmuon.training.run_config import RunConfig
from htmuon.training.task import Batch, Evaluation

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """The items of an endless iterator, made in one background thread before they are asked for.

    Args:
        items: the iterator; no other thread may use it.
        depth: how many items are made ahead, at most.

    Example:
        >>> import itertools
        >>> squares = Prefetcher((n * n for n in itertools.count()), depth=3)
        >>> next(squares), next(squares)
        (0, 1)
    """

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._items = items
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="htmuon-ahead")
        self._results: deque[Future[T]] = deque(self._pool.submit(next, items) for _ in range(depth))
        # What was not asked for is not made once nobody can ask.
        weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)

    def __next__(self) -> T:
        """The next item; an error in making it is raised here."""
        result = self._results.popleft()
        self._results.append(self._pool.submit(next, self._items))
        return result.result()


# Batches that are ready before they are needed, at least a step's, which are asked for at once.
_AHEAD = 16
# Fewer files have hardly any orders.
_FEW_FILES = 4


class TextStreamSource:
    """The files of a run's text, and its tokenizer.

    Args:
        config: the settings of the run.
        data: its text.

    Raises:
        ValueError: there are none, or they are on a hub that is not reached.
    """

    libraries = ("transformers", "tokenizers", "safetensors", "datasets")

    def __init__(self, config: RunConfig, data: TextStreamConfig) -> None:
        self.config, self.data = config, data
        self.shards = find_shards(self.data)
        self.tokenizer = StoredTokenizer(self.data)
        parts = f"{self.shards.fingerprint} {self.tokenizer.fingerprint}"
        self.fingerprint = hashlib.sha256(parts.encode()).hexdigest()[:16]

    def build_model(self) -> torch.nn.Module:
        """The network with its initial weights, on the CPU; equal settings and seeds give equal weights."""
        return self.config.model.build_model(**self.data.sizes, seed=self.config.seed)

    def open(self, device: torch.device, cache: Path, on_message: Callable[[str], None]) -> "StreamedModelling":
        """The task; its held-out documents are read now, and nothing is kept in `cache`.

        Raises:
            ValueError: no held-out document can be read.
        """
        return StreamedModelling(self.config, self.data, self.shards, self.tokenizer, device, on_message)


@dataclass(frozen=True)
class _Made:
    """A training batch, the position after it, and the messages that are due when it is used."""

    inputs: Tensor
    targets: Tensor
    position: Position
    messages: tuple[str, ...]


class StreamedModelling:
    """Next-token prediction on streamed documents.

    Args:
        config: the settings of the run.
        data: its text.
        shards: the files.
        tokenizer: makes tokens of documents.
        device: where batches are needed.
        on_message: called with sentences about the files, documents that cannot be read, and epochs.

    Raises:
        ValueError: no held-out document can be read.
    """

    def __init__(
        self,
        config: RunConfig,
        data: TextStreamConfig,
        shards: Shards,
        tokenizer: StoredTokenizer,
        device: torch.device,
        on_message: Callable[[str], None],
    ) -> None:
        self.config, self.data = config, data
        self.shards, self.tokenizer = shards, tokenizer
        self.device, self.on_message = device, on_message
        self.position = Position()
        self._batches: Prefetcher[_Made] | None = None
        if len(shards.training) < _FEW_FILES:
            on_message(
                "the order of documents hardly depends on the seed: it decides the order of files, and within a file "
                f"documents stay as they are; for another order divide the text into more than {len(shards.training)}."
            )
        self.held_out = read_held_out(shards, self.data, config.split, tokenizer.encode, on_message)
        self.chance_loss = math.log(self.data.vocab_size) - 1e-3

    @property
    def unreadable_samples(self) -> int:
        """How many documents, to train or to evaluate on, could not be read so far."""
        return self.held_out.unreadable + self.position.unreadable

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch that was fetched."""
        return self.position.to_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`; the next batch is the one after that position."""
        self.position = Position.from_dict(state)
        self._batches = None

    def fetch(self, index: int) -> Batch:
        """Inputs and targets `[batch_size, sequence_length]` of the next training batch.

        Raises:
            OSError: the files cannot be reached any more.
            ValueError: no document of a whole epoch can be read, or the tokens are not those of the vocabulary.
        """
        if self._batches is None:
            made_ahead = _made(self.config, self.data, self.shards, self.tokenizer.encode, self.position)
            self._batches = Prefetcher(made_ahead, max(_AHEAD, self.config.accumulation))
        try:
            made = next(self._batches)
        except OSError as error:
            raise OSError(
                f"{error}; when it can be reached again, the run resumes from its last checkpoint (with --resume)."
            ) from error
        for message in made.messages:
            self.on_message(message)
        self.position = made.position
        return made.inputs.to(self.device), made.targets.to(self.device)

    def training_loss(self, model: torch.nn.Module, batch: Batch) -> Tensor:
        """Mean loss in nats per target, 0-d, of a batch."""
        return training_loss(model, batch)

    def evaluate(self, model: torch.nn.Module) -> Evaluation:
        """The loss on the held-out documents; each of their targets counts once and equally."""
        inputs, targets, size = self.held_out.inputs, self.held_out.targets, self.config.batch_size
        return Evaluation(held_out_loss(model, inputs, targets, batch_size=size, device=self.device))


# Not a method: a thread that holds the task would keep it alive.
def _made(
    config: RunConfig, data: TextStreamConfig, shards: Shards, encode: Encode, position: Position
) -> Iterator[_Made]:
    messages: list[str] = []
    documents = training_documents(shards, data, config.seed, position.place, config.split)
    encoded = encoded_documents(documents, encode, position, messages.append)
    sequences: list[list[int]] = []
    for sequence, after in packed(encoded, data):
        sequences.append(sequence)
        if len(sequences) == config.batch_size:
            inputs, targets = to_batch(sequences, data.sequence_length)
            yield _Made(inputs, targets, after, tuple(messages))
            sequences.clear()
            messages.clear()
