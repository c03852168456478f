"""What training does to images that are decoded while the model trains."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from htmuon.data.images.augmentation import BatchAugmentation, evaluation_transform, seeded, training_transform
from htmuon.data.images.image_config import ImageStreamConfig

CPU = torch.device("cpu")


def test_held_out_images_are_resized_and_cropped_in_the_middle():
    image = torch.zeros(64, 128, 3, dtype=torch.uint8).numpy()
    image[:, 32:96] = 200  # the middle square
    picture = Image.fromarray(image)
    cut = evaluation_transform(ImageStreamConfig(image_size=56))(picture)
    assert cut.shape == (3, 56, 56)  # of 64 x 128, the middle 7/8 of the height
    assert int(cut.min()) == 200
    whole = evaluation_transform(ImageStreamConfig(image_size=32, crop="padded"))(picture)
    assert whole.shape == (3, 32, 32)


def test_padded_crops_and_flips_are_those_of_a_loop():
    pixels = np.random.default_rng(0).integers(1, 256, (6, 6, 3), dtype=np.uint8)
    transform = training_transform(ImageStreamConfig(image_size=6, crop="padded", rand_augment=""))
    padded = np.pad(pixels, ((4, 4), (4, 4), (0, 0))).transpose(2, 0, 1)
    crops = {
        crop[:, :, ::step].tobytes(): (top, left, step)
        for top in range(9)
        for left in range(9)
        for crop in [padded[:, top : top + 6, left : left + 6]]
        for step in (1, -1)
    }
    seen = set()
    for seed in range(300):
        with seeded(seed):
            seen.add(crops[transform(Image.fromarray(pixels)).numpy().tobytes()])
    assert len({top for top, _, _ in seen}) == len({left for _, left, _ in seen}) == 9
    assert {step for _, _, step in seen} == {1, -1}


def test_resized_crops_are_of_8_to_100_percent():
    ramp = np.arange(64, dtype=np.uint8)
    image = np.stack(
        [np.tile(ramp * 4, (64, 1)), np.tile(ramp[:, None] * 4, (1, 64)), np.zeros((64, 64), np.uint8)], -1
    )
    transform = training_transform(ImageStreamConfig(image_size=16, rand_augment=""))
    areas = []
    for seed in range(200):
        with seeded(seed):
            red, green, _ = transform(Image.fromarray(image)).double()
        areas.append(float((red.max() - red.min()) * (green.max() - green.min())) / 252**2)
    # Bicubic resizing smooths the edges: a crop of the whole image spans about 15/16 of each ramp.
    assert min(areas) < 0.12
    assert max(areas) > 0.8


def test_rand_augment_changes_images():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    plain = dataclasses.asdict(ImageStreamConfig(image_size=8, crop="padded"))
    changed = 0
    for seed in range(20):
        with seeded(seed):
            expected = training_transform(ImageStreamConfig(**{**plain, "rand_augment": ""}))(image)
        with seeded(seed):
            found = training_transform(ImageStreamConfig(**plain))(image)
        changed += not torch.equal(expected, found)
    assert changed > 10


def test_rand_augment_at_its_highest_level():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    transform = training_transform(ImageStreamConfig(image_size=8, rand_augment="rand-m10-n8"))
    for seed in range(60):  # of eight of fifteen operations each, one is posterization almost surely
        with seeded(seed):
            assert transform(image).shape == (3, 8, 8)


def test_mixed_targets_sum_to_one_and_say_what_is_in_the_image():
    labels = torch.tensor([0, 1, 2, 3])
    # Image i is all of one value, so that the share of each image can be read off.
    pixels = torch.tensor([10, 60, 110, 160], dtype=torch.uint8)[:, None, None, None].expand(4, 3, 32, 32)
    values = torch.tensor([10.0, 60.0, 110.0, 160.0])
    shares = {"mixup": [], "cutmix": []}
    for name, settings in {"mixup": {"cutmix": 0.0}, "cutmix": {"mixup": 0.0}}.items():
        augment = BatchAugmentation(ImageStreamConfig(erasing=0.0, **settings), 5, CPU)
        for seed in range(20):
            images, targets = augment(pixels, labels, seed=seed)
            raw = (images * augment.deviation + augment.mean).mean((1, 2, 3))
            assert torch.allclose(targets.sum(1), torch.ones(4))
            # The mean value of an image is the mean of the values of its classes, weighted by the targets.
            torch.testing.assert_close(raw, targets[:, :4] @ values, rtol=1e-4, atol=1e-2)
            shares[name].append(float(targets[0, 0]))
    assert all(min(found) < 0.3 < 0.7 < max(found) for found in shares.values())


def test_erasing_replaces_a_part_of_some_images_by_noise():
    augment = BatchAugmentation(ImageStreamConfig(mixup=0.0, cutmix=0.0), 2, CPU)
    pixels = torch.full((200, 3, 16, 16), 100, dtype=torch.uint8)
    images, _ = augment(pixels, torch.zeros(200, dtype=torch.int64), seed=0)
    changed = (images != augment.normalize(pixels)).any(1).flatten(1)
    # 50 of 200 are expected, give or take four standard deviations.
    assert abs(int(changed.any(1).sum()) - 50) < 25
    shares = changed[changed.any(1)].double().mean(1)
    assert 0.005 < float(shares.min()) < float(shares.max()) < 0.4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"crop": "middle"}, "crop must be one of resized, padded; got 'middle'"),
        ({"rand_augment": "9"}, "such as 'rand-m9-mstd0.5-inc1', or '' for none; got '9'"),
        ({"erasing": 1.5}, "erasing must be .* at most 1; got 1.5"),
        ({"mixup": -1.0}, "mixup must be .* at least 0; got -1.0"),
        ({"image_size": 0}, "image_size must be a whole number of at least 1"),
    ],
)
def test_bad_settings_of_streams(settings, words):
    with pytest.raises(ValueError, match=words):
        ImageStreamConfig(**settings)
