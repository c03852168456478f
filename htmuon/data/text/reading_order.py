"""The order in which streamed documents are read, and which of them are held out."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch

from htmuon.data.held_back import is_held_back
from htmuon.data.text.documents import Fault, read_documents
from htmuon.data.text.shards import Shards
from htmuon.data.text.text_config import TextStreamConfig
from htmuon.training.resumable import mix_seed
from htmuon.training.run_config import DataSplit

# Without files of its own for evaluation, a data set gives one document in so many.
HOLD_OUT_EVERY = 16


@dataclass(frozen=True)
class FilePlace:
    """Where reading resumes.

    Args:
        epoch: how often all files have been read.
        file: how many files of this epoch have been read.
        row: how many rows of the next file have been read.
    """

    epoch: int = 0
    file: int = 0
    row: int = 0


def training_documents(
    shards: Shards, config: TextStreamConfig, seed: int, place: FilePlace, use: DataSplit = "test"
) -> Iterator[tuple[str | Fault, FilePlace]]:
    """Documents to train on, each with the place after it, from a place on and without end.

    The files come in a new order each epoch, which the seed alone decides; within a file the order is that of the file.

    Args:
        shards: the files.
        config: the settings.
        seed: of the order.
        place: where to start.
        use: what the run is for; one that confirms holds some back.

    Raises:
        ValueError: in a whole epoch there was nothing, not even a fault.
    """
    while True:
        found = place != FilePlace(place.epoch)
        generator = torch.Generator().manual_seed(mix_seed(seed, place.epoch))
        order = torch.randperm(len(shards.training), generator=generator).tolist()
        for number in order[place.file :]:
            wanted = partial(_is_trained_on, shards, use, number)
            for row, document in read_documents(shards.training[number], config, first=place.row, wanted=wanted):
                found = True
                place = replace(place, row=row + 1)
                yield document, place
            place = replace(place, file=place.file + 1, row=0)
        if not found:
            raise ValueError(f"the data must have documents to train on; {config.path or config.dataset} has none.")
        place = FilePlace(place.epoch + 1)


def held_out_documents(shards: Shards, config: TextStreamConfig, use: DataSplit) -> Iterator[str | Fault]:
    """The documents to evaluate on, for one use; no two uses have any in common.

    For validation and for the test they are every second document of the held-out files or, without such files, every
    second one of every 16th; for a confirmation every 16th of those that are trained on otherwise.
    """
    confirming = use == "confirmation"
    for number, file in enumerate(shards.training if confirming else shards.held_out or shards.training):
        for _, document in read_documents(file, config, wanted=partial(_is_of_use, shards, use, number)):
            yield document


def _is_trained_on(shards: Shards, use: DataSplit, number: int, row: int) -> bool:
    # The number of the file counts too, so that of a folder of short files some are held out.
    held_out = not shards.held_out and (number + row) % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1
    return not held_out and not (use == "confirmation" and is_held_back(number + row))


def _is_of_use(shards: Shards, use: DataSplit, number: int, row: int) -> bool:
    if use == "confirmation":
        return is_held_back(number + row)
    turn = number + row if shards.held_out else (number + row) // HOLD_OUT_EVERY
    is_held_out = bool(shards.held_out) or not _is_trained_on(shards, use, number, row)
    return is_held_out and turn % 2 == ("validation", "test").index(use)
