"""Images in an .npz file, one by one."""

from typing import TYPE_CHECKING

from htmuon._extras import require
from htmuon.data.images.images import LabelledImages, fingerprint, labelled_images, read_file
from htmuon.data.images.stored import StoredSet

if TYPE_CHECKING:
    from PIL.Image import Image


class ArrayImages:
    """Images in memory, as if they were stored.

    Args:
        images: with 1, 3 or 4 channels.
        part: what messages call them.
    """

    def __init__(self, images: LabelledImages, part: str) -> None:
        self.labels, self.pixels, self.part = images.labels, images.pixels, part

    def name(self, index: int) -> str:
        """The part and the number of an image."""
        return f"image {index} of x_{self.part}"

    def read(self, index: int) -> "Image":
        """Image number `index`, RGB."""
        pixels = self.pixels[index].permute(1, 2, 0).squeeze(-1).contiguous().numpy()
        image: Image = require("PIL.Image", extra="vision").fromarray(pixels).convert("RGB")
        return image


def open_arrays(path: str) -> StoredSet:
    """The images of an .npz file; "" gives the embedded images.

    Raises:
        ValueError: the file is not usable, or its images have 2 channels or more than 4.
    """
    content = read_file(path)
    training, test, classes = labelled_images(content, path)
    channels = training.pixels.shape[1]
    if channels not in (1, 3, 4):
        raise ValueError(f"images must have 1, 3 or 4 channels to become RGB; those of {path!r} have {channels}.")
    return StoredSet(
        training=ArrayImages(training, "train"),
        test=ArrayImages(test, "test"),
        classes=classes,
        fingerprint=fingerprint(content),
    )
