"""Documents, and their division into training, validation and test documents."""

import dataclasses
import hashlib
import importlib.resources
import json
import lzma
from pathlib import Path

from htmuon.data.text.text_config import TextConfig

# One document in this many is held out.
HOLD_OUT_EVERY = 16
EMBEDDED_SEPARATOR = "\n<|endoftext|>\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitDocuments:
    """Documents by their use. No document is in two parts.

    Args:
        training: the tokenizer and the model are trained on these.
        validation: settings such as the learning rate are chosen on these.
        test: results are measured on these and nothing is chosen on them.
    """

    training: list[str]
    validation: list[str]
    test: list[str]


def read_files(path: str) -> dict[str, bytes]:
    """The raw content of a text file or of the `*.txt` files in a folder, by name; "" gives the embedded text.

    Raises:
        ValueError: there is no such path, no text file in the folder, or a file cannot be read.
    """
    if not path:
        folder = importlib.resources.files("htmuon.data.text") / "embedded"
        return {name: (folder / name).read_bytes() for name in ("sotu.train.txt.xz", "sotu.valid.txt.xz")}
    root = Path(path).expanduser()
    if not root.exists():
        raise ValueError(f"the data path must be a text file or a folder of *.txt files; {path!r} does not exist.")
    files = sorted(root.rglob("*.txt")) if root.is_dir() else [root]
    if not files:
        raise ValueError(f"the data folder {path!r} holds no *.txt file; give a folder with some, or a text file.")
    try:
        return {str(file.relative_to(root)) if root.is_dir() else file.name: file.read_bytes() for file in files}
    except OSError as error:
        raise ValueError(f"the data file {error.filename} cannot be read ({error.strerror}); check it.") from error


def fingerprint(files: dict[str, bytes], config: TextConfig) -> str:
    """Sixteen hexadecimal digits that identify the text and the settings that turn it into tokens."""
    digests = [(name, hashlib.sha256(content).hexdigest()) for name, content in files.items()]
    settings = [config.separator if config.path else EMBEDDED_SEPARATOR, config.vocab_size]
    return hashlib.sha256(json.dumps([digests, settings]).encode()).hexdigest()[:16]


def split_documents(files: dict[str, bytes], config: TextConfig) -> SplitDocuments:
    """Divide the text of `read_files(config.path)` by document, in an order that never changes.

    Of n local documents every 16th is held out (every (n // 2)-th for n < 32), for validation and test in turn. The
    embedded text comes with 15 addresses held out, every 16th in time.

    Raises:
        ValueError: a file is not UTF-8, the text is empty, or it has fewer than four documents.
    """
    if not config.path:
        training, held_out = (_documents(lzma.decompress(content), EMBEDDED_SEPARATOR) for content in files.values())
        return SplitDocuments(training=training, validation=held_out[::2], test=held_out[1::2])
    separator = config.separator.replace("\\n", "\n")
    documents = [doc for name, content in files.items() for doc in _documents(_utf8(name, content), separator)]
    if not documents:
        raise ValueError(f"the data at {config.path!r} is empty; give a file or folder with text.")
    if len(documents) < 4:
        raise ValueError(
            f"the data must have at least 4 documents, because whole documents are held out for evaluation; "
            f"{config.path!r} has {len(documents)} with the separator {config.separator!r}. Set the separator to what "
            r"stands between documents, '\n\n' for instance if it is a blank line, or give a folder of files."
        )
    every = min(HOLD_OUT_EVERY, len(documents) // 2)
    held_out = documents[every - 1 :: every]
    training = [document for index, document in enumerate(documents) if index % every != every - 1]
    return SplitDocuments(training=training, validation=held_out[::2], test=held_out[1::2])


def _utf8(name: str, content: bytes) -> bytes:
    """`content`, checked, without a byte order mark and with Unix line ends."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"the data must be UTF-8 text; {name} is not, at byte {error.start}. Convert it, with iconv for instance."
        ) from error
    return text.replace("\r\n", "\n").encode()


def _documents(content: bytes, separator: str) -> list[str]:
    stripped = (part.strip() for part in content.decode().split(separator))
    return [document for document in stripped if document]
