"""Images by their path: on the hub, in a folder for each class, or in parquet files."""

from functools import partial
from pathlib import Path

from htmuon._extras import require
from htmuon.data.images.folder import class_names, open_folder
from htmuon.data.images.parquet import of_part, open_tables
from htmuon.data.images.stored import StoredSet

PREFIX = "hf://datasets/"
# The files that `of_part` takes for the part "test".
_TEST_FILES = [f"{folder}test{mark}*" for folder in ("", "*/") for mark in "-_./"]


def download(path: str) -> Path:
    """The folder with the parquet files of a data set of the hub, fetched if they are not there yet.

    Test files are not fetched where there are validation files, which are used instead: ImageNet's have no labels.

    Args:
        path: `hf://datasets/OWNER/NAME`.

    Raises:
        ValueError: the hub is not reached, has no such data set, or asks to log in; the message is one sentence.
    """
    hub, errors = require("huggingface_hub"), require("huggingface_hub.errors")
    name = path.removeprefix(PREFIX)
    local = (
        "or give local images with --data PATH: an .npz file, a folder train/CLASS/*.png and test/CLASS/*.png, or the "
        "hub's parquet files"
    )
    try:
        # Unlike `datasets.load_dataset`, which tries for half a minute, this says at once that there is no network.
        fetch = partial(hub.snapshot_download, name, repo_type="dataset", allow_patterns=["*.parquet"])
        folder = Path(fetch(ignore_patterns=_TEST_FILES))
        files = list(folder.rglob("*.parquet"))
        return folder if any(of_part(files, folder, part) for part in ("val", "validation")) else Path(fetch())
    except errors.GatedRepoError as error:
        raise ValueError(
            f"the images {path} need a licence: accept it at https://huggingface.co/datasets/{name} and log in with "
            f"`hf auth login`, {local}."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(f"the images {path} are not on the Hugging Face hub: check the name, {local}.") from error
    except errors.LocalEntryNotFoundError as error:
        raise ValueError(
            f"the images {path} are not {'all ' if hasattr(error, 'snapshot_path') else ''}on this computer and the "
            f"Hugging Face hub could not be reached ({_phrase(error.__cause__ or 'offline mode')}): connect to the "
            f"network, {local}."
        ) from error
    # A proxy, a connection that breaks, the store behind the hub, a name that is none: each has errors of its own.
    except Exception as error:
        raise ValueError(f"fetching the images {path} failed ({_phrase(error)}): try again, {local}.") from error


def _phrase(error: object) -> str:
    """A message of the hub, which can have several lines, in one."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def is_array_file(path: str) -> bool:
    """Whether `path` stands for one .npz file, as "", that of the embedded images, does."""
    return not path or (not path.startswith(PREFIX) and not Path(path).expanduser().is_dir())


def open_stored(path: str) -> StoredSet:
    """The images in a folder or on the hub.

    Args:
        path: a folder with `train/CLASS/*.png` and `test/CLASS/*.png` (or `val`, or `validation`; other image formats
            too), a folder with `train-*.parquet` and `test-*.parquet`, or `hf://datasets/OWNER/NAME`.

    Raises:
        ValueError: there is no such thing, or it cannot be used.
    """
    root = download(path) if path.startswith(PREFIX) else Path(path).expanduser()
    # Folders for classes first: they can hold a million files, through which parquet files would be looked for.
    if (root / "train").is_dir() and class_names(root / "train"):
        return open_folder(root)
    if next(root.rglob("*.parquet"), None) is not None:
        return open_tables(root)
    raise ValueError(
        f"a folder of images must hold train/CLASS/*.png and test/CLASS/*.png (or val/), or train-*.parquet and "
        f"test-*.parquet (or validation-*); {path!r} holds neither."
    )
