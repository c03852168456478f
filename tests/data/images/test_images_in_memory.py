import dataclasses
import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import htmuon
from htmuon.analysis.record_log import read_records
from htmuon.cli import main
from htmuon.cli.terminal import result_table
from htmuon.compare.compare_config import CompareConfig
from htmuon.compare.comparing import compare
from htmuon.compare.grid import GridConfig
from htmuon.compare.report import comparison_page
from htmuon.data.images.image_config import ImageConfig
from htmuon.data.images.image_models import ResNetConfig, build_resnet
from htmuon.data.images.images_in_memory import ImageClassification, pixel_statistics
from htmuon.data.text.language_models import LlamaConfig
from htmuon.recipes import RECIPES
from htmuon.training.resumable import lr_factor
from htmuon.training.run_config import OptimizerConfig, RunConfig
from htmuon.training.run_result import RunResult
from htmuon.training.train import train

MEASURED = {"seconds_per_step", "optimizer_seconds", "data_seconds"}


@pytest.fixture(scope="module")
def image_file(tmp_path_factory):
    """Images of three classes that differ in the brightness of one third, with noise."""
    draw = np.random.default_rng(0)

    def images(count):
        labels = np.arange(count) % 3
        pixels = draw.integers(0, 120, (count, 9, 8), dtype=np.uint8)
        for image, label in zip(pixels, labels, strict=True):
            image[3 * label : 3 * label + 3] += 100
        return pixels, labels

    path = tmp_path_factory.mktemp("images") / "bars.npz"
    (x_train, y_train), (x_test, y_test) = images(48), images(20)
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


@pytest.fixture
def config(image_file):
    return RunConfig(
        recipe="resnet-tiny",
        data=ImageConfig(path=str(image_file), crop_padding=1, flip=True, label_smoothing=0.1),
        model=ResNetConfig(depth=10, width=4),
        optimizer=OptimizerConfig(name="htmuon", lr=0.02, adamw_lr=0.01),
        steps=12,
        batch_size=8,
        eval_interval=5,
        log_interval=2,
        checkpoint_interval=3,
        device="cpu",
    )


def contents(folder):
    lines = [
        {key: value for key, value in line.items() if key not in MEASURED}
        for line in read_records(folder / "metrics.jsonl")
    ]
    return lines, *((folder / name).read_bytes() for name in ("model.safetensors", "spectra.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("ema_decay", [None, 0.5])
@pytest.mark.parametrize("spec", ["adamw", "htmuon"])
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, config, recorder, spec, ema_decay):
    optimizer = dataclasses.replace(config.optimizer, name=spec)
    config = dataclasses.replace(config, optimizer=optimizer, ema_decay=ema_decay)
    whole = train(config, tmp_path / "whole")

    def interrupt(step):
        if step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "broken", recorder(interrupt))
    observer = recorder()
    result = train(config, tmp_path / "broken", observer)
    assert observer.first_steps == [6]
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")
    assert (result.final_loss, result.accuracy) == (whole.final_loss, whole.accuracy)


def test_a_run_equals_the_loop_written_out(tmp_path, config):
    # Exact, as bfloat16 products make much of a rounding of the gradients.
    exact = dataclasses.replace(config.optimizer, name="htmuon:method=exact")
    config = dataclasses.replace(config, optimizer=exact, ema_decay=0.75, accumulation=2)
    result = train(config, tmp_path / "run")

    source = config.data.open(config)
    model = source.build_model()
    task = ImageClassification(config, config.data, source.images, torch.device("cpu"))
    decays = {"weight_decay": 0.1, "adamw_weight_decay": 0.1}
    optimizer = htmuon.HTMuon(htmuon.param_groups(model), lr=0.02, adamw_lr=0.01, method="exact", **decays)
    peaks = [group["lr"] for group in optimizer.param_groups]
    lines = read_records(tmp_path / "run" / "metrics.jsonl")
    average = None
    x = source.images.training.pixels.double()
    for step in range(config.steps):
        for batch in (2 * step, 2 * step + 1):
            pixels, labels = task.batches[batch]
            logits = model((pixels.double() - x.mean()).float() / x.std(correction=0).float())
            log_probabilities = logits.log_softmax(-1)
            right = log_probabilities.gather(1, labels[:, None]).mean()
            (-(0.9 * right + 0.1 * log_probabilities.mean()) / 2).backward()
        factor = lr_factor(step, steps=12, warmup_fraction=0.1, final_fraction=0.1)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        optimizer.step()
        optimizer.zero_grad()
        state = {name: tensor.detach().clone().double() for name, tensor in model.state_dict().items()}
        average = state if average is None else {n: 0.75 * average[n] + 0.25 * state[n] for n in state}

    stored = load_file(tmp_path / "run" / "model.safetensors")
    for name, expected in average.items():
        if not name.endswith("num_batches_tracked"):
            # Twelve steps of the same float32 arithmetic, in another order where the loss is summed.
            torch.testing.assert_close(stored[name].double(), expected, rtol=1e-2, atol=1e-4)
    evaluated = [line for line in lines if line["kind"] == "evaluation"]
    assert [line["step"] for line in evaluated] == [5, 10, 12]
    assert evaluated[-1]["accuracy"] == result.accuracy

    network = source.build_model()
    network.load_state_dict(stored)
    network.eval()
    part = source.images.held_out["test"]
    with torch.no_grad():
        logits = network((part.pixels.double() - x.mean()).float() / x.std(correction=0).float())
    assert result.final_loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, part.labels)), rel=1e-5)
    assert result.accuracy == float((logits.argmax(1) == part.labels).double().mean())


@pytest.mark.slow
def test_a_run_learns_and_says_so(tmp_path, config):
    result = train(dataclasses.replace(config, steps=60, split="validation"), tmp_path / "run")
    assert result.accuracy > 0.8  # of three classes
    assert result.tokens == 60 * 8
    stored = json.loads((tmp_path / "run" / "result.json").read_text())
    assert "perplexity" not in stored
    assert "timm" in stored["versions"]
    assert RunResult.from_dict(stored) == result
    assert train(dataclasses.replace(config, steps=60, split="validation"), tmp_path / "run") == result


def test_the_optimizers_see_the_same_data(tmp_path, config, monkeypatch):
    seen = []
    honest = ImageClassification.training_loss

    def training_loss(self, model, batch):
        seen[-1].append([part.tolist() for part in batch])
        return honest(self, model, batch)

    monkeypatch.setattr(ImageClassification, "training_loss", training_loss)
    for spec in ("adamw", "muon"):
        seen.append([])
        optimizer = dataclasses.replace(config.optimizer, name=spec)
        train(dataclasses.replace(config, optimizer=optimizer, steps=8), tmp_path / spec)
    assert len(seen[0]) == 8
    assert seen[0] == seen[1]


def test_a_changed_file_is_noticed(tmp_path, config, image_file):
    own = tmp_path / "own.npz"
    own.write_bytes(image_file.read_bytes())
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, path=str(own)), steps=2)
    train(config, tmp_path / "run")
    with np.load(own) as stored:
        np.savez(own, **{**stored, "y_test": stored["y_test"][::-1]})
    with pytest.raises(ValueError, match="changed since the run"):
        train(config, tmp_path / "run")


def test_errors_leave_no_folder(tmp_path, config):
    (tmp_path / "bad.npz").write_bytes(b"PK")
    changes = {
        "is not a file": {"data": dataclasses.replace(config.data, path="/no/such.npz")},
        "reading it failed": {"data": dataclasses.replace(config.data, path=str(tmp_path / "bad.npz"))},
        "must fill one batch": {"batch_size": 500},
    }
    for words, change in changes.items():
        with pytest.raises(ValueError, match=words):
            train(dataclasses.replace(config, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_timm_is_named_with_its_extra(tmp_path, config, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r'needs timm, .*pip install "htmuon\[vision\]"'):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("depth", "matrices"), [(10, 8 + 3), (18, 16 + 3), (50, 48 + 4)])
def test_convolutions_are_matrices_and_stem_and_classifier_are_not(depth, matrices):
    model = build_resnet(ResNetConfig(depth=depth, width=4), classes=7, channels=3, seed=0)
    routes = htmuon.route(model).routes
    spectral = [route.name for route in routes if route.view is not None]
    # The convolutions of the blocks, and those of the shortcuts that change the number of channels.
    assert len(spectral) == matrices
    assert all("conv" in name or "downsample" in name for name in spectral)
    assert {route.name for route in routes if route.parameter.ndim > 1} - set(spectral) == {"conv1.weight", "fc.weight"}
    assert model(torch.zeros(2, 3, 9, 8)).shape == (2, 7)


def test_the_initial_weights_depend_on_the_seed_alone():
    state = torch.random.get_rng_state()
    models = [build_resnet(ResNetConfig(width=4), classes=3, channels=1, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), state)
    first, again, other = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], again[name]) for name in first)
    for name in ("conv1.weight", "layer1.0.conv1.weight", "fc.weight"):
        assert not torch.equal(first[name], other[name])


def test_pixel_statistics_of_each_channel():
    pixels = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    pixels[:, 2] = 9
    mean, deviation = pixel_statistics(pixels)
    expected = pixels.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(mean.flatten().double(), expected.mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(deviation.flatten()[:2].double(), expected.std(1, correction=0)[:2], rtol=1e-6, atol=0)
    assert deviation[2] == 1


def test_json_round_trip_of_image_settings(config):
    config = dataclasses.replace(config, ema_decay=0.99)
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match=r"setting of ImageConfig .*'flipp'. Did you mean 'flip'"):
        RunConfig.from_dict({**config.to_dict(), "data": {"kind": "images", "flipp": True}})


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"depth": 11}, "one of 10, 18, 34, 50; got 11"), ({"width": 5}, "even number"), ({"stem_stride": 3}, "1 or 2")],
)
def test_bad_model_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        ResNetConfig(**settings)


def test_data_and_model_must_be_of_one_task(config):
    with pytest.raises(ValueError, match=r"must be of one task: ImageConfig goes with .*; got LlamaConfig"):
        dataclasses.replace(config, model=LlamaConfig())
    with pytest.raises(ValueError, match=r"ema_decay must be .* less than 1; got 1.0"):
        dataclasses.replace(config, ema_decay=1.0)


def test_the_recipe_on_the_embedded_images_from_the_command_line(tmp_path, capsys):
    assert RECIPES["resnet-tiny"]().data.path == ""
    small = ["--batch-size", "4", "--model.width", "4", "--steps", "2", "--eval-interval", "2"]
    assert main(["train", "resnet-tiny", "--out", str(tmp_path / "run"), "--device", "cpu", *small]) == 0
    assert "% optimizer, " in capsys.readouterr().out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    augmentation = {"crop_padding": 2, "flip": True, "label_smoothing": 0.1}
    assert config["data"] == {"kind": "images", "path": "", **augmentation}
    assert main(["train", "resnet-tiny", "--out", str(tmp_path / "run2"), "--data.vocab-size", "300"]) == 2


@pytest.mark.slow
def test_a_comparison_on_images_reports_accuracies(tmp_path, config, monkeypatch):
    shared = dataclasses.replace(config, steps=6, eval_interval=2)
    grid = GridConfig(points=3, max_extensions=0)
    optimizers = ("adamw", "muon")
    compared = CompareConfig(run=shared, out=tmp_path / "out", optimizers=optimizers, learning_rates="tune", grid=grid)
    summaries = compare(compared, command="htmuon compare resnet-tiny", save_tuned=tmp_path / "tuned.json").summaries
    for summary, spec in zip(summaries, optimizers, strict=True):
        runs = [path for path in (tmp_path / "out" / "runs" / "test").iterdir() if path.name.startswith(spec)]
        stored = [json.loads((path / "result.json").read_text())["accuracy"] for path in sorted(runs)]
        assert summary.accuracies == tuple(stored)
        assert summary.accuracy == pytest.approx(sum(stored) / 2)
    table = result_table(summaries)
    assert "accuracy [%]" in table
    assert "perplexity" not in table
    assert "images to" in table
    assert f"{100 * summaries[0].accuracy:.2f} ± " in table
    page = (tmp_path / "out" / "report.html").read_text()
    assert "A ResNet with" in page
    assert "bars.npz" in page
    # The stored rates are found again, for the settings are those of the search.
    again = dataclasses.replace(
        compared, out=tmp_path / "again", learning_rates="stored", tuned_file=str(tmp_path / "tuned.json")
    )
    monkeypatch.setattr(comparison_page, "build_figures", lambda *_: [])  # drawn once, above
    stored_ones = compare(again, command="htmuon compare resnet-tiny").summaries
    assert [summary.losses for summary in stored_ones] == [summary.losses for summary in summaries]
    assert "tuned with other settings" not in (tmp_path / "again" / "report.html").read_text()
