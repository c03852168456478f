"""Stored images of one size, decoded once into tensors."""

from typing import Any

import torch
from torch import Tensor

from htmuon._extras import require
from htmuon.data.images.images import ImageSet, LabelledImages, fingerprint
from htmuon.data.images.stored import NO_LABEL, StoredImages, StoredSet, UnreadableImageError


def decode_set(stored: StoredSet, path: str) -> tuple[ImageSet, list[str]]:
    """All images that can be decoded, and what is wrong with the others.

    Every second test image is for validation and the others for the test, whichever of them can be decoded.

    Args:
        stored: the images.
        path: for errors.

    Raises:
        ValueError: the images are not of one size, or none of a part can be decoded.
    """
    problems: list[str] = []
    positions = torch.arange(len(stored.test.labels))
    parts = []
    for name, images, which in (
        ("training", stored.training, torch.arange(len(stored.training.labels))),
        ("validation", stored.test, positions[::2]),
        ("test", stored.test, positions[1::2]),
    ):
        decoded = _decode(images, which, problems)
        if not len(decoded):
            raise ValueError(
                f"at least one of the {name} images must be readable; of {len(which)} at {path!r} none is, the first "
                f"because {problems[-len(which)]}. Look at the files."
            )
        parts.append(decoded)
    training, validation, test = parts
    for part in (validation, test):
        if part.pixels.shape[1:] != training.pixels.shape[1:]:
            raise ValueError(_of_one_size(training.pixels.shape[2:], part.pixels.shape[2:], "a test image"))
    return ImageSet(
        training=training, held_out={"validation": validation, "test": test}, classes=stored.classes
    ), problems


def fingerprint_of_set(images: ImageSet) -> str:
    """Identifies the pixels and the labels."""
    parts = (images.training, *images.held_out.values())
    return fingerprint(*(t.numpy().tobytes() for part in parts for t in (part.pixels, part.labels)))


def _decode(images: StoredImages, which: Tensor, problems: list[str]) -> LabelledImages:
    """The images of the numbers `which` that can be decoded; what is wrong with the others is added to `problems`."""
    numpy = require("numpy")
    pixels: list[Any] = []  # [height, width, channels] each
    kept: list[int] = []
    for index in which.tolist():
        if images.labels[index] == NO_LABEL:
            problems.append(f"{images.name(index)} has no class")
            continue
        try:
            decoded = numpy.asarray(images.read(index))
        except UnreadableImageError as error:
            problems.append(str(error))
            continue
        if pixels and decoded.shape != pixels[0].shape:
            raise ValueError(_of_one_size(pixels[0].shape[:2], decoded.shape[:2], images.name(index)))
        pixels.append(decoded)
        kept.append(index)
    stacked = torch.from_numpy(numpy.stack(pixels)).permute(0, 3, 1, 2).contiguous() if pixels else torch.empty(0)
    return LabelledImages(pixels=stacked, labels=images.labels[kept])


def _of_one_size(first: tuple[int, ...], other: tuple[int, ...], name: str) -> str:
    return (
        f"all images must be of one size; the first is {first[0]}x{first[1]} and {name} is {other[0]}x{other[1]}. "
        "Resize them, or take a recipe that does, such as vit-tiny-imagenet with --data.image-size."
    )
