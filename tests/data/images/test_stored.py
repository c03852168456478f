import io
import pickle
import shutil

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from stored_images import encoded, pictures, write_folder, write_parquet

from htmuon.cli import main
from htmuon.data.images.decoded import decode_set, fingerprint_of_set
from htmuon.data.images.opening import open_stored
from htmuon.data.images.stored import UnreadableImageError, decode

TRAINING, TEST = pictures(12), pictures(6, seed=1)


@pytest.fixture(autouse=True)
def table_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def hub_layout(root, *, image="img", label="label", held_out="test", folder="plain_text"):
    for part, (pixels, labels) in {"train": TRAINING, held_out: TEST}.items():
        contents = [encoded(picture) for picture in pixels]
        write_parquet(root / folder / f"{part}-00000-of-00001.parquet", contents, labels, image=image, label=label)
    return root


def check_content(images):
    """The images of one of the layouts are those that were written, classes and held-out parts included."""
    expected = {"training": TRAINING, "validation": [part[::2] for part in TEST], "test": [part[1::2] for part in TEST]}
    for name, part in {"training": images.training, **images.held_out}.items():
        pixels, labels = expected[name]
        found = {image.numpy().tobytes(): int(label) for image, label in zip(part.pixels, part.labels, strict=True)}
        wanted = {image.transpose(2, 0, 1).tobytes(): label for image, label in zip(pixels, labels, strict=True)}
        assert found == wanted


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"label": "fine_label", "folder": "cifar100"},
        {"image": "image", "held_out": "validation", "folder": "data"},
        {"folder": "."},
    ],
)
def test_parquet_in_the_layouts_of_the_hub(tmp_path, columns):
    stored = open_stored(str(hub_layout(tmp_path / "hub", **columns)))
    images, problems = decode_set(stored, "hub")
    assert problems == []
    assert images.classes == 3
    check_content(images)


def test_imagenet_takes_its_validation_images_not_the_unlabelled_test_images(tmp_path):
    root = hub_layout(tmp_path / "hub", image="image", held_out="validation", folder="data")
    contents = [encoded(image) for image in TEST[0]]
    write_parquet(root / "data" / "test-00000-of-00001.parquet", contents, [-1] * len(contents), image="image")
    check_content(decode_set(open_stored(str(root)), "hub")[0])


def test_several_files_of_a_part_are_one_part_in_order(tmp_path):
    root = hub_layout(tmp_path / "hub")
    contents = [encoded(image) for image in TRAINING[0]]
    for part in (0, 1):
        rows = slice(6 * part, 6 * part + 6)
        file = root / "plain_text" / f"train-0000{part}-of-00002.parquet"
        write_parquet(file, contents[rows], TRAINING[1][rows])
    (root / "plain_text" / "train-00000-of-00001.parquet").unlink()
    training = open_stored(str(root)).training
    assert training.labels.tolist() == TRAINING[1]
    assert np.array_equal(np.asarray(training.read(7)), TRAINING[0][7])


@pytest.mark.parametrize("held_out", ["test", "val", "validation"])
def test_a_folder_for_each_class(tmp_path, held_out):
    write_folder(tmp_path, {"train": TRAINING, held_out: TEST})
    (tmp_path / "train" / "a" / "notes.txt").write_text("no image")
    stored = open_stored(str(tmp_path))
    assert stored.training.name(0) == str(tmp_path / "train" / "a" / "000.png")
    images, problems = decode_set(stored, "folder")
    assert problems == []
    assert torch.equal(images.training.labels, torch.tensor(sorted(TRAINING[1])))
    parts = [images.training, *images.held_out.values()]
    assert [torch.bincount(part.labels).tolist() for part in parts] == [[4] * 3, [1] * 3, [1] * 3]
    expected = {image.transpose(2, 0, 1).tobytes() for image in TRAINING[0]}
    assert {image.numpy().tobytes() for image in images.training.pixels} == expected


@pytest.mark.parametrize("name", ["a [1]", "a*", "[train]"])
def test_a_folder_whose_name_looks_like_a_pattern(tmp_path, name):
    check_content(decode_set(open_stored(str(hub_layout(tmp_path / name))), name)[0])


def test_hidden_folders_are_no_classes(tmp_path):
    write_folder(tmp_path / "folder", {"train": TRAINING, "test": TEST})
    for part in ("train", "test"):
        (tmp_path / "folder" / part / ".ipynb_checkpoints").mkdir()
    assert open_stored(str(tmp_path / "folder")).classes == 3


def numbered(root, names):
    contents = [encoded(image) for image in TRAINING[0]]
    for name in names:
        write_parquet(root / f"{name}.parquet", contents, TRAINING[1])
    return str(root)


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["train-00000-of-00003", "train-00002-of-00003", "test"], "train-00001-of-00003.parquet. Put"),
        (["train", "data/test-1-of-2"], "data/test-0-of-2.parquet. Put"),
        (["train-2-of-3-ab12", "train-3-of-3-cd34", "test"], "train-1-of-3.parquet. Put"),
        (
            ["train-00000-of-00005"],
            "train-00001-of-00005.parquet, train-00002-of-00005.parquet, train-00003-of-00005.parquet and 1 more. Put",
        ),
    ],
)
def test_a_missing_file_of_a_part_is_named(tmp_path, names, missing):
    with pytest.raises(ValueError, match=f"must all be there; .* lacks {missing} them there"):
        open_stored(numbered(tmp_path, names))


@pytest.mark.parametrize("suffix", ["", "-b4aaeceff1d90ecb"])
def test_numbers_from_0_or_1_are_complete(tmp_path, suffix):
    names = [f"train-{number}-of-2{suffix}" for number in (1, 2)]
    stored = open_stored(numbered(tmp_path, [*names, "validation-0-of-1", "test-7-of-9"]))
    assert len(stored.training.labels) == 2 * len(TRAINING[1])


def test_tables_and_folders_can_be_sent_to_other_processes(tmp_path):
    write_folder(tmp_path / "folder", {"train": TRAINING, "test": TEST})
    for stored in (open_stored(str(tmp_path / "folder")), open_stored(str(hub_layout(tmp_path / "hub")))):
        again = pickle.loads(pickle.dumps(stored.training))
        assert np.array_equal(np.asarray(again.read(3)), np.asarray(stored.training.read(3)))


def test_the_fingerprint_says_whether_images_changed(tmp_path):
    write_folder(tmp_path / "one", {"train": TRAINING, "test": TEST})
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    one, two = (open_stored(str(tmp_path / name)) for name in ("one", "two"))
    assert one.fingerprint == two.fingerprint
    assert fingerprint_of_set(decode_set(one, "")[0]) == fingerprint_of_set(decode_set(two, "")[0])
    (tmp_path / "two" / "train" / "a" / "000.png").rename(tmp_path / "two" / "train" / "b" / "000.png")
    assert open_stored(str(tmp_path / "two")).fingerprint != one.fingerprint


MODES = {"L": (3, 3, 3), "RGBA": (200, 10, 30), "CMYK": None, "P": None, "1": None, "I;16": None, "LA": None}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb(tmp_path, mode):
    fill = {"L": 3, "RGBA": (200, 10, 30, 7), "CMYK": (10, 20, 30, 40), "LA": (5, 9)}.get(mode, 0)
    Image.new(mode, (4, 4), fill).save(tmp_path / "image.tif")
    decoded = decode((tmp_path / "image.tif").read_bytes(), "image.tif")
    assert decoded.mode == "RGB"
    if MODES[mode] is not None:
        assert decoded.getpixel((0, 0)) == MODES[mode]


def test_sixteen_bits_become_eight():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    wide = ramp.astype(np.uint16) * 257
    files = {"ramp.png": wide, "ramp.tif": wide, "ramp.pgm": wide, "big-endian.tif": wide.astype(">u2")}
    for name, pixels in files.items():
        stream = io.BytesIO()
        formats = {"png": "PNG", "tif": "TIFF", "pgm": "PPM"}
        Image.fromarray(pixels).save(stream, formats[name.rpartition(".")[2]])
        assert np.array_equal(np.asarray(decode(stream.getvalue(), name)), np.asarray(decode(encoded(ramp), "8 bits")))
    with pytest.raises(UnreadableImageError, match="cut is no image that can be decoded"):
        decode(encoded(wide)[:50], "cut")


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_numbers_of_32_bits_are_no_pixels(kind):
    stream = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=kind).reshape(8, 8)).save(stream, "TIFF")
    with pytest.raises(UnreadableImageError, match="x is an image of 32-bit numbers, not of 8 or 16 bits"):
        decode(stream.getvalue(), "x")


def test_damaged_images():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for suffix in ("png", "jpg"):
        content = encoded(noise, suffix)
        for bad in (content[: len(content) // 2], b"", b"text", content[:20]):
            with pytest.raises(UnreadableImageError, match="x is no image that can be decoded"):
                decode(bad, "x")


def test_images_that_cannot_be_read_are_left_out_and_named(tmp_path):
    contents = [encoded(image) for image in TRAINING[0]]
    contents[1], contents[4] = contents[1][:30], b"<html>"
    root = hub_layout(tmp_path / "hub")
    labels = [*TRAINING[1][:-1], None]
    write_parquet(root / "plain_text" / "train-00000-of-00001.parquet", contents, labels)
    held_out = [encoded(image) for image in TEST[0]]
    held_out[2] = b""
    write_parquet(root / "plain_text" / "test-00000-of-00001.parquet", held_out, TEST[1])
    images, problems = decode_set(open_stored(str(root)), "hub")
    assert [problem.partition(" is")[0] for problem in problems] == [
        "row 1 of the training images",
        "row 4 of the training images",
        "row 11 of the training images has no class",
        "row 2 of the test images",
    ]
    assert images.training.labels.tolist() == [TRAINING[1][i] for i in range(11) if i not in (1, 4)]
    # What one damaged image was for does not change what the others are for.
    assert images.held_out["validation"].labels.tolist() == [TEST[1][0], TEST[1][4]]
    assert images.held_out["test"].labels.tolist() == TEST[1][1::2]


def test_a_training_run_tells_what_it_left_out(tmp_path, capsys):
    root = hub_layout(tmp_path / "hub")
    contents = [encoded(image) for image in TRAINING[0]]
    contents[1] = b"no image"
    write_parquet(root / "plain_text" / "train-00000-of-00001.parquet", contents, TRAINING[1])
    sizes = ["--batch-size", "4", "--model.width", "4", "--steps", "2", "--device", "cpu"]
    assert main(["train", "resnet18-cifar10", "--images", str(root), "--out", str(tmp_path / "run"), *sizes]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "left out: row 1 of the training images is no image that can be decoded (UnidentifiedImageError)." in printed
    assert "1 samples could not be read and were left out" in printed
    assert '"unreadable_samples": 1' in (tmp_path / "run" / "result.json").read_text()


def empty(root):
    root.mkdir()


def only_training(root):
    write_folder(root, {"train": TRAINING})


def only_training_tables(root):
    hub_layout(root)
    (root / "plain_text" / "test-00000-of-00001.parquet").unlink()


def new_class(root):
    write_folder(root, {"train": TRAINING, "test": TEST})
    write_folder(root, {"test": (TEST[0][:1], [0])}, names=["d"])


def one_class(root):
    write_folder(root, {"train": (TRAINING[0], [0] * 12), "test": (TEST[0], [0] * 6)})


def no_table(root):
    hub_layout(root)
    (root / "plain_text" / "test-00000-of-00001.parquet").write_bytes(b"PAR1")


def other_columns(root):
    hub_layout(root, image="photo")


def words_as_labels(root):
    root.mkdir()
    for part in ("train", "test"):
        content = {"bytes": encoded(TRAINING[0][0]), "path": None}
        datasets.Dataset.from_dict({"image": [content], "label": ["cat"]}).to_parquet(root / f"{part}.parquet")


def all_damaged(root):
    for part in ("train", "test"):
        write_parquet(root / f"{part}.parquet", [b"bad"] * 4, [0, 1, 2, 0])


def other_size(root):
    write_folder(root, {"train": TRAINING, "test": TEST})
    write_folder(root, {"train": (pictures(1, size=(9, 8))[0], [0])}, names=["b"])


def other_size_of_test_images(root):
    write_folder(root, {"train": TRAINING, "test": pictures(6, size=(9, 8))})


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (empty, "must hold train/CLASS"),
        (only_training, "must have held-out images in one of val/, validation/, test/"),
        (only_training_tables, "1 files for training and 0 held-out ones"),
        (new_class, "has the folder 'd', and training has not"),
        (one_class, "at least 2 classes"),
        (no_table, "must hold parquet files that can be read"),
        (other_columns, "must have a column 'image' or 'img'; .* has 'photo', 'label'"),
        (words_as_labels, "'label' .* must hold class numbers; it is Value"),
        (all_damaged, "at least one of the training images must be readable; of 4 .* none is, the first because row 0"),
        (other_size, "must be of one size; the first is 8x8 and .*b/000.png is 9x8"),
        (other_size_of_test_images, "must be of one size; the first is 8x8 and a test image is 9x8"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, write, words, capsys):
    root = tmp_path / "data"
    write(root)
    assert main(["train", "resnet18-cifar10", "--data", str(root), "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("htmuon: error: ")
    with pytest.raises(ValueError, match=words):
        decode_set(open_stored(str(root)), str(root))
    assert not (tmp_path / "run").exists()
