"""Small image data sets in the formats in which the real ones come."""

import io
from pathlib import Path

import datasets
import numpy as np
from PIL import Image


def pictures(count, *, classes=3, size=(8, 8), seed=0):
    """RGB arrays of noise with a bar whose place says the class, and their class numbers."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    pixels = draw.integers(0, 120, (count, *size, 3), dtype=np.uint8)
    third = size[0] // 3
    for image, label in zip(pixels, labels, strict=True):
        image[third * (label % 3) : third * (label % 3 + 1)] += 100
    return pixels, labels.tolist()


def encoded(pixels, suffix="png"):
    """The bytes of an image file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, {"png": "PNG", "jpg": "JPEG"}[suffix])
    return stream.getvalue()


def write_parquet(file: Path, contents, labels, *, image="img", label="label", names=("a", "b", "c")):
    """A parquet file as the hub has it: `{"bytes", "path"}` in a column of images, class numbers with their names."""
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = {image: [{"bytes": content, "path": None} for content in contents], label: labels}
    features = {image: datasets.Image(), label: datasets.ClassLabel(names=list(names))}
    if label == "fine_label":
        columns["coarse_label"] = [0] * len(labels)
        features["coarse_label"] = datasets.ClassLabel(names=["all"])
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    table.to_parquet(file)


def write_folder(root: Path, parts, *, suffix="png", names=("a", "b", "c")):
    """`root/PART/CLASS/NUMBER.png` of `{part: (pixels, labels)}`."""
    for part, (pixels, labels) in parts.items():
        for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            file = root / part / names[label] / f"{number:03}.{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encoded(image, suffix))
