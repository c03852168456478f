import dataclasses

import numpy as np
import pytest
import torch

from htmuon.data.images.image_batches import ImageBatches
from htmuon.data.images.image_config import ImageConfig
from htmuon.data.images.images import LabelledImages, fingerprint, read_file, split_images


def arrays(**changes):
    draw = np.random.default_rng(0)
    plain = {
        "x_train": draw.integers(0, 256, (12, 6, 5, 3), dtype=np.uint8),
        "y_train": np.arange(12) % 4,
        "x_test": draw.integers(0, 256, (5, 6, 5, 3), dtype=np.uint8),
        "y_test": np.arange(5) % 4,
    }
    return {**plain, **changes}


def save(path, **changes):
    kept = {name: array for name, array in arrays(**changes).items() if array is not None}
    np.savez_compressed(path, **kept)
    return path.read_bytes()


def test_the_embedded_images():
    images = split_images(read_file(""), "")
    assert images.training.pixels.shape == (10_000, 1, 28, 28)
    assert torch.bincount(images.training.labels).tolist() == [1000] * 10
    assert [len(part) for part in images.held_out.values()] == [1000, 1000]
    assert images.classes == 10
    # No class is far from its share in either part: 100 of 1,000, give or take four standard deviations.
    for part in images.held_out.values():
        assert all(abs(count - 100) < 40 for count in torch.bincount(part.labels).tolist())


def test_images_of_ones_own(tmp_path):
    images = split_images(save(tmp_path / "own.npz"), "own.npz")
    given = arrays()
    assert images.classes == 4
    assert np.array_equal(images.training.pixels.permute(0, 2, 3, 1).numpy(), given["x_train"])
    assert images.held_out["validation"].labels.tolist() == [0, 2, 0]
    assert images.held_out["test"].labels.tolist() == [1, 3]
    assert torch.equal(images.held_out["test"].pixels[0], torch.from_numpy(given["x_test"][1]).permute(2, 0, 1))


def test_a_confirmation_is_judged_by_images_that_others_train_on_and_it_does_not(tmp_path):
    images = split_images(save(tmp_path / "own.npz"), "own.npz")
    training, held_out = images.of("confirmation")
    assert torch.equal(held_out.pixels, images.training.pixels[6:7])  # of twelve: the one in the middle
    assert held_out.labels.tolist() == images.training.labels[6:7].tolist()
    assert torch.equal(training.pixels, torch.cat([images.training.pixels[:6], images.training.pixels[7:]]))
    assert images.of("test") == (images.training, images.held_out["test"])


def test_the_fingerprint_is_that_of_the_content(tmp_path):
    content = save(tmp_path / "own.npz")
    assert fingerprint(content) == fingerprint(bytes(content))
    assert fingerprint(content) != fingerprint(save(tmp_path / "other.npz", y_train=np.arange(12) % 3))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_test": None}, "must have the arrays .* lacks y_test.*savez_compressed"),
        ({"x_train": np.zeros((12, 6, 5, 3))}, "x_train must be uint8 images.*float64 of shape"),
        (
            {"x_train": np.zeros((12, 3, 6, 5), np.uint8)},
            r"x_train must have its channels last.*transpose",
        ),
        ({"y_train": np.arange(12) + 10**9}, r"classes must be numbered from 0 without gaps.*up to 1000000011 for 12"),
        ({"x_train": np.zeros((12, 6), np.uint8)}, r"x_train must be uint8 images.*shape \(12, 6\)"),
        ({"x_test": np.zeros((0, 6, 5, 3), np.uint8), "y_test": np.zeros(0, int)}, "x_test must be .* at least one"),
        ({"y_train": np.arange(11)}, r"y_train must be one class number.*12 images.*shape \(11,\)"),
        ({"y_train": np.zeros(12)}, "y_train must be one class number.*float64"),
        ({"y_train": np.arange(12) - 1}, "with -1 in it"),
        ({"x_test": np.zeros((5, 6, 6, 3), np.uint8)}, r"one shape.*\(5, 6, 6, 3\).*resize"),
        ({"x_test": np.zeros((1, 6, 5, 3), np.uint8), "y_test": np.zeros(1, int)}, "at least 2 test images"),
        ({"y_test": np.arange(5)}, "no test image of a class.*0 to 3 in y_train and 0 to 4 in y_test"),
        ({"y_train": np.zeros(12, int), "y_test": np.zeros(5, int)}, "at least 2 classes"),
        ({"y_train": np.array([None] * 12)}, "reading it failed: .*pickle"),
    ],
)
def test_files_that_are_no_images(tmp_path, changes, words):
    content = save(tmp_path / "bad.npz", **changes)
    with pytest.raises(ValueError, match=f"(?s){words}"):
        split_images(content, "bad.npz")


def test_every_damage_of_a_file_is_an_error_that_names_it(tmp_path):
    content = save(tmp_path / "own.npz")
    damaged = [b"", b"PK", content[: len(content) // 2], b"x" * 100]
    damaged += [content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :] for at in range(200, 500, 20)]
    for bad in damaged:
        with pytest.raises(ValueError, match=r"own.npz.*must be an .npz file of numpy; reading it failed"):
            split_images(bad, "own.npz")


@pytest.mark.parametrize("path", ["/no/such.npz", "."])
def test_paths_that_are_no_file(path):
    with pytest.raises(ValueError, match=r"must be an .npz file.*is not a file"):
        read_file(path)


def labelled(count=7, height=5, width=4):
    pixels = torch.arange(1, 1 + count * 2 * height * width, dtype=torch.int64).view(count, 2, height, width)
    return LabelledImages(pixels=(pixels % 251).to(torch.uint8), labels=torch.arange(count))


def plain(**changes):
    return ImageConfig(**{"crop_padding": 0, "flip": False, **changes})


def test_an_epoch_holds_every_image_once_and_the_next_has_another_order():
    images = labelled(8)
    batches = ImageBatches(images, plain(), batch_size=4, seed=3)
    orders = [torch.cat([batches[2 * epoch][1], batches[2 * epoch + 1][1]]).tolist() for epoch in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(8))
    assert orders[0] != orders[1]
    pixels, labels = batches[1]
    assert torch.equal(pixels, images.pixels[labels])


def test_crops_and_flips_against_a_loop():
    images = labelled()
    config = plain(crop_padding=1, flip=True)
    batches = ImageBatches(images, config, batch_size=7, seed=0)
    seen = set()
    for number in range(30):
        pixels, labels = batches[number]
        for image, label in zip(pixels, labels, strict=True):
            found = None
            padded = torch.nn.functional.pad(images.pixels[label], (1, 1, 1, 1))
            for top in range(3):
                for left in range(3):
                    crop = padded[:, top : top + 5, left : left + 4]
                    for flip in (False, True):
                        if torch.equal(crop.flip(-1) if flip else crop, image):
                            found = (top, left, flip)
            assert found is not None
            seen.add(found)
    assert len(seen) == 18  # every crop, mirrored and not, comes up in 210 draws


def test_batches_depend_on_seed_and_position_alone():
    def make(batch_size, seed=0):
        return ImageBatches(labelled(), plain(crop_padding=2, flip=True), batch_size=batch_size, seed=seed)

    whole, parts, backwards = make(6), make(3), make(6)
    later = backwards[5]
    for number in (5, 4, 0):
        pixels, labels = whole[number]
        halves = [parts[2 * number], parts[2 * number + 1]]
        assert torch.equal(pixels, torch.cat([half[0] for half in halves]))
        assert torch.equal(labels, torch.cat([half[1] for half in halves]))
    assert torch.equal(later[0], whole[5][0])
    assert not torch.equal(make(6, seed=1)[0][1], whole[0][1])


def test_too_few_images_for_a_batch():
    with pytest.raises(ValueError, match="must fill one batch of 8; there are 7"):
        ImageBatches(labelled(), plain(), batch_size=8, seed=0)


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("path", 3, "path must be a string"),
        ("crop_padding", -1, "crop_padding must be a whole number"),
        ("flip", 1, "flip must be True or False"),
        ("label_smoothing", 1.0, "label_smoothing must be .* less than 1; got 1.0"),
    ],
)
def test_bad_settings(setting, value, words):
    with pytest.raises((ValueError, TypeError), match=words):
        dataclasses.replace(ImageConfig(), **{setting: value})
