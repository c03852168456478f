"""Images in parquet files in the layout of the Hugging Face hub: a column of image files and one of class numbers."""

import re
from collections import defaultdict
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from htmuon._extras import require
from htmuon.data.images.images import fingerprint
from htmuon.data.images.stored import HELD_OUT, NO_LABEL, StoredSet, UnreadableImageError, check_classes, decode

if TYPE_CHECKING:
    from PIL.Image import Image


# As the hub's CIFAR-10 ("img", "label"), CIFAR-100 ("img", "fine_label") and ImageNet ("image", "label") have them.
IMAGES, LABELS = ("image", "img"), ("label", "fine_label")
# As the hub names the files of a part: train-00000-of-00005.parquet, the older ones with a hash behind it.
_NUMBERED = re.compile(r"(?P<stem>.*)-(?P<number>\d+)-of-(?P<total>\d+)")
_SHOWN = 3


class TableImages:
    """The images of one part, in a table of `datasets` that is mapped into memory, not read.

    Args:
        files: parquet files, in order.
        part: what messages call it.

    Raises:
        ValueError: the files cannot be read, or have no such columns.
    """

    def __init__(self, files: list[Path], part: str) -> None:
        datasets = require("datasets")
        self.part = part
        try:
            # Files, escaped, for `datasets` takes the name of a folder with brackets for a pattern and finds nothing.
            names = [escape(str(file)) for file in files]
            table = datasets.load_dataset("parquet", data_files=names, split="train")
        # pyarrow's errors of damaged files are ValueError or OSError; that of datasets around them is a RuntimeError.
        except (ValueError, OSError, RuntimeError) as error:
            raise ValueError(f"{files[0].parent} must hold parquet files that can be read; got: {error}.") from error
        self.column = _column(table.features, IMAGES, files[0])
        label = _column(table.features, LABELS, files[0])
        if not str(getattr(table.features[label], "dtype", "")).startswith(("int", "uint")):
            raise ValueError(
                f"the column {label!r} of {files[0]} must hold class numbers; it is {table.features[label]}."
            )
        labels = table.data.column(label).to_pandas().fillna(NO_LABEL).to_numpy(dtype="int64", copy=True)
        self.labels = torch.from_numpy(labels).clamp(min=NO_LABEL)
        self.class_names: list[str] | None = getattr(table.features[label], "names", None)
        if isinstance(table.features[self.column], datasets.Image):
            table = table.cast_column(self.column, datasets.Image(decode=False))
        self.table = table.select_columns([self.column])

    def name(self, index: int) -> str:
        """The part and the row of image number `index`."""
        return f"row {index} of the {self.part} images"

    def read(self, index: int) -> "Image":
        """Image number `index`, RGB.

        Raises:
            UnreadableImageError: it cannot be decoded.
        """
        stored: Any = self.table[index][self.column]
        content = stored.get("bytes") if isinstance(stored, dict) else stored
        if not isinstance(content, bytes):
            raise UnreadableImageError(f"{self.name(index)} is empty")
        return decode(content, self.name(index))


def open_tables(root: Path) -> StoredSet:
    """The images in the parquet files below `root`, whose paths say "train" and "val", "validation" or "test".

    Raises:
        ValueError: a part, or a file of a part, is missing, or the files are not such tables.
    """
    files = sorted(root.rglob("*.parquet"))
    held_out = next((found for name in HELD_OUT if (found := of_part(files, root, name))), [])
    training = of_part(files, root, "train")
    check_complete([*training, *held_out], root)
    if not training or not held_out:
        raise ValueError(
            f"the parquet files must be named train-*.parquet and test-*.parquet (or validation-*); {str(root)!r} has "
            f"{len(training)} files for training and {len(held_out)} held-out ones. Rename them."
        )
    parts = TableImages(training, "training"), TableImages(held_out, "test")
    names = parts[0].class_names
    classes = len(names) if names else int(parts[0].labels.max()) + 1
    check_classes(*parts, classes, str(root))
    sizes = [f"{file.relative_to(root)} {file.stat().st_size}".encode() for file in (*training, *held_out)]
    identity = fingerprint(*sizes, *(part.labels.numpy().tobytes() for part in parts))
    return StoredSet(training=parts[0], test=parts[1], classes=classes, fingerprint=identity)


def check_complete(files: list[Path], root: Path) -> None:
    """Check that of the files `NAME-NUMBER-of-TOTAL` every number is there; `datasets` would read those that are.

    Args:
        files: files below `root`; those with other names are not looked at.
        root: the folder of the data set.

    Raises:
        ValueError: some are missing; the message names them.
    """
    found: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for file in files:
        if match := _NUMBERED.match(file.relative_to(root).as_posix()):
            found[match["stem"], match["total"]][int(match["number"])] = match["number"]
    missing = [name for (stem, total), numbers in found.items() for name in _missing(stem, total, numbers)]
    if missing:
        raise ValueError(
            f"the parquet files of a part must all be there; {str(root)!r} lacks {', '.join(missing[:_SHOWN])}"
            f"{f' and {len(missing) - _SHOWN} more' if len(missing) > _SHOWN else ''}. Put them there; files of the "
            "hub are fetched when there is a network."
        )


def _missing(stem: str, total: str, numbers: dict[int, str]) -> list[str]:
    first = 1 if int(total) in numbers and 0 not in numbers else 0  # most count from 0, a few from 1
    width = len(next(iter(numbers.values())))
    expected = range(first, first + int(total))
    return [f"{stem}-{number:0{width}}-of-{total}.parquet" for number in expected if number not in numbers]


def of_part(files: list[Path], root: Path, part: str) -> list[Path]:
    """The files with a folder or a name that starts with the word `part`."""
    return [file for file in files if re.search(rf"(^|/){part}([-_./]|$)", file.relative_to(root).as_posix())]


def _column(features: Any, names: tuple[str, ...], file: Path) -> str:
    found = next((name for name in names if name in features), None)
    if found is None:
        raise ValueError(
            f"parquet files of images must have a column {' or '.join(map(repr, names))}; {file} has "
            f"{', '.join(map(repr, features))}. Rename it."
        )
    return found
