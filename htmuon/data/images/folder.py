"""Images in a folder for each class: `train/CLASS/NAME.png`, and `val` or `test` beside `train`.

The builder "imagefolder" of `datasets` is no substitute: every start takes a hundred times as long (measured on 40,000
files), the images of a class called "test" get into both parts, and classes that training does not have are accepted.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from htmuon._extras import require
from htmuon.data.images.images import fingerprint
from htmuon.data.images.stored import HELD_OUT, StoredSet, UnreadableImageError, check_classes, decode

if TYPE_CHECKING:
    from PIL.Image import Image

# What torchvision takes for an image.
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class FolderImages:
    """The images of one part.

    Args:
        root: its folder, with a folder for each class.
        classes: their names; a class's number is its place.

    Raises:
        ValueError: the folder has a class that is none of `classes`.
    """

    def __init__(self, root: Path, classes: list[str]) -> None:
        self.root = root
        unknown = sorted(set(class_names(root)) - set(classes))
        if unknown:
            raise ValueError(
                f"every class must have training images; {str(root)!r} has the folder {unknown[0]!r}, and training "
                f"has not. Its classes are {', '.join(classes[:5])}{' and more' if len(classes) > 5 else ''}."
            )
        labels, names, sizes = [], [], []
        for label, name in enumerate(classes):
            for entry in _images(root / name):
                labels.append(label)
                names.append(os.fsencode(f"{name}/{entry.name}"))
                sizes.append(entry.stat().st_size)
        self.labels = torch.tensor(labels, dtype=torch.int64)
        # A list of a million strings would be copied, page by page, in each process that counts references to them.
        self._names = require("numpy").array(names)
        self.fingerprint = fingerprint(b"\0".join(names), torch.tensor(sizes, dtype=torch.int64).numpy().tobytes())

    def name(self, index: int) -> str:
        """The path of image number `index`."""
        return str(self.root / os.fsdecode(self._names[index]))

    def read(self, index: int) -> "Image":
        """Image number `index`, RGB.

        Raises:
            UnreadableImageError: it cannot be decoded.
        """
        path = self.name(index)
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise UnreadableImageError(f"{path} cannot be read ({error.strerror})") from error
        return decode(content, path)


def open_folder(root: Path) -> StoredSet:
    """The images below `root`.

    Raises:
        ValueError: there is no held-out part, or the classes are not usable.
    """
    held_out = next((root / name for name in HELD_OUT if (root / name).is_dir()), None)
    if held_out is None:
        raise ValueError(
            f"a folder with train/ must have held-out images in one of {', '.join(f'{n}/' for n in HELD_OUT)}; "
            f"{str(root)!r} has none of them. Put a part of the images there."
        )
    classes = class_names(root / "train")
    training, test = FolderImages(root / "train", classes), FolderImages(held_out, classes)
    check_classes(training, test, len(classes), str(root))
    identity = fingerprint(training.fingerprint.encode(), test.fingerprint.encode())
    return StoredSet(training=training, test=test, classes=len(classes), fingerprint=identity)


def class_names(root: Path) -> list[str]:
    """The folders in `root`, in alphabetical order, without hidden ones such as `.ipynb_checkpoints`."""
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> list["os.DirEntry[str]"]:
    if not folder.is_dir():
        return []
    images = (entry for entry in os.scandir(folder) if entry.name.lower().endswith(SUFFIXES))
    return sorted(images, key=lambda entry: entry.name)
