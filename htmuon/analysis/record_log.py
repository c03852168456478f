"""A log of JSON lines, in the order of their steps, that outlives a kill and continues after a resume."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from htmuon._files import finite

Record = dict[str, Any]
_BEGINNING = b'{"step": '  # of every line


def read_records(path: str | os.PathLike[str], last_step: int | None = None) -> list[Record]:
    """The lines of a log, up to the first that is not complete.

    Args:
        path: the file; one that does not exist is empty.
        last_step: leave out the lines of later steps.
    """
    path = Path(path)
    return [record for record, _ in _complete(path, last_step)] if path.exists() else []


def _complete(path: Path, last_step: int | None) -> Iterator[tuple[Record, int]]:
    """Each whole line up to `last_step`, and where it ends in the file."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            end += len(line)
            try:
                record = json.loads(line)
                late = last_step is not None and record["step"] > last_step
            except (ValueError, KeyError, TypeError):
                return
            if not line.endswith(b"\n") or late:
                return
            yield record, end


class RecordLog:
    """Appends lines, each with a `step`, to a file; a context manager.

    Args:
        path: the file; made if it is not there.
        last_step: the lines of later steps, which the run will write again, are cut off, as is what a kill left of the
            last line.

    Raises:
        ValueError: the file is something else; it was not changed.
    """

    def __init__(self, path: str | os.PathLike[str], last_step: int) -> None:
        self.path = Path(path)
        if self.path.exists():
            _check_ours(self.path)
            os.truncate(self.path, max((end for _, end in _complete(self.path, last_step)), default=0))
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, *records: Record) -> None:
        """Append lines at once; a killed process leaves at most a part of them, in order."""
        self._file.write("".join(json.dumps(finite(record), allow_nan=False) + "\n" for record in records))
        self._file.flush()

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_ours(path: Path) -> None:
    """Raise ValueError if the first line is no record, nor the rest of one: cutting would destroy another's file."""
    with path.open("rb") as file:
        first = file.readline()
    try:
        ours = "step" in json.loads(first)
    except (ValueError, TypeError):
        # What a kill left of the first line of ours.
        ours = _BEGINNING.startswith(first[: len(_BEGINNING)]) and not first.endswith(b"\n")
    if not ours:
        raise ValueError(
            f"{path} must be a log of JSON lines with a step each; its first line is none. Choose another."
        )
