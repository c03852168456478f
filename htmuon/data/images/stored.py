"""Images as they are stored: encoded, one by one, each with its class."""

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from htmuon._extras import require

if TYPE_CHECKING:
    from PIL.Image import Image

NO_LABEL = -1
# The names of the held-out part; the first that is there is taken, for the test images of some sets have no labels.
HELD_OUT = ("val", "validation", "test")


class UnreadableImageError(ValueError):
    """An image that is damaged, is none, or is not there; the message names it."""


class StoredImages(Protocol):
    """Some images; it can be sent to another process.

    Args:
        labels: class numbers from 0, int64 `[images]`; `NO_LABEL` for an image without one.
    """

    labels: Tensor

    def name(self, index: int) -> str:
        """What messages call image number `index`."""

    def read(self, index: int) -> "Image":
        """Image number `index`, RGB.

        Raises:
            UnreadableImageError: it cannot be decoded.
        """


@dataclass(frozen=True, kw_only=True)
class StoredSet:
    """The images of a classification task.

    Args:
        training: the network is trained on these.
        test: these are held out.
        classes: how many there are.
        fingerprint: sixteen hexadecimal digits that identify the images, as far as that is known without reading them:
            by their order, names, classes and sizes in bytes.
    """

    training: StoredImages
    test: StoredImages
    classes: int
    fingerprint: str


def decode(content: bytes, name: str) -> "Image":
    """An image file as RGB: grey is repeated, an alpha channel is dropped, CMYK is converted, 16 bits become 8.

    Raises:
        UnreadableImageError: it is damaged, no image, or one of 32-bit numbers, whose white is not known.

    Example:
        >>> decode(b"no image", "a.png")
        Traceback (most recent call last):
        htmuon.data.images.stored.UnreadableImageError: a.png is no image that can be decoded (...)
    """
    image = require("PIL.Image", extra="vision")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, which changes no pixel
            stored: Image = image.open(io.BytesIO(content))
            # Pillow reads 16-bit grey as "I;16" (or its byte orders), from PGM and, in older versions, PNG as "I".
            is_wide = stored.mode.startswith("I;16") or (stored.mode == "I" and stored.format in ("PNG", "PPM"))
            decoded = (_upper_byte(stored) if is_wide else stored).convert("RGB")
    # A damaged file ends in whatever its decoder stumbles over: OSError, SyntaxError, struct.error and more.
    except Exception as error:
        raise UnreadableImageError(f"{name} is no image that can be decoded ({type(error).__name__})") from error
    if stored.mode in ("I", "F") and not is_wide:
        raise UnreadableImageError(f"{name} is an image of 32-bit numbers, not of 8 or 16 bits per channel")
    return decoded


def _upper_byte(stored: "Image") -> "Image":
    """16-bit grey as 8-bit grey; Pillow's own conversion makes all values above 255 white."""
    values = require("numpy").asarray(stored)
    converted: Image = require("PIL.Image", extra="vision").fromarray((values >> 8).astype("uint8"))
    return converted


def check_classes(training: StoredImages, test: StoredImages, classes: int, path: str) -> None:
    """Raise ValueError unless there are training images of two classes, and test images of these classes."""
    largest = max(int(images.labels.max()) if len(images.labels) else NO_LABEL for images in (training, test))
    labelled = [int((images.labels != NO_LABEL).sum()) for images in (training, test)]
    if classes < 2 or largest >= classes or labelled[0] < 1 or labelled[1] < 2:
        raise ValueError(
            f"there must be at least 2 classes, training images with a class, and 2 test images of the same classes; "
            f"{path!r} has {classes} classes, {labelled[0]} training and {labelled[1]} test images with a class, and "
            f"{largest} as the largest class number. Look at its labels."
        )
