"""The documents of one file, read while they are needed, and what is wrong with those that are damaged."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from glob import escape
from pathlib import PurePosixPath
from typing import Any

from htmuon.recipes.extras import require
from htmuon.recipes.llm.stream_config import StreamConfig

# Text files are read in pieces of so many bytes; a file that is cut off loses at most one of them.
_PIECE = 1 << 20


@dataclass(frozen=True)
class Fault:
    """A document, or the rest of a file, that cannot be read.

    Args:
        what: where it is, and why.
    """

    what: str


def read_documents(
    file: str, config: StreamConfig, *, first: int = 0, wanted: Callable[[int], bool] = lambda row: True
) -> Iterator[tuple[int, str | Fault]]:
    """Row numbers and texts of the documents in a file.

    A row is a line of a JSON file, a row of a parquet file or a document of a text file, counted from 0. Blank ones of
    JSON and text files are no documents. Where a file is damaged, the rest of it is one fault.

    Args:
        file: path or URL.
        config: the settings.
        first: the row to begin with.
        wanted: which rows are read.
    """
    name = PurePosixPath(file).name
    row = -1
    try:
        for row, raw in enumerate(_rows(file, config)):
            if row < first or not wanted(row):
                continue
            try:
                document = _document(raw, file, config)
            except ValueError as error:
                yield row, Fault(f"{name}, row {row + 1}: {error}")
                continue
            if document:
                yield row, document
    except (EOFError, gzip.BadGzipFile, zlib.error, require("pyarrow").ArrowInvalid) as error:
        if row + 1 >= first:
            yield row + 1, Fault(f"{name}, all after row {row + 1}: {error}")


def _rows(file: str, config: StreamConfig) -> Iterator[Any]:
    """What stands for each document: the value of a parquet file, or the bytes of another as latin-1 text."""
    data_files = escape(file) if "://" not in file else file
    load: Callable[..., Any] = require("datasets").load_dataset
    if file.endswith(".parquet"):
        stream = load("parquet", data_files=data_files, split="train", streaming=True)
        if config.text_column not in stream.column_names:
            columns = ", ".join(stream.column_names)
            raise require("pyarrow").ArrowInvalid(f"no column {config.text_column!r}, it has {columns}")
        stream = stream.select_columns(config.text_column)
        return (row[config.text_column] for row in stream)
    # As latin-1 every byte is one character, so that a line that is not UTF-8 spoils no other.
    settings = {"encoding": "latin-1", "chunksize": _PIECE, "keep_linebreaks": True}
    lines = (row["text"] for row in load("text", data_files=data_files, split="train", streaming=True, **settings))
    return lines if ".json" in PurePosixPath(file).name else _separated(lines, config.separator.replace("\\n", "\n"))


def _separated(lines: Iterable[str], separator: str) -> Iterator[str]:
    mark = separator.encode().decode("latin-1")
    document = ""
    for line in lines:
        seen = max(0, len(document) + 1 - len(mark))
        document += line
        while (end := document.find(mark, seen)) >= 0:
            yield document[:end]
            document, seen = document[end + len(mark) :], 0
    yield document


def _document(raw: Any, file: str, config: StreamConfig) -> str:
    """The text of a document, "" if there is none.

    Raises:
        ValueError: it cannot be read; the message says why.
    """
    if file.endswith(".parquet"):
        return _checked(raw, config.text_column)
    try:
        text = raw.encode("latin-1").decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    if not text or ".json" not in PurePosixPath(file).name:
        return str(text)
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError("not JSON") from error
    return _checked(value.get(config.text_column) if isinstance(value, dict) else None, config.text_column)


def _checked(text: object, column: str) -> str:
    if not isinstance(text, str):
        raise ValueError(f"no text under {column!r}")
    if not text.strip():
        raise ValueError("empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("half of a surrogate pair, which no encoding has") from error
    return text
