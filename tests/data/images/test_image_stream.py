"""Images that are decoded while the model trains."""

import dataclasses
import pickle
import random

import numpy as np
import pytest
import torch
from stored_images import pictures, write_folder
from torch.nn.functional import cross_entropy, one_hot

from htmuon.analysis.record_log import read_records
from htmuon.data.images.image_config import ImageStreamConfig
from htmuon.data.images.image_loader import worker_count
from htmuon.data.images.image_models import ResNetConfig, ViTConfig
from htmuon.data.images.image_stream import ImageStream
from htmuon.data.images.samples import ATTEMPTS
from htmuon.data.images.stored import NO_LABEL
from htmuon.training.run_config import OptimizerConfig, RunConfig
from htmuon.training.train import train

MEASURED = {"seconds_per_step", "optimizer_seconds", "data_seconds"}
CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    """Images of several sizes, as PNG."""
    parts = {"train": pictures(12, size=(14, 11)), "val": pictures(10, size=(9, 12), seed=1)}
    write_folder(tmp_path / "images", parts)
    return tmp_path / "images"


@pytest.fixture
def config(folder):
    return RunConfig(
        recipe="test",
        data=ImageStreamConfig(path=str(folder), image_size=8),
        model=ViTConfig(patch_size=4, hidden_size=8, num_layers=2, num_heads=2),
        optimizer=OptimizerConfig(name="htmuon", lr=0.02, adamw_lr=0.01),
        steps=8,
        batch_size=4,
        accumulation=2,
        eval_interval=3,
        log_interval=2,
        checkpoint_interval=2,
        device="cpu",
        workers=0,
    )


def damage(folder, *names):
    for name in names:
        file = folder / name
        file.write_bytes(file.read_bytes()[:40])


def opened(config, messages=None):
    return config.data.open(config).open(CPU, None, (messages if messages is not None else []).append)


def batches(config, numbers, messages=None):
    task = opened(config, messages)
    return [tuple(part.tolist() for part in task.fetch(number)) for number in numbers]


def test_batches_depend_on_seed_and_number_alone(config, folder):
    damage(folder, "train/a/000.png", "train/b/004.png")
    expected = batches(config, range(5))
    with_workers = dataclasses.replace(config, workers=1)
    assert batches(with_workers, range(5)) == expected
    assert batches(config, [3, 4, 0, 1]) == [expected[number] for number in (3, 4, 0, 1)]
    assert batches(dataclasses.replace(config, seed=1), [0]) != expected[:1]
    assert batches(dataclasses.replace(config, seed=0, optimizer=OptimizerConfig(name="adamw")), [2]) == [expected[2]]
    assert len({str(batch) for batch in expected}) == 5


def test_making_a_batch_leaves_the_generators_as_they_were(config):
    def states():
        legacy = np.random.get_state()  # noqa: NPY002  # timm draws from it
        return random.getstate(), str(legacy), torch.get_rng_state().tolist()

    before = states()
    for workers in (0, 1):
        batches(dataclasses.replace(config, workers=workers), range(2))
    assert states() == before


def test_an_epoch_holds_every_image_once(config):
    plain = dataclasses.replace(config.data, mixup=0.0, cutmix=0.0)
    task = opened(dataclasses.replace(config, data=plain))
    samples = task.batches.samples
    read = samples.images.read
    seen = []
    samples.images.read = lambda index: seen.append(index) or read(index)
    for number in range(24):
        samples[number]
    assert sorted(seen[:12]) == sorted(seen[12:]) == list(range(12))
    assert seen[:12] != seen[12:]


def test_a_confirmation_is_judged_by_an_image_that_it_does_not_train_on(config):
    task = opened(dataclasses.replace(config, split="confirmation"))
    assert task.batches.samples.which.tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11]
    assert task.held_out.which.tolist() == [6]
    assert task.held_out.images is task.batches.samples.images


def test_a_damaged_image_is_replaced_counted_and_told(config, folder):
    damage(folder, "train/a/003.png", "val/b/001.png")
    messages = []
    task = opened(dataclasses.replace(config, split="validation"), messages)
    for number in range(3):
        images, _ = task.fetch(number)
        assert len(images) == 4
    assert task.unreadable_samples == 1
    task.evaluate(config.data.open(config).build_model())
    assert task.unreadable_samples == 2
    assert len(messages) == 2
    assert messages[0].startswith(f"left out: {folder}/train/a/003.png is no image that can be decoded")
    for number in range(3, 9):
        task.fetch(number)
    assert task.unreadable_samples == 2


def test_many_damaged_images_are_told_in_few_lines(config):
    messages = []
    task = opened(config, messages)
    task.leave_out([f"{n} is bad" for n in range(100)])
    assert task.unreadable_samples == 100
    assert len(messages) == 5 + 4  # the 8th, 16th, 32nd and 64th
    assert messages[-1] == "left out: 63 is bad; they are 64 by now."


def test_held_out_images_that_cannot_be_read_do_not_count(config, folder):
    model = config.data.open(config).build_model().eval()
    whole = opened(config)
    good = [index for index in whole.held_out.which.tolist() if index != 1]
    expected = []
    for index in good:
        pixels = whole.held_out.transform(whole.held_out.images.read(index))
        label = whole.held_out.images.labels[index : index + 1]
        with torch.no_grad():
            expected.append(float(cross_entropy(model(whole.augment.normalize(pixels)[None]), label)))
    damage(folder, "val/a/003.png")
    assert opened(config).evaluate(model).loss == pytest.approx(sum(expected) / len(expected), rel=1e-5)


@pytest.mark.parametrize("part", ["train", "val"])
def test_data_that_is_damaged_as_a_whole_is_an_error(config, folder, part):
    damage(folder, *(str(file.relative_to(folder)) for file in (folder / part).rglob("*.png")))
    task, model = opened(config), config.data.open(config).build_model()
    if part == "train":
        with pytest.raises(ValueError, match=f"of {ATTEMPTS} in a row none was"):
            task.fetch(0)
    else:
        with pytest.raises(ValueError, match="at least one held-out image must be readable"):
            task.evaluate(model)


def contents(folder):
    lines = [
        {key: value for key, value in line.items() if key not in MEASURED}
        for line in read_records(folder / "metrics.jsonl")
    ]
    return lines, *((folder / name).read_bytes() for name in ("model.safetensors", "spectra.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["adamw", "htmuon"])
def test_an_interrupted_run_goes_on_to_the_same_bits_with_other_workers(tmp_path, config, folder, recorder, spec):
    damage(folder, "train/a/000.png", "val/b/004.png")
    optimizer = dataclasses.replace(config.optimizer, name=spec)
    config = dataclasses.replace(config, optimizer=optimizer, ema_decay=0.5)
    whole = train(config, tmp_path / "whole")
    assert whole.unreadable_samples == 2

    def interrupt(step):
        if step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "broken", recorder(interrupt))
    observer = recorder()
    result = train(dataclasses.replace(config, workers=1), tmp_path / "broken", observer)
    assert observer.first_steps == [4]
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")
    assert (result.final_loss, result.accuracy) == (whole.final_loss, whole.accuracy)
    assert result.unreadable_samples == 2


def test_images_of_arrays_are_the_same_images(tmp_path, config):
    pixels, labels = pictures(12, size=(8, 8))
    grey = pixels[..., 0]
    np.savez(tmp_path / "own.npz", x_train=grey, y_train=labels, x_test=grey, y_test=labels)
    data = dataclasses.replace(config.data, path=str(tmp_path / "own.npz"), crop="padded")
    task = opened(dataclasses.replace(config, data=data))
    found = task.held_out[2]
    assert found.label == labels[5]  # the report images are every second one, from the second
    assert torch.equal(found.pixels, torch.from_numpy(grey[5]).expand(3, 8, 8))


def test_what_processes_get_can_be_sent_to_them(config):
    samples = opened(config).batches.samples
    again = pickle.loads(pickle.dumps(samples))
    assert torch.equal(again[5].pixels, samples[5].pixels)


def test_the_loss_smooths_mixed_targets(config):
    task = opened(dataclasses.replace(config, data=dataclasses.replace(config.data, label_smoothing=0.3)))
    images, targets = task.fetch(0)
    model = config.data.open(config).build_model().eval()
    logits = model(images)
    smoothed = 0.7 * targets + 0.3 / 3
    expected = -(smoothed * logits.log_softmax(-1)).sum(1).mean()
    torch.testing.assert_close(task.training_loss(model, (images, targets)), expected)


def test_without_mixing_the_targets_are_classes(config):
    data = dataclasses.replace(config.data, mixup=0.0, cutmix=0.0, erasing=0.0)
    task = opened(dataclasses.replace(config, data=data, batch_size=3))
    images, labels = task.fetch(0)
    assert labels.dtype == torch.int64
    model = config.data.open(config).build_model().eval()
    targets = 0.9 * one_hot(labels, 3) + 0.1 / 3
    expected = -(targets * model(images).log_softmax(-1)).sum(1).mean()
    torch.testing.assert_close(task.training_loss(model, (images, labels)), expected)


def test_a_resnet_takes_streamed_images_too(tmp_path, config):
    config = dataclasses.replace(config, model=ResNetConfig(depth=10, width=4), steps=1)
    assert train(config, tmp_path / "run").steps == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 3}, "batch_size must be even, because mixup and cutmix .* got 3"),
        ({"batch_size": 50}, "must fill one batch of 50; there are 12 with a class"),
        ({"model": ViTConfig(patch_size=3)}, "must be multiples of patch_size, which is 3; they are 8 and 8"),
        ({"data": {"rand_augment": "rand-q9"}}, "rand_augment must be a spec of timm; 'rand-q9' is not"),
        ({"data": {"path": "/no/such"}}, "the data path must be"),
    ],
)
def test_settings_that_cannot_be_used(tmp_path, config, change, words):
    if isinstance(change.get("data"), dict):
        change = {"data": dataclasses.replace(config.data, **change["data"])}
    with pytest.raises(ValueError, match=words):
        train(dataclasses.replace(config, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_arrays_with_odd_channels(tmp_path, config):
    pixels = np.zeros((4, 8, 8, 2), dtype=np.uint8)
    np.savez(tmp_path / "odd.npz", x_train=pixels, y_train=[0, 1, 0, 1], x_test=pixels, y_test=[0, 1, 0, 1])
    data = dataclasses.replace(config.data, path=str(tmp_path / "odd.npz"))
    with pytest.raises(ValueError, match=r"must have 1, 3 or 4 channels to become RGB; .* have 2"):
        data.open(dataclasses.replace(config, data=data))


def test_the_number_of_processes():
    assert [worker_count(given) for given in (0, 3)] == [0, 3]
    assert 1 <= worker_count(None) <= 16


def test_images_without_a_class_are_left_out(config, folder):
    source, messages = config.data.open(config), []
    source.stored.training.labels[1] = source.stored.test.labels[[3, 4]] = NO_LABEL
    task = source.open(CPU, None, messages.append)
    names = [f"{folder}/train/a/003.png", f"{folder}/val/a/009.png"]  # 4 is no report image
    assert messages == [f"left out: {name} has no class." for name in names]
    assert sorted(task.batches.samples.which.tolist()) == [0, *range(2, 12)]
    assert task.held_out.which.tolist() == [1, 5, 7, 9]


def test_the_optimizers_see_the_same_images(tmp_path, config, monkeypatch):
    seen = []
    honest = ImageStream.training_loss

    def training_loss(self, model, batch):
        seen[-1].append([part.tolist() for part in batch])
        return honest(self, model, batch)

    monkeypatch.setattr(ImageStream, "training_loss", training_loss)
    for spec in ("adamw", "muon"):
        seen.append([])
        optimizer = dataclasses.replace(config.optimizer, name=spec)
        train(dataclasses.replace(config, optimizer=optimizer, steps=4), tmp_path / spec)
    assert len(seen[0]) == 4 * config.accumulation
    assert seen[0] == seen[1]
