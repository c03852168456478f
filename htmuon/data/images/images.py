"""Images and their classes, and their division into training, validation and test images."""

import hashlib
import importlib.resources
import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from htmuon._extras import require
from htmuon.data.held_back import held_back
from htmuon.training.run_config import DataSplit

EMBEDDED = "fashion_mnist_10k_2k.npz"
ARRAYS = ("x_train", "y_train", "x_test", "y_test")
REMEDY = "Make it with numpy.savez_compressed(path, x_train=..., y_train=..., x_test=..., y_test=...)."


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Images with their classes.

    Args:
        pixels: uint8 `[images, channels, height, width]`.
        labels: class numbers from 0, int64 `[images]`.
    """

    pixels: Tensor
    labels: Tensor

    def __getitem__(self, which: slice) -> "LabelledImages":
        return LabelledImages(pixels=self.pixels[which], labels=self.labels[which])

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, chosen: Tensor) -> "LabelledImages":
        """Those whose flag is set, `[n]` bool."""
        return LabelledImages(pixels=self.pixels[chosen], labels=self.labels[chosen])

    def to(self, device: torch.device) -> "LabelledImages":
        """The same images on a device."""
        return LabelledImages(pixels=self.pixels.to(device), labels=self.labels.to(device))


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """The images of a run by use. No image is in two parts.

    Args:
        training: the network is trained on these.
        held_out: the images to evaluate on, in turn for validation (settings such as the learning rate are chosen on
            them) and for test (results are measured on them and nothing is chosen on them).
        classes: how many there are.
    """

    training: LabelledImages
    held_out: dict[DataSplit, LabelledImages]
    classes: int

    def of(self, split: DataSplit) -> tuple[LabelledImages, LabelledImages]:
        """The images to train on and those to evaluate on."""
        if split != "confirmation":
            return self.training, self.held_out[split]
        back = held_back(len(self.training))
        return self.training.where(~back), self.training.where(back)


def read_file(path: str) -> bytes:
    """The content of an .npz file; "" gives the embedded images.

    Raises:
        ValueError: there is no such file, or it cannot be read.
    """
    if not path:
        return (importlib.resources.files("htmuon.data.images") / "embedded" / EMBEDDED).read_bytes()
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"the data path must be an .npz file; {path!r} is not a file. {REMEDY}")
    try:
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"the data file {path!r} cannot be read ({error.strerror}); check it.") from error


def fingerprint(*contents: bytes) -> str:
    """Sixteen hexadecimal digits that identify a file's content, or that of several in their order."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()[:16]


def split_images(content: bytes, path: str) -> ImageSet:
    """The images of an .npz file by use.

    Args:
        content: of the file.
        path: for errors.

    Raises:
        ValueError: the file is damaged, an array is missing, or its type, shape or values are not those of images.
    """
    training, test, classes = labelled_images(content, path)
    held_out: dict[DataSplit, LabelledImages] = {"validation": test[::2], "test": test[1::2]}
    return ImageSet(training=training, held_out=held_out, classes=classes)


def labelled_images(content: bytes, path: str) -> tuple[LabelledImages, LabelledImages, int]:
    """The training and test images of an .npz file, and the number of classes.

    Args:
        content: of the file.
        path: for errors.

    Raises:
        ValueError: the file is damaged, an array is missing, or its type, shape or values are not those of images.
    """
    name = repr(path or EMBEDDED)
    arrays = _arrays(content, name)
    training = _labelled(arrays["x_train"], arrays["y_train"], "train", name)
    test = _labelled(arrays["x_test"], arrays["y_test"], "test", name)
    if training.pixels.shape[1:] != test.pixels.shape[1:]:
        raise ValueError(
            f"training and test images must have one shape; x_train of {name} is {arrays['x_train'].shape} and x_test "
            f"{arrays['x_test'].shape}. Crop or resize them."
        )
    if len(test) < 2:
        raise ValueError(
            f"there must be at least 2 test images, one for validation and one for the test; {name} has {len(test)}."
        )
    classes = int(training.labels.max()) + 1
    if classes < 2 or int(test.labels.max()) >= classes:
        raise ValueError(
            f"there must be at least 2 classes, and no test image of a class that training does not have; {name} has "
            f"classes 0 to {classes - 1} in y_train and 0 to {int(test.labels.max())} in y_test."
        )
    # Numbers that are no classes would make an output layer of any size.
    if classes > max(len(training), 2):
        raise ValueError(
            f"classes must be numbered from 0 without gaps; y_train of {name} goes up to {classes - 1} for "
            f"{len(training)} images. Number the classes anew."
        )
    return training, test, classes


def _arrays(content: bytes, name: str) -> dict[str, Any]:
    numpy = require("numpy")
    try:
        with numpy.load(io.BytesIO(content), allow_pickle=False) as stored:
            missing = [array for array in ARRAYS if array not in stored.files]
            found = {} if missing else {array: stored[array] for array in ARRAYS}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{name} must be an .npz file of numpy; reading it failed: {error}. {REMEDY}") from error
    if missing:
        raise ValueError(f"{name} must have the arrays {', '.join(ARRAYS)}; it lacks {', '.join(missing)}. {REMEDY}")
    return found


def _labelled(pixels: Any, labels: Any, part: str, name: str) -> LabelledImages:
    if pixels.dtype != "uint8" or pixels.ndim not in (3, 4) or 0 in pixels.shape:
        raise ValueError(
            f"x_{part} must be uint8 images [n, height, width] or [n, height, width, channels], at least one; in "
            f"{name} it is {pixels.dtype} of shape {pixels.shape}. {REMEDY}"
        )
    if pixels.ndim == 4 and pixels.shape[3] > 4 and pixels.shape[1] <= 4:
        raise ValueError(
            f"x_{part} must have its channels last; in {name} its shape {pixels.shape} looks like [n, channels, "
            f"height, width]. Use x_{part}.transpose(0, 2, 3, 1)."
        )
    if labels.dtype.kind not in "iu" or labels.shape != pixels.shape[:1] or labels.min() < 0:
        raise ValueError(
            f"y_{part} must be one class number, from 0, for each of the {len(pixels)} images of x_{part}; in {name} "
            f"it is {labels.dtype} of shape {labels.shape}{_smallest(labels)}. {REMEDY}"
        )
    images = torch.from_numpy(pixels if pixels.ndim == 4 else pixels[..., None])
    return LabelledImages(
        pixels=images.permute(0, 3, 1, 2).contiguous(), labels=torch.from_numpy(labels.astype("int64"))
    )


def _smallest(labels: Any) -> str:
    return f" with {labels.min()} in it" if labels.size and labels.dtype.kind in "if" and labels.min() < 0 else ""
