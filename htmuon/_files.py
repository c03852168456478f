"""Files and folders that are either complete or not there, whenever the process is killed."""

import hashlib
import json
import math
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from htmuon._extras import require

MANIFEST, LOCK = "manifest.json", ".lock"


class DamagedFolderError(ValueError):
    """A sealed folder whose content does not agree with its manifest."""


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    is_folder = path.is_dir()
    if is_folder and sys.platform == "win32":  # which opens no folder, and so has nothing to wait for
        return
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)  # Windows flushes only what can be written
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is written there replaces `path` at the end, in one move."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Keep other processes out of a folder while the context is open; the folder is made if it is not there.

    Raises:
        ValueError: the folder cannot be written, or another process holds it.
    """
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(one_at_a_time(folder / LOCK, timeout=0.0))
        except Timeout as error:
            raise ValueError(
                f"another process is {doing} in {folder}; wait until it ends, or choose another folder."
            ) from error
        except OSError as error:
            raise ValueError(
                f"{folder} must be a folder that can be written ({error.strerror}). Choose another."
            ) from error
        yield


@contextmanager
def one_at_a_time(lock: Path, timeout: float = -1.0) -> Iterator[None]:
    """Wait until no other process has this context open with the same `lock`, a file that is there meanwhile.

    The system ends the hold of a process that is killed; the file that it leaves stops nobody.

    Args:
        lock: the file; its folder exists.
        timeout: seconds to wait; negative for as long as it takes.

    Raises:
        OSError: the file cannot be written.
        Timeout: the time is over.
    """
    with FileLock(lock, timeout=timeout):
        try:
            yield
        finally:
            # Those that wait for the file that is removed here notice and take a new one. Windows removes no file that
            # is open; there filelock removes it afterwards.
            with suppress(PermissionError):
                lock.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path` that nothing else has."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


@contextmanager
def sealed_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; at the end it gets a manifest of checksums and the name `path`.

    Raises:
        OSError: the folder cannot be written, or `path` exists and is not empty.
    """
    temporary = temporary_name(path)
    temporary.mkdir()
    try:
        yield temporary
        files = sorted(temporary.iterdir())
        write_json(temporary / MANIFEST, {"sha256": {file.name: sha256(file) for file in files}})
        for file in files:
            sync(file)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def verify_sealed_folder(path: Path) -> None:
    """Check a folder made by `sealed_folder` against its manifest.

    Raises:
        DamagedFolderError: a file is missing, unreadable or changed.
    """
    try:
        expected = json.loads((path / MANIFEST).read_text())["sha256"]
        changed = [name for name, digest in expected.items() if sha256(path / name) != digest]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFolderError(f"{path} is not complete: {error}") from error
    if changed:
        raise DamagedFolderError(f"{path} is damaged: {', '.join(changed)} changed after it was written")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, in one move; floats that are not finite become null, because JSON has none."""
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(finite(value), indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors, wherever they are and whatever memory they share, as a safetensors file."""
    # safetensors asks for contiguous tensors with memory of their own.
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    path.write_bytes(require("safetensors.torch").save(copies))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    They are copies: tensors mapped to the file would end the process if the file were cut short meanwhile.
    """
    tensors: dict[str, Tensor] = require("safetensors.torch").load(path.read_bytes())
    return tensors


def finite(value: Any) -> Any:
    """`value` (a nest of dicts and lists) with None for each float that is not finite, for which JSON has no word."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def slug(spec: str) -> str:
    """The optimizer's name in paths.

    Example:
        >>> slug("htmuon:power=0.25,normalization=rms")
        'htmuon-power=0.25-normalization=rms'
    """
    return re.sub(r"[^A-Za-z0-9.=_]+", "-", spec)
