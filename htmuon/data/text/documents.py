"""The documents of one file, read while they are needed, and what is wrong with those that are damaged."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from glob import escape
from pathlib import PurePosixPath
from typing import Any

from htmuon._extras import require
from htmuon.data.text.text_config import TextStreamConfig

LONGEST = 64 * 2**20


def separated(blocks: Iterable[bytes], separator: bytes, longest: int = LONGEST) -> Iterator[bytes | None]:
    r"""What stands between separators; None for a document that is too long.

    Args:
        blocks: the content of a file, cut anywhere.
        separator: what divides it.
        longest: bytes of a document, at most.

    Example:
        >>> list(separated([b"one\nt", b"wo\n", b"three"], b"\n", longest=4))
        [b'one', b'two', None]
    """
    overlap = len(separator) - 1
    document = bytearray()
    too_long = False
    for block in blocks:
        seen = max(0, len(document) - overlap)
        document += block
        begin = 0
        while (end := document.find(separator, max(seen, begin))) >= 0:
            yield None if too_long or end - begin > longest else bytes(document[begin:end])
            begin, too_long = end + len(separator), False
        del document[:begin]
        if len(document) > longest + overlap:
            too_long = True
            del document[: len(document) - overlap]
    yield None if too_long or len(document) > longest else bytes(document)


def with_plain_newlines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    r"""The same content with `\n` for each `\r\n`."""
    held = b""
    for block in blocks:
        content = held + block
        held = b"\r" if content.endswith(b"\r") else b""
        yield content[: len(content) - len(held)].replace(b"\r\n", b"\n")
    yield held


_BLOCK = 2**20
# `datasets` tries for more than a minute, and `fsspec` and the hub's client add to it.
_RETRIES, _RETRY_SECONDS = 4, 2


@dataclass(frozen=True)
class Fault:
    """A document, or the rest of a file, that cannot be read.

    Args:
        what: where it is, and why.
    """

    what: str


def read_documents(
    file: str, config: TextStreamConfig, *, first: int = 0, wanted: Callable[[int], bool] = lambda row: True
) -> Iterator[tuple[int, str | Fault]]:
    """Row numbers and texts of the documents in a file.

    A row is a line of a JSON file, a row of a parquet file or a document of a text file, counted from 0. Blank ones of
    JSON and text files are no documents. Where a file is damaged, the rest of it is one fault.

    Args:
        file: path or URL.
        config: the settings.
        first: the row to start with.
        wanted: which rows are read.

    Raises:
        OSError: the file cannot be reached, or not any more.
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
    # A proxy, a connection that breaks, the store behind the hub: each has errors of its own.
    except Exception as error:
        if not _is_damage(error, file):
            raise OSError(f"reading {file} failed ({type(error).__name__}: {error})") from error
        if row + 1 >= first:
            yield row + 1, Fault(f"{name}, all after row {row + 1}: {error}")


def _is_damage(error: Exception, file: str) -> bool:
    """Whether the content of a file is the reason of an error, and not the way to it."""
    damage = (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError, require("pyarrow").ArrowInvalid)
    # Arrow's error for pages that cannot be unpacked has no number, unlike those of the operating system.
    unpacking = type(error) is OSError and error.errno is None
    return isinstance(error, damage) or (unpacking and file.endswith(".parquet") and not _is_remote(file))


def _is_remote(file: str) -> bool:
    return "://" in file


def _rows(file: str, config: TextStreamConfig) -> Iterator[Any]:
    """What stands for each document: the value of a parquet file, or the bytes of another."""
    if file.endswith(".parquet"):
        return _parquet_rows(file, config.text_column)
    if _is_json(file):
        return separated(_blocks(file), b"\n")
    return separated(with_plain_newlines(_blocks(file)), config.separator.replace("\\n", "\n").encode())


def _parquet_rows(file: str, column: str) -> Iterator[Any]:
    datasets = require("datasets")
    datasets.config.STREAMING_READ_MAX_RETRIES = datasets.config.STREAMING_OPEN_MAX_RETRIES = _RETRIES
    datasets.config.STREAMING_READ_RETRY_INTERVAL = datasets.config.STREAMING_OPEN_RETRY_INTERVAL = _RETRY_SECONDS
    # What is not a URL is not to be taken for a pattern.
    files = file if _is_remote(file) else escape(file)
    stream = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    if column not in stream.column_names:
        names = ", ".join(stream.column_names)
        raise require("pyarrow").ArrowInvalid(f"no column {column!r}, it has {names}")
    for row in stream.select_columns(column):
        yield row[column]


def _blocks(file: str) -> Iterator[bytes]:
    # Not by `datasets`, which decodes megabytes at once, so that one byte that is not UTF-8 costs the whole file.
    with require("fsspec").open(file, "rb", compression="gzip" if file.endswith(".gz") else None) as content:
        # Where there is `read1`, it returns what comes before damage.
        read = getattr(content, "read1", content.read)
        while block := read(_BLOCK):
            yield block


def _is_json(file: str) -> bool:
    return PurePosixPath(file.removesuffix(".gz")).suffix in (".json", ".jsonl")


def _document(raw: Any, file: str, config: TextStreamConfig) -> str:
    """The text of a document, "" if there is none.

    Raises:
        ValueError: it cannot be read; the message says why.
    """
    if file.endswith(".parquet"):
        return _checked(raw, config.text_column)
    if raw is None:
        limit = f"longer than {LONGEST // 2**20} MB"
        raise ValueError(limit if _is_json(file) else f"{limit}; choose what divides documents with --data.separator")
    try:
        text: str = raw.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    if not text or not _is_json(file):
        return text
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error
    except ValueError as error:
        raise ValueError("not JSON") from error
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {type(value).__name__}; each line must be an object")
    if config.text_column not in value:
        raise ValueError(f"no {config.text_column!r} (--data.text-column), only {', '.join(map(repr, value))}"[:200])
    return _checked(value[config.text_column], config.text_column)


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
