import dataclasses
import json
import math

import pytest
import torch
from safetensors.torch import load_file

import htmuon
from htmuon._files import locked
from htmuon.analysis.record_log import read_records
from htmuon.baselines.specs import build_optimizer
from htmuon.data.text.corpus import read_files
from htmuon.data.text.language_models import LlamaConfig
from htmuon.data.text.next_token import TrainingBatches
from htmuon.data.text.text_in_memory import LanguageModelling
from htmuon.data.text.token_cache import prepare_tokens
from htmuon.training.loop import TrainingStoppedError
from htmuon.training.metrics import MetricsLog
from htmuon.training.resumable import lr_factor
from htmuon.training.train import train


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def losses(folder):
    lines = read_records(folder / "metrics.jsonl")
    return [(line["kind"], line["step"], line["loss"]) for line in lines]


def test_a_run_equals_the_loop_written_out(tmp_path, config, recorder):
    config = dataclasses.replace(config, accumulation=2, max_grad_norm=0.5)
    observer = recorder()
    result = train(config, tmp_path / "run", observer)

    model = config.model.build_model(**config.data.sizes, seed=config.seed)
    groups = htmuon.param_groups(model)
    optimizer = htmuon.HTMuon(groups, lr=0.02, weight_decay=0.1, adamw_lr=0.003, adamw_weight_decay=0.1)
    peaks = [group["lr"] for group in optimizer.param_groups]
    text = prepare_tokens(read_files(config.data.path), config.data, tmp_path, pytest.fail)
    batches = TrainingBatches(text.training, sequence_length=16, batch_size=4, seed=0)
    means = []
    for step in range(config.steps):
        mean = 0.0
        for k in (2 * step, 2 * step + 1):
            inputs, targets = batches[k]
            log_probabilities = model(input_ids=inputs).logits.log_softmax(-1)
            loss = -log_probabilities.gather(-1, targets[..., None]).mean() / 2
            loss.backward()
            mean += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * lr_factor(step, steps=12, warmup_fraction=0.1, final_fraction=0.1)
        optimizer.step()
        optimizer.zero_grad()
        means.append(mean)

    stored = load_file(tmp_path / "run" / "model.safetensors")
    for name, parameter in model.named_parameters():
        # Twelve steps of the same float32 arithmetic; only the loss is summed in another order.
        torch.testing.assert_close(stored[name], parameter.detach(), rtol=1e-3, atol=1e-5)
    expected = [sum(means[i : i + 2]) / 2 for i in range(0, 12, 2)]
    assert [step for step, _ in observer.steps] == [2, 4, 6, 8, 10, 12]
    assert [loss for _, loss in observer.steps] == pytest.approx(expected, rel=1e-5)
    assert result.tokens == 12 * 2 * 4 * 16


def test_what_a_finished_run_leaves(tmp_path, config, recorder):
    observer = recorder()
    result = train(config, tmp_path / "run", observer)
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == ["config.json", "metrics.jsonl", "model.safetensors", "result.json", "spectra.safetensors"]
    assert observer.first_steps == [0]
    assert [step for step, _ in observer.evaluations] == [5, 10, 12]
    assert observer.results == [result]
    assert not observer.messages

    assert result.final_loss == observer.evaluations[-1][1]
    assert 0 < result.final_loss < math.log(280)  # better than all tokens alike
    assert 0 < result.optimizer_seconds_per_step < result.seconds_per_step
    hidden = 2 * (4 * 16 * 16 + 3 * 16 * 24)
    assert (result.hidden_parameters, result.parameters) == (hidden, hidden + 2 * 280 * 16 + 5 * 16)
    # One momentum for a hidden matrix, two moments and a step count for the others, all float32.
    assert result.optimizer_state_bytes == 4 * (hidden + 2 * (2 * 280 * 16 + 5 * 16) + 7)
    assert result.peak_memory_bytes > 100 * 2**20  # torch itself is larger
    assert (result.skipped_steps, result.diverged, result.precision, result.device) == (0, False, "float32", "cpu")
    stored = json.loads((tmp_path / "run" / "result.json").read_text())
    assert stored["perplexity"] == math.exp(stored["final_loss"])

    lines = read_records(tmp_path / "run" / "metrics.jsonl")
    assert [line["lr"] for line in lines if line["kind"] == "train"][-1] == pytest.approx(0.002)
    assert {line["split"] for line in lines if line["kind"] == "evaluation"} == {"test"}
    spectra = load_file(tmp_path / "run" / "spectra.safetensors")
    assert len(spectra) == 3 * 14
    assert spectra["weights/model.layers.0.mlp.up_proj.weight"].shape == (16,)


def test_a_finished_run_is_not_repeated(tmp_path, config, recorder):
    result = train(config, tmp_path / "run")
    before = contents(tmp_path / "run")
    observer = recorder()
    assert train(config, tmp_path / "run", observer) == result
    assert contents(tmp_path / "run") == before
    assert not observer.first_steps


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["adamw", *htmuon.OPTIMIZERS, "htmuon:schedule=interval,every=2"])
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, with_optimizer, recorder, spec):
    config = with_optimizer(spec)
    whole = train(config, tmp_path / "whole")

    def interrupt(step):
        if step == 8:  # after the checkpoint of step 6, and with the lines of step 8 written
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "broken", recorder(interrupt))
    observer = recorder()
    result = train(config, tmp_path / "broken", observer)
    assert observer.first_steps == [6]
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    for name in ("model.safetensors", "spectra.safetensors"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert result.final_loss == whole.final_loss


SCHEDULED = "htmuon:method=polynomial,schedule=linear,start=0.5,end=0.25,total_steps=4"


def logged_powers(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["power"] for line in lines if line["kind"] == "train"]


def test_a_power_that_the_device_alone_knows_is_logged(tmp_path, with_optimizer, monkeypatch):
    train(with_optimizer(SCHEDULED), tmp_path / "host")
    monkeypatch.setattr("htmuon.optim.groups.host_may_look", lambda tensor: False)  # as on an accelerator
    train(with_optimizer(SCHEDULED), tmp_path / "device")
    assert logged_powers(tmp_path / "device") == logged_powers(tmp_path / "host")
    assert logged_powers(tmp_path / "host")[-1] == 0.25


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; torch sees none")
@pytest.mark.parametrize("spec", ["adamw", "htnormuon", SCHEDULED])
def test_training_on_a_gpu(tmp_path, with_optimizer, spec):
    config = dataclasses.replace(with_optimizer(spec), device="cuda")
    result = train(config, tmp_path / "run")
    assert (result.precision, result.device) == ("bfloat16", torch.cuda.get_device_name())
    assert result.final_loss < math.log(280)


def test_a_run_that_began_beside_others_says_so(tmp_path, config, recorder):
    def interrupt(step):
        if step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", recorder(interrupt), side_by_side=3)
    assert train(config, tmp_path / "run").side_by_side == 3


def test_seed_and_documents_decide_the_result(tmp_path, config):
    base = train(config, tmp_path / "base")
    assert train(dataclasses.replace(config, seed=1), tmp_path / "seed").final_loss != base.final_loss
    tuning = train(dataclasses.replace(config, split="validation"), tmp_path / "validation")
    assert tuning.final_loss != base.final_loss
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("base", "validation")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_callers_random_stream_is_untouched(tmp_path, config):
    state = torch.random.get_rng_state()
    train(dataclasses.replace(config, steps=2), tmp_path / "run")
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("precision", ["bfloat16", "auto"])
def test_precision(tmp_path, config, precision):
    result = train(dataclasses.replace(config, precision=precision), tmp_path / "run")
    assert result.precision == {"bfloat16": "bfloat16", "auto": "float32"}[precision]
    assert all(t.dtype == torch.float32 for t in load_file(tmp_path / "run" / "model.safetensors").values())
    assert result.final_loss < math.log(280)


def spoil_gradients(monkeypatch, bad_steps):
    """Make the gradients of some steps NaN, as a fault of the device would."""
    count = iter(range(10**6))
    honest = LanguageModelling.training_loss

    def training_loss(self, model, batch):
        loss = honest(self, model, batch)
        return loss * float("nan") if next(count) in bad_steps else loss

    monkeypatch.setattr(LanguageModelling, "training_loss", training_loss)


@pytest.mark.parametrize("spec", ["adamw", "htmuon"])
def test_skipped_steps_are_counted_and_told(tmp_path, with_optimizer, recorder, monkeypatch, spec):
    spoil_gradients(monkeypatch, {2, 3, 7})
    observer = recorder()
    result = train(with_optimizer(spec), tmp_path / "run", observer)
    assert (result.skipped_steps, result.diverged) == (3, False)
    assert [message.partition(":")[0] for message in observer.messages] == [
        "2 steps skipped by step 4",
        "3 steps skipped by step 8",
    ]


@pytest.mark.parametrize("spec", ["adamw", "htmuon"])
@pytest.mark.parametrize(
    ("bad_steps", "words"), [(range(6, 12), "4 of the first 10 steps"), (range(12), "4 of the first 4 steps")]
)
def test_too_many_skipped_steps_stop_the_run(tmp_path, with_optimizer, monkeypatch, spec, bad_steps, words):
    spoil_gradients(monkeypatch, bad_steps)
    config = dataclasses.replace(with_optimizer(spec, lr=0.02, adamw_lr=0.02), max_skipped_steps=3)
    with pytest.raises(TrainingStoppedError, match=f"fewer than 3 steps.*{words}"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("spec", ["adamw", "htmuon"])
def test_a_diverged_run_finishes(tmp_path, with_optimizer, recorder, spec):
    config = dataclasses.replace(with_optimizer(spec, lr=1e30, adamw_lr=1e30), max_skipped_steps=4, eval_interval=100)
    observer = recorder()
    result = train(config, tmp_path / "run", observer)
    assert result.diverged
    assert result.final_loss > math.log(280) - 1e-3
    assert result.skipped_steps >= 4
    assert result.steps < config.steps
    assert not (tmp_path / "run" / "spectra.safetensors").exists()
    assert train(config, tmp_path / "run") == result


@pytest.mark.parametrize("log_interval", [2, 100])
def test_a_loss_that_is_not_finite_is_a_divergence(tmp_path, config, recorder, monkeypatch, log_interval):
    monkeypatch.setattr(LanguageModelling, "held_out_loss", lambda task, model: math.inf)
    config = dataclasses.replace(config, log_interval=log_interval)
    observer = recorder()
    result = train(config, tmp_path / "run", observer)
    assert (result.diverged, result.steps, result.final_loss) == (True, 5, math.inf)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["final_loss"] is None
    assert observer.evaluations == [(5, math.inf)]
    again = train(config, tmp_path / "run")
    assert again.diverged
    assert math.isnan(again.final_loss)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 13, "seed": 4}, "seed is 0 there and 4 here"),
        ({"model": LlamaConfig(hidden_size=16, num_heads=4)}, "model.num_heads is 2 there and 4 here"),
    ],
)
def test_the_folder_of_other_settings_is_left_alone(tmp_path, config, change, words):
    train(config, tmp_path / "run")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=f"other settings.*{words}"):
        train(dataclasses.replace(config, **change), tmp_path / "run")
    assert contents(tmp_path) == before


def test_a_folder_with_other_files_is_left_alone(tmp_path, config):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"no config.json but thesis.tex.*new or empty"):
        train(config, tmp_path / "run")
    assert [str(path) for path in contents(tmp_path)] == ["run/thesis.tex"]


@pytest.mark.parametrize("stored", ["{", "[]", '{"lr": 1}'])
def test_a_config_that_is_not_ours(tmp_path, config, stored):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(stored)
    with pytest.raises(ValueError, match="not the settings of a run"):
        train(config, tmp_path / "run")
    assert [str(path) for path in contents(tmp_path)] == ["run/config.json"]


def test_paths_that_cannot_be_a_folder(tmp_path, config):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        train(config, tmp_path / "file")
    with pytest.raises(ValueError, match="can be written"):
        train(config, tmp_path / "file" / "run")
    with pytest.raises(ValueError, match="can be written"):
        train(config, tmp_path / "file" / "run", cache=tmp_path / "cache")


def test_a_damaged_result_is_named(tmp_path, config):
    train(config, tmp_path / "run")
    (tmp_path / "run" / "result.json").write_text("{}")
    with pytest.raises(ValueError, match=r"result.json is damaged.*delete it"):
        train(config, tmp_path / "run")


def test_two_processes_in_one_folder(tmp_path, config):
    with locked(tmp_path / "run", "training"), pytest.raises(ValueError, match="another process is training"):
        train(config, tmp_path / "run")
    assert train(config, tmp_path / "run").steps == 12


def test_a_changed_text_is_noticed(tmp_path, config, recorder):
    own = tmp_path / "own.txt"
    own.write_text((read_files(config.data.path)["words.txt"]).decode())
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, path=str(own)))

    def interrupt(step):
        if step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "broken", recorder(interrupt))
    train(config, tmp_path / "finished")
    own.write_text(own.read_text() + " more")
    for folder in ("broken", "finished"):
        with pytest.raises(ValueError, match="changed since the run"):
            train(config, tmp_path / folder)


@pytest.mark.parametrize(
    ("device", "words"), [("tpu", "must be auto"), ("meta", "must be auto"), ("cuda:99", "not there")]
)
def test_bad_devices(tmp_path, config, device, words):
    with pytest.raises(ValueError, match=words):
        train(dataclasses.replace(config, device=device), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_errors_of_settings_and_data_leave_no_folder(tmp_path, config, with_optimizer):
    changes = {
        "does not exist": {"data": dataclasses.replace(config.data, path="/no/such/text")},
        "at least 4 documents": {"data": dataclasses.replace(config.data, separator="@@")},
        "one batch": {"batch_size": 5000},
        "Did you mean 'htmuon'": {"optimizer": with_optimizer("htmun").optimizer},
    }
    for words, change in changes.items():
        with pytest.raises(ValueError, match=words):
            train(dataclasses.replace(config, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_torn_line_and_later_lines_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path, last_step=0) as log:
        for step in (2, 4, 6):
            log.write({"kind": "train", "step": step, "loss": 0.1 * step})
    with path.open("a") as file:
        file.write('{"kind": "train", "st')
    assert [line["step"] for line in read_records(path)] == [2, 4, 6]
    with MetricsLog(path, last_step=4) as log:
        log.write({"kind": "train", "step": 6, "loss": math.inf})
        assert log.median("step") == 4
    assert [line["loss"] for line in map(json.loads, path.read_text().splitlines())] == [0.2, 0.4, None]


def test_the_optimizer_of_a_run_is_built_from_its_settings(config):
    model = config.model.build_model(**config.data.sizes, seed=config.seed)
    optimizer = build_optimizer("muon", model, lr=0.5, adamw_lr=0.25, weight_decay=0.125)
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.5, 0.125), (0.25, 0.125), (0.25, 0.0)]
