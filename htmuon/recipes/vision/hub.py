"""Images from the Hugging Face hub."""

from functools import partial
from pathlib import Path

from htmuon.recipes.extras import require
from htmuon.recipes.vision.table import of_part

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
