"""The settings that only image classification has."""

import dataclasses
import re
from typing import ClassVar, Literal, get_args

from htmuon._registry import unknown_name
from htmuon.recipes.checks import check_number, check_text, check_whole
from htmuon.recipes.task_kind import TaskKind

Depth = Literal[10, 18, 34, 50]
Crop = Literal["resized", "padded"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageDataConfig:
    """Images of one size that are held in memory, and what training does to them.

    Args:
        path: an .npz file with `x_train`, `y_train`, `x_test` and `y_test`: uint8 images `[n, height, width]` or
            `[n, height, width, channels]` and class numbers `[n]`; a folder with `train/CLASS/*.png` and
            `test/CLASS/*.png` (or `val`; other formats too), or with `train-*.parquet` and `test-*.parquet` as on the
            hub; or `hf://datasets/OWNER/NAME`. "" is the part of Fashion-MNIST inside the package.
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
class ImageStreamConfig:
    """Images that are decoded while the model trains, and what training does to them.

    The training is that of DeiT (Touvron et al., arXiv:2012.12877), made of the parts of `timm`; its augmentations are
    random, anew for each image and epoch.

    Args:
        path: an .npz file, a folder, or `hf://datasets/OWNER/NAME`, as for images in memory; grey images become RGB.
        image_size: height and width of what the model sees.
        crop: training images are "resized" from a random part of 8 to 100 % of the image, or, for images of nearly
            `image_size`, "padded" by 4 black pixels on each side and cropped at a random place. Held-out images are
            resized and cropped in the middle, to 7/8 of the shorter side for "resized" and to the whole for "padded".
        rand_augment: `timm`'s spec of random operations such as rotations and changes of colour; "" for none.
        erasing: share of the training images of which a random part is replaced by noise.
        mixup: two images are averaged with a weight from Beta(mixup, mixup); 0 for never.
        cutmix: a part of an image is replaced by that of another, of a size from Beta(cutmix, cutmix); 0 for never.
            With mixup, each batch takes one of the two.
        label_smoothing: share of the training target that is spread evenly over all classes.
    """

    task: ClassVar[TaskKind] = "images"
    tokens_per_example: ClassVar[int] = 1

    path: str = ""
    image_size: int = 224
    crop: Crop = "resized"
    rand_augment: str = "rand-m9-mstd0.5-inc1"
    erasing: float = 0.25
    mixup: float = 0.8
    cutmix: float = 1.0
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        check_text("path", self.path)
        check_text("rand_augment", self.rand_augment)
        check_whole("image_size", self.image_size, 1)
        if self.crop not in get_args(Crop):
            raise unknown_name("crop", self.crop, list(get_args(Crop)))
        if self.rand_augment and not re.fullmatch(r"rand(-[a-z]+[0-9.]+)+", self.rand_augment):
            raise ValueError(
                "rand_augment must be timm's spec of a RandAugment, such as 'rand-m9-mstd0.5-inc1', or '' for none; "
                f"got {self.rand_augment!r}."
            )
        check_number("erasing", self.erasing, most=1.0)
        check_number("mixup", self.mixup)
        check_number("cutmix", self.cutmix)
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
    noun: ClassVar[str] = "ResNet"

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """The shape of a vision transformer with a class token and learned positions, as `timm` has it.

    Args:
        patch_size: height and width of a patch; the image's must be multiples of it.
        hidden_size: width of the residual stream; that of the MLP is four times as much.
        num_layers: number of blocks.
        num_heads: attention heads; they divide `hidden_size`.
        drop_path: share of the training images that skip the last block; it rises from 0 with the depth.
    """

    task: ClassVar[TaskKind] = "images"
    noun: ClassVar[str] = "vision transformer"

    patch_size: int = 16
    hidden_size: int = 192
    num_layers: int = 12
    num_heads: int = 3
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        for name in ("patch_size", "hidden_size", "num_layers", "num_heads"):
            check_whole(name, getattr(self, name), 1)
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_heads; got hidden_size={self.hidden_size}, "
                f"num_heads={self.num_heads}."
            )
        check_number("drop_path", self.drop_path, below=1.0)
