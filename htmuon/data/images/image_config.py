"""The settings that only image classification has."""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from htmuon._checks import check_flag, check_number, check_text, check_whole
from htmuon._registry import unknown_name
from htmuon.training.run_config import DATA, DataConfig, RunConfig, register_kind
from htmuon.training.task import TaskKind, TaskSource

Crop = Literal["resized", "padded"]


@register_kind(DATA)
@dataclass(frozen=True, kw_only=True)
class ImageConfig(DataConfig):
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

    kind: ClassVar[str] = "images"
    task: ClassVar[TaskKind] = "images"

    path: str = ""
    crop_padding: int = 2
    flip: bool = True
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        check_text("path", self.path)
        check_whole("crop_padding", self.crop_padding, 0)
        check_flag("flip", self.flip)
        check_number("label_smoothing", self.label_smoothing, below=1.0)

    def open(self, run: RunConfig) -> TaskSource:
        """Read the images.

        Raises:
            ValueError: they cannot be read or are not usable.
        """
        from htmuon.data.images.images_in_memory import ImageSource

        return ImageSource(run, self)


@register_kind(DATA)
@dataclass(frozen=True, kw_only=True)
class ImageStreamConfig(DataConfig):
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

    kind: ClassVar[str] = "image-stream"
    task: ClassVar[TaskKind] = "images"

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

    def open(self, run: RunConfig) -> TaskSource:
        """Read the images.

        Raises:
            ValueError: they cannot be read or are not usable.
        """
        from htmuon.data.images.image_stream import ImageStreamSource

        return ImageStreamSource(run, self)
