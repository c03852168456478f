"""Every image recipe by its name, on small images in the form in which the real ones come."""

import json

import datasets
import numpy as np
import pytest
import torch
from stored_images import encoded, pictures, write_folder, write_parquet

import htmuon
from htmuon.cli import main
from htmuon.recipes import RECIPES
from htmuon.training.loop import TrainingLoop
from htmuon.training.run_config import RunConfig

NAMES = [name for name, recipe in RECIPES.items() if recipe().data.task == "images"]
SMALL_RESNET = ["--model.width", "4", "--batch-size", "4"]
SMALL_VIT = ["--model.hidden-size", "12", "--model.num-layers", "2", "--batch-size", "4", "--workers", "0"]
SHRUNK = {
    "resnet-tiny": SMALL_RESNET,
    "resnet18-cifar10": SMALL_RESNET,
    "resnet50-cifar100": SMALL_RESNET,
    "vit-tiny-cifar10": SMALL_VIT,
    "vit-tiny-imagenet": [*SMALL_VIT, "--data.image-size", "32", "--accumulation", "2"],
}


@pytest.fixture(autouse=True)
def table_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def tables(root, folder, parts, **columns):
    for part, (pixels, labels) in parts.items():
        suffix = "jpg" if folder == "data" else "png"
        contents = [encoded(image, suffix) for image in pixels]
        write_parquet(root / folder / f"{part}-00000-of-00001.parquet", contents, labels, **columns)


def cifar10(root):
    tables(root, "plain_text", {"train": pictures(12, size=(32, 32)), "test": pictures(6, size=(32, 32))})


def cifar100(root):
    parts = {"train": pictures(12, size=(32, 32)), "test": pictures(6, size=(32, 32))}
    tables(root, "cifar100", parts, label="fine_label")


def imagenet(root):
    parts = {"train": pictures(12, size=(60, 44)), "validation": pictures(6, size=(40, 50))}
    tables(root, "data", {**parts, "test": (parts["validation"][0], [-1] * 6)}, image="image")


def folders(root):
    write_folder(root, {"train": pictures(12, size=(32, 32)), "val": pictures(6, size=(32, 32))}, suffix="jpg")


def arrays(root):
    root.mkdir()
    (x_train, y_train), (x_test, y_test) = pictures(12, size=(32, 32)), pictures(6, size=(32, 32))
    np.savez(root / "images.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)


WRITERS = {
    "resnet-tiny": [arrays, folders],
    "resnet18-cifar10": [cifar10, folders],
    "resnet50-cifar100": [cifar100],
    "vit-tiny-cifar10": [cifar10, arrays],
    "vit-tiny-imagenet": [imagenet, folders],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "write"),
    [pytest.param(name, write, id=f"{name}-{write.__name__}") for name in NAMES for write in WRITERS[name]],
)
def test_a_recipe_runs_and_goes_on_after_an_interruption(tmp_path, monkeypatch, capsys, name, write):
    write(tmp_path / "images")
    place = next((tmp_path / "images").glob("*.npz"), tmp_path / "images")
    intervals = ["--eval-interval", "4", "--log-interval", "1", "--checkpoint-interval", "2"]
    words = ["train", name, "--data", str(place), "--steps", "4", "--device", "cpu", *intervals, *SHRUNK[name]]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    assert "accuracy" in capsys.readouterr().out.splitlines()[-1]

    honest = TrainingLoop._step

    def interrupted(self, step):
        if step == 3:
            raise KeyboardInterrupt
        honest(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_step", interrupted)
        assert main([*words, "--out", str(tmp_path / "broken")]) == 130
    assert main([*words, "--out", str(tmp_path / "broken"), "--resume"]) == 0
    for file in ("model.safetensors", "spectra.safetensors"):
        assert (tmp_path / "broken" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    result = json.loads((tmp_path / "whole" / "result.json").read_text())
    assert result["unreadable_samples"] == 0
    assert result["data_seconds_per_step"] > 0
    libraries = {"timm", "torchvision"} | ({"datasets", "pillow"} if write is not arrays else set())
    assert libraries <= set(result["versions"])


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json(name):
    config = RECIPES[name]()
    again = RunConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert type(again.data) is type(config.data)
    assert type(again.model) is type(config.model)


@pytest.mark.parametrize(
    ("name", "classes", "size", "parameters", "matrices"),
    [
        # ResNets for CIFAR: those of torchvision less the difference of their stems, 3x3 for 7x7, and classifiers.
        ("resnet18-cifar10", 10, 32, 11_689_512 - 64 * 3 * (49 - 9) - 990 * 513, 19),
        ("resnet50-cifar100", 100, 32, 25_557_032 - 64 * 3 * (49 - 9) - 900 * 2049, 52),
        # 12 blocks of four matrices of 12 * 192^2 elements, their vectors, and what is before and after them.
        ("vit-tiny-cifar10", 10, 32, 12 * (12 * 192**2 + 13 * 192) + 48 * 192 + 67 * 192 + 2 * 192 + 10 * 193, 48),
        ("vit-tiny-imagenet", 1000, 224, 5_717_416, 48),  # the number that DeiT-Ti and timm have
    ],
)
def test_the_networks_have_the_sizes_of_their_names(name, classes, size, parameters, matrices):
    with torch.device("meta"):
        model = RECIPES[name]().model.build_model(classes=classes, channels=3, height=size, width=size, seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert sum(route.view is not None for route in htmuon.route(model).routes) == matrices


def test_the_steps_are_the_epochs():
    for name, images, epochs in [
        ("resnet18-cifar10", 50_000, 200),
        ("resnet50-cifar100", 50_000, 200),
        ("vit-tiny-cifar10", 50_000, 200),
        ("vit-tiny-imagenet", 1_281_167, 300),
    ]:
        config = RECIPES[name]()
        assert config.steps * config.tokens_per_step == pytest.approx(images * epochs, rel=1e-3)


def test_each_has_one_line_in_the_list(capsys):
    main(["list"])
    lines = capsys.readouterr().out.splitlines()
    for name in NAMES:
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert line.endswith(".")
        assert len(line) < 140
