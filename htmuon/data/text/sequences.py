"""Documents as sequences of equal length, and the position from which a run resumes with the same ones."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from htmuon.data.text.documents import Fault
from htmuon.data.text.reading_order import FilePlace
from htmuon.data.text.text_config import TextStreamConfig
from htmuon.training.task import NO_TARGET

Encode = Callable[[list[str]], list[list[int]]]

# Documents that are tokenized in one call, which uses all cores.
_GROUP = 64


@dataclass(frozen=True)
class Position:
    """What decides all sequences to come.

    Args:
        place: where reading resumes.
        token: how many tokens of the next document are in sequences already.
        unreadable: documents left out so far, because they cannot be read.
    """

    place: FilePlace = field(default_factory=FilePlace)
    token: int = 0
    unreadable: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The position as a dict of plain values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Position":
        """The inverse of `to_dict`."""
        return cls(**{**values, "place": FilePlace(**values["place"])})


# The tokens of a document, and the positions before and after it.
Encoded = tuple[list[int], Position, Position]


def encoded_documents(
    documents: Iterable[tuple[str | Fault, FilePlace]],
    encode: Encode,
    position: Position,
    on_message: Callable[[str], None],
) -> Iterator[Encoded]:
    """The documents that can be read, as tokens; the others are counted.

    They are reported where their count is a power of two, and so are new epochs.

    Args:
        documents: from `training_documents`, starting at `position.place`.
        encode: makes tokens of texts.
        position: of the first document.
        on_message: gets the messages.

    Raises:
        ValueError: no document of an epoch can be read.
    """
    # Begun in the middle of an epoch, the next one is the first that is whole.
    whole_epoch = position.place.epoch + (position.place != FilePlace(position.place.epoch))
    usable = False
    for item, place in _in_groups(documents, encode):
        if place.epoch > position.place.epoch and _is_power_of_two(place.epoch):
            on_message(f"all training data was read; epoch {place.epoch + 1} starts.")
        if not isinstance(item, Fault):
            usable = True
            after = Position(place, 0, position.unreadable)
            yield item, position, after
            position = after
            continue
        position = Position(place, 0, position.unreadable + 1)
        count = position.unreadable
        if place.epoch > whole_epoch and not usable:
            raise ValueError(
                f"the training data must have documents that can be read; none of {count} could be ({item.what}). "
                "Look at the files, and at --data.text-column."
            )
        if _is_power_of_two(count):
            on_message(f"{count} training document{'s' * (count > 1)} left out, as unreadable: {item.what}.")


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


def _in_groups(
    documents: Iterable[tuple[str | Fault, FilePlace]], encode: Encode
) -> Iterator[tuple[list[int] | Fault, FilePlace]]:
    remaining = iter(documents)
    while group := list(islice(remaining, _GROUP)):
        tokens = iter(encode([document for document, _ in group if isinstance(document, str)]))
        for document, place in group:
            item = document if isinstance(document, Fault) else next(tokens)
            # Of a single token nothing is predicted, and a padded batch of such documents would have no loss.
            if isinstance(item, list) and len(item) < 2:
                item = Fault(f"row {place.row}: fewer than two tokens")
            yield item, place


def packed(documents: Iterable[Encoded], config: TextStreamConfig) -> Iterator[tuple[list[int], Position]]:
    """Sequences, with the position after each, of at most `sequence_length` + 1 tokens, the last a target only.

    With packing "pad" a sequence is a document; with "concatenate" all but the last have their full length.
    """
    if config.packing == "pad":
        return ((tokens, after) for tokens, _, after in documents)
    return concatenated(documents, config.sequence_length)


def concatenated(documents: Iterable[Encoded], length: int) -> Iterator[tuple[list[int], Position]]:
    """Sequences of `length` + 1 tokens of documents in a row, with the position after each; the last may be shorter.

    The last token of a sequence is the first of the next.
    """
    tokens: list[int] = []
    # Where in `tokens` each document that is not used up starts, and the position before it.
    started: deque[tuple[int, Position]] = deque()
    after = Position()
    for document, before, after in documents:  # noqa: B007  # the last one is used at the end
        started.append((len(tokens) - before.token, before))
        tokens += document[before.token :]
        used = 0
        while len(tokens) - used > length:
            sequence = tokens[used : used + length + 1]
            used += length
            while len(started) > 1 and started[1][0] <= used:
                started.popleft()
            start, before = started[0]
            yield sequence, replace(before, token=used - start)
        # Once for each document: for each sequence it would take time with the square of a document's length.
        del tokens[:used]
        started = deque((start - used, before) for start, before in started)
    if len(tokens) > 1:
        yield tokens, after


def to_batch(sequences: list[list[int]], length: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets `[sequences, length]` (int64); what a sequence lacks is input 0 and no target.

    Example:
        >>> to_batch([[5, 6, 7, 8], [9, 3]], 3)
        (tensor([[5, 6, 7],
                [9, 3, 0]]), tensor([[   6,    7,    8],
                [   3, -100, -100]]))
    """
    tokens = torch.tensor([sequence + [NO_TARGET] * (length + 1 - len(sequence)) for sequence in sequences])
    return tokens[:, :-1].clamp(min=0), tokens[:, 1:]
