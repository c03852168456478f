"""The monitor inside a run: what it leaves, through kills too, and that it changes nothing."""

import dataclasses
import json
import math
import time

import pytest
from safetensors.torch import load_file

from htmuon.analysis.record_log import read_records
from htmuon.training.train import train

LOG = "spectra.jsonl"


@pytest.fixture
def monitored(with_optimizer):
    """The run with records every four steps; its checkpoints are at every third."""

    def change(spec: str):
        return dataclasses.replace(with_optimizer(spec), monitor_every=4)

    return change


@pytest.mark.parametrize("spec", ["adamw", "htmuon", "muon:method=newton_schulz"])
def test_it_changes_no_bit_of_a_run(tmp_path, monitored, spec):
    with_monitor = train(monitored(spec), tmp_path / "with")
    without = train(dataclasses.replace(monitored(spec), monitor_every=None), tmp_path / "without")
    assert with_monitor.final_loss == without.final_loss
    for name in ("model.safetensors", "spectra.safetensors"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()
    losses = [
        [line["loss"] for line in read_records(tmp_path / name / "metrics.jsonl")] for name in ("with", "without")
    ]
    assert losses[0] == losses[1]
    assert not (tmp_path / "without" / LOG).exists()


@pytest.mark.parametrize("spec", ["adamw", "htmuon"])
def test_what_a_run_records(tmp_path, monitored, spec):
    train(monitored(spec), tmp_path / "run")
    records = read_records(tmp_path / "run" / LOG)
    counts = {}
    for record in records:
        key = record["step"], record["kind"]
        counts[key] = counts.get(key, 0) + 1
    kinds = [(step, kind) for step in (4, 8, 12) for kind in ("weights", "momentum", "updates")]
    assert counts == dict.fromkeys([(0, "weights"), *kinds], 14)
    # At the last step the run keeps all singular values itself.
    spectra = load_file(tmp_path / "run" / "spectra.safetensors")
    for record in records:
        if record["step"] == 12 and record["kind"] != "momentum":
            sigma = spectra[f"{record['kind']}/{record['name']}"]
            # Six digits; the update is a float32 rounding of a float64 difference.
            assert record["sigma_q100"] == pytest.approx(float(sigma[0]), rel=1e-5)
            stable_rank = float((sigma / sigma[0]).square().sum())
            assert record["stable_rank"] == pytest.approx(stable_rank, rel=1e-4)
    # The momentum before each step and the gradient of it were both there.
    signals = [record["signal_1"] for record in records if record["kind"] == "momentum"]
    assert all(signal is not None and math.isfinite(signal) for signal in signals)


def test_an_interrupted_run_leaves_the_records_of_one_that_was_not(tmp_path, monitored, recorder):
    config = monitored("htmuon")
    train(config, tmp_path / "whole")

    def interrupt(step):
        if step == 8:  # after the checkpoint of step 6, and with the records of step 8 written
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "broken", recorder(interrupt))
    assert read_records(tmp_path / "broken" / LOG)[-1]["step"] == 8
    with (tmp_path / "broken" / LOG).open("a") as file:
        file.write('{"step": 8, "ki')  # what a kill may leave
    train(config, tmp_path / "broken", recorder())
    assert (tmp_path / "broken" / LOG).read_bytes() == (tmp_path / "whole" / LOG).read_bytes()


def test_a_run_that_stopped_before_its_first_checkpoint_records_its_start_once(tmp_path, monitored, recorder):
    config = monitored("htmuon")

    def interrupt(step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", recorder(interrupt))
    train(config, tmp_path / "run")
    starts = [r["name"] for r in read_records(tmp_path / "run" / LOG) if r["step"] == 0]
    assert len(starts) == len(set(starts)) == 14


def test_records_are_no_part_of_the_measured_time(tmp_path, monitored, monkeypatch):
    monkeypatch.setattr("htmuon.analysis.monitor.spectral_records", lambda *arguments: time.sleep(0.2) or [])
    config = dataclasses.replace(monitored("htmuon"), monitor_every=1, steps=4, log_interval=1)
    result = train(config, tmp_path / "run")
    assert result.seconds_per_step < 0.2


@pytest.mark.parametrize("every", [0, 2.5, "auto", True])
def test_a_bad_interval_is_refused(config, every):
    with pytest.raises(ValueError, match="monitor_every must be a whole number of at least 1"):
        dataclasses.replace(config, monitor_every=every)


def test_the_settings_of_an_older_run_have_no_monitor(config):
    stored = json.loads(json.dumps(config.to_dict()))
    del stored["monitor_every"]
    assert type(config).from_dict(stored) == config
