"""Images by their path: on the hub, in a folder for each class, or in parquet files."""

from pathlib import Path

from htmuon.recipes.vision.folder import class_names, open_folder
from htmuon.recipes.vision.hub import PREFIX, download
from htmuon.recipes.vision.stored import StoredSet
from htmuon.recipes.vision.table import open_tables


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
