"""The settings that only image classification has."""

import dataclasses
from typing import ClassVar, Literal, get_args

from htmuon.recipes.checks import check_number, check_text, check_whole
from htmuon.recipes.task_kind import TaskKind

Depth = Literal[10, 18, 34, 50]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageDataConfig:
    """The images of a classification run, and what training does to them.

    Args:
        path: an .npz file with `x_train`, `y_train`, `x_test` and `y_test`: uint8 images `[n, height, width]` or
            `[n, height, width, channels]` and class numbers `[n]`; "" is the part of Fashion-MNIST inside the package.
        crop_padding: a training image gets so many black pixels on each side and is cropped to its size at a random
            place; 0 leaves it as it is.
        flip: mirror every second training image, chosen at random.
        label_smoothing: share of the training target that is spread evenly over all classes.
    """

    task: ClassVar[TaskKind] = "images"
    # What `RunResult.tokens` counts.
    tokens_per_example: ClassVar[int] = 1

    path: str = ""
    crop_padding: int = 2
    flip: bool = True
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        check_text("path", self.path)
        check_whole("crop_padding", self.crop_padding, 0)
        if not isinstance(self.flip, bool):
            raise TypeError(f"flip must be True or False; got {self.flip!r}.")
        check_number("label_smoothing", self.label_smoothing, below=1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """The shape of a ResNet for small images: a stem of one 3x3 convolution, then four stages of halved resolution.

    Args:
        depth: layers with weights: 10 (one basic block per stage), 18, 34, or 50 (bottlenecks).
        width: channels of the first stage, an even number; each later stage has twice as many as the one before it.
        stem_stride: 1 keeps the resolution of the image for the first stage, 2 halves it.
    """

    task: ClassVar[TaskKind] = "images"

    depth: Depth = 18
    width: int = 64
    stem_stride: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        if self.depth not in get_args(Depth):
            raise ValueError(f"depth must be one of {', '.join(map(str, get_args(Depth)))}; got {self.depth!r}.")
        check_whole("width", self.width, 2)
        if self.width % 2:
            raise ValueError(f"width must be an even number; got {self.width}.")
        if self.stem_stride not in (1, 2):
            raise ValueError(f"stem_stride must be 1 or 2; got {self.stem_stride!r}.")
