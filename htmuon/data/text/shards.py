"""The files that streamed text is in, on a disk or on the Hugging Face hub."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from htmuon._extras import require
from htmuon.data.text.text_config import TextStreamConfig

NOT_REACHED = "is on the Hugging Face hub, which does not answer from here"
# The hub's own clients try for half a minute and more before they give up.
_PATIENCE_SECONDS = 10.0


@cache
def hub_answers() -> bool:
    """Whether the hub, or the mirror that HF_ENDPOINT names, answers one request; asked once in a process."""
    hub = require("huggingface_hub")
    if hub.constants.is_offline_mode():
        return False
    try:
        hub.get_session().head(hub.constants.ENDPOINT, timeout=_PATIENCE_SECONDS)
    # Whichever HTTP library the session is of: no name, no route, no certificate, no time.
    except Exception:
        return False
    return True


# A whole word of the path: "c4-validation.00000.json.gz", "val/0.jsonl" and "test.parquet", and not "invalid.jsonl".
_HELD_OUT = re.compile(r"(?<![a-z])(val|valid|validation|test)(?![a-z])", re.IGNORECASE)
SUFFIXES = (".json", ".jsonl", ".txt", ".json.gz", ".jsonl.gz", ".txt.gz", ".parquet")


@dataclass(frozen=True)
class Shards:
    """The files of a data set, in an order that never changes.

    Args:
        training: paths or URLs of the files to train on, at least one.
        held_out: those to evaluate on; if there is none, a part of the documents of the others is held out.
        fingerprint: sixteen hexadecimal digits that identify the files, as far as that is known without reading them.
    """

    training: tuple[str, ...]
    held_out: tuple[str, ...]
    fingerprint: str


def find_shards(config: TextStreamConfig) -> Shards:
    """The files that the settings name.

    Raises:
        ValueError: there are none, or the hub is not reached; the message names the remedy.
    """
    return _local(config.path) if config.path else _on_the_hub(config)


def _local(path: str) -> Shards:
    root = Path(path).expanduser().absolute()
    if not root.exists():
        raise ValueError(f"the data path must be a file or a folder with text; {path!r} does not exist.")
    files = sorted(file for file in root.rglob("*") if _is_text(file)) if root.is_dir() else [root]
    held_out = [file for file in files if _HELD_OUT.search(str(file.relative_to(root)))] if root.is_dir() else []
    training = [file for file in files if file not in held_out]
    if not training or not all(map(_is_text, training)):
        raise ValueError(
            f"the data must be files to train on that end in {', '.join(SUFFIXES)}, in whose path none of the words "
            f"val, valid, validation and test stands, as in those of held-out files; {path!r} "
            f"{'has none' if root.is_dir() else 'is none'}."
        )
    # The content of terabytes is not read: names and sizes tell one folder from another.
    sizes = [(str(file.relative_to(root)) if root.is_dir() else file.name, file.stat().st_size) for file in files]
    return Shards(tuple(map(str, training)), tuple(map(str, held_out)), _digest(sizes))


def _is_text(file: Path) -> bool:
    return file.name.endswith(SUFFIXES) and not file.name.startswith(".") and file.is_file()


def _on_the_hub(config: TextStreamConfig) -> Shards:
    datasets = require("datasets")
    name = config.dataset + (f" ({config.subset})" if config.subset else "")
    remedy = "give local files with --data PATH"
    if not hub_answers():
        raise ValueError(f"the text of {name} {NOT_REACHED}; connect to the network, or {remedy}.")
    try:
        builder = datasets.load_dataset_builder(config.dataset, config.subset or None, revision=config.revision or None)
        files = builder.config.data_files or {}
        training, held_out = (files[split] if split else [] for split in (config.training_split, config.held_out_split))
    # A dataset that is not there, is private, has no such subset or needs a program of its own: all are for the user.
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"the dataset {name} must be files of text on the Hugging Face hub ({error}); "
            f"choose another with --data.dataset, --data.subset and --data.revision, or {remedy}."
        ) from error
    except KeyError as error:
        raise ValueError(
            f"the dataset {name} has the splits {', '.join(map(str, files))} and not {error}; choose with "
            "--data.training-split and --data.held-out-split."
        ) from error
    unknown = [file for file in (*training, *held_out) if not file.endswith(SUFFIXES)]
    if unknown:
        raise ValueError(f"the dataset {name} must have files that end in {', '.join(SUFFIXES)}; it has {unknown[0]}.")
    # The URLs contain the commit. A new one of the same files, such as that of a corrected README, is no other data.
    names = [re.sub("@[0-9a-f]{40}", "", url) for url in (*training, "", *held_out)]
    return Shards(tuple(training), tuple(held_out), _digest([config.revision, *names]))


def _digest(names: Iterable[object]) -> str:
    return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()[:16]
