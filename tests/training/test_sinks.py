import dataclasses
import json
import math
import struct
import sys
import time

import pytest

from htmuon.analysis.record_log import read_records
from htmuon.training import sinks
from htmuon.training.run_config import RunConfig
from htmuon.training.run_folder import RunFolder
from htmuon.training.sinks import Sinks, open_sinks, scalars
from htmuon.training.train import train

WEIGHTS_ALPHA = "weights/alpha_ks"


@pytest.fixture
def offline(monkeypatch, tmp_path_factory):
    """Weights & Biases without a network, real in all else."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for kind in ("CACHE", "CONFIG", "DATA"):  # nothing goes to the home folder
        monkeypatch.setenv(f"WANDB_{kind}_DIR", str(tmp_path_factory.mktemp("wandb")))


def board(folder):
    """What TensorBoard shows: tag -> [(step, value)]."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def wandb_rows(folder):
    """What an offline run of Weights & Biases stored, tag -> [(step, value)], over all its files in order of time."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = {}
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        records = []
        # Its service may still write when the run has ended; the exit code comes last.
        deadline = time.monotonic() + 20
        while not any(record.WhichOneof("record_type") == "exit" for record in records):
            assert time.monotonic() < deadline, f"{path} has no end"
            time.sleep(0.05)
            records = [Record.FromString(message) for message in leveldb_records(path.read_bytes())]
        for record in records:
            if record.WhichOneof("record_type") != "history":
                continue
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for tag, value in items.items():
                if not tag.startswith("_"):
                    found.setdefault(tag, []).append((items["_step"], value))
    return found


def leveldb_records(data):
    """The records of a log file of LevelDB's format behind a header of 7 bytes: blocks of 32 KiB, cut records."""
    position, whole = 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        if kind == 0:
            return
        whole += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield whole
            whole = b""


def with_sinks(config, **changes):
    return dataclasses.replace(config, monitor_every=4, tensorboard=True, wandb="tests", **changes)


def expected(folder):
    """The train and evaluation numbers of a run's own log, as sinks show them."""
    found = {}
    for record in read_records(folder / "metrics.jsonl"):
        for tag, value in scalars(record).items():
            found.setdefault(tag, []).append((record["step"], value))
    return found


def assert_shows(shown, folder):
    for tag, points in expected(folder).items():
        assert [step for step, _ in shown[tag]] == [step for step, _ in points], tag
        # TensorBoard keeps float32.
        assert [value for _, value in shown[tag]] == pytest.approx([value for _, value in points], rel=1e-6), tag
    records = [r for r in read_records(folder / "spectra.jsonl") if r["kind"] == "weights"]
    steps = sorted({record["step"] for record in records})
    assert steps == [0, 4, 8, 12]
    assert [step for step, _ in shown["weights/stable_rank"]] == steps
    ranks = [r["stable_rank"] for r in records if r["step"] == 12]
    assert shown["weights/stable_rank"][-1][1] == pytest.approx(sum(ranks) / len(ranks))


def test_both_get_what_the_log_gets_and_change_nothing(tmp_path, config, recorder, offline):
    observer = recorder()
    train(dataclasses.replace(config, monitor_every=4), tmp_path / "plain")
    train(with_sinks(config), tmp_path / "run", observer)
    assert not observer.messages
    for file in ("model.safetensors", "spectra.safetensors", "spectra.jsonl"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()
    assert_shows(board(tmp_path / "run"), tmp_path / "run")
    assert_shows(wandb_rows(tmp_path / "run"), tmp_path / "run")
    tags = {"train/loss", "train/lr", "train/power", "train/steps_per_second", "test/loss", "updates/stable_rank"}
    assert tags <= board(tmp_path / "run").keys() & wandb_rows(tmp_path / "run").keys()


def test_a_resumed_run_goes_on_without_duplicates(tmp_path, config, recorder, offline):
    config = with_sinks(config)

    def interrupt(step):
        if step == 8:  # after the checkpoint of step 6, with step 8 shown
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", recorder(interrupt))
    before = json.loads((tmp_path / "run" / "wandb.json").read_text())
    assert before["sent"]["train"] == 8
    observer = recorder()
    train(config, tmp_path / "run", observer)
    assert (observer.first_steps, observer.messages) == ([6], [])
    assert_shows(board(tmp_path / "run"), tmp_path / "run")
    shown = wandb_rows(tmp_path / "run")
    for name in ("seconds_per_step", "optimizer_seconds", "data_seconds", "steps_per_second"):
        tag = f"train/{name}"
        # Of the step that was repeated the first time is kept there and the second one in the log.
        assert [step for step, _ in shown.pop(tag)] == [2, 4, 6, 8, 10, 12]
        shown[tag] = expected(tmp_path / "run")[tag]
    assert_shows(shown, tmp_path / "run")
    after = json.loads((tmp_path / "run" / "wandb.json").read_text())
    assert (after["id"], after["sent"]["train"]) == (before["id"], 12)


def test_a_run_killed_before_its_first_checkpoint_begins_again(tmp_path, config, recorder, offline):
    config = with_sinks(config, checkpoint_interval=100)

    def interrupt(step):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", recorder(interrupt))
    train(config, tmp_path / "run")
    assert_shows(board(tmp_path / "run"), tmp_path / "run")
    assert [step for step, _ in wandb_rows(tmp_path / "run")["train/loss"]] == [2, 4, 6, 8, 10, 12]


def test_a_run_may_go_on_with_other_sinks(tmp_path, config):
    folder = RunFolder(tmp_path / "run")
    train(config, folder.path)
    folder.check(dataclasses.replace(config, tensorboard=True, wandb="other"))
    with pytest.raises(ValueError, match="seed is 0 there and 1 here"):
        folder.check(dataclasses.replace(config, tensorboard=True, seed=1))


class Failing:
    """Keeps the steps that it gets, until it fails."""

    def __init__(self, at_step=math.inf, at_close=False):
        self.steps, self.at_step, self.at_close, self.closed = [], at_step, at_close, []

    def write(self, step, values):
        if step >= self.at_step:
            raise OSError("no space left")
        self.steps.append(step)

    def close(self, *, failed):
        self.closed.append(failed)
        if self.at_close:
            raise RuntimeError("no network")


def test_a_sink_that_fails_is_named_once_and_left_out(tmp_path, config, recorder, monkeypatch):
    bad, good = Failing(at_step=4), Failing(at_close=True)

    def missing():
        raise ValueError("no account")

    def opened(config, folder, first_step, on_message):
        return Sinks({"Bad": lambda: bad, "Good": lambda: good, "Missing": missing}, on_message)

    monkeypatch.setattr("htmuon.training.loop.open_sinks", opened)
    observer = recorder()
    result = train(config, tmp_path / "run", observer)
    assert not result.diverged
    assert [message.partition("The run")[0] for message in observer.messages] == [
        "Missing failed (ValueError: no account). ",
        "Bad failed (OSError: no space left). ",
        "Good failed (RuntimeError: no network). ",
    ]
    assert (bad.steps, good.steps) == ([2], [2, 4, 5, 6, 8, 10, 10, 12, 12])
    assert (bad.closed, good.closed) == ([True], [False, True])


@pytest.mark.parametrize(("setting", "library"), [({"tensorboard": True}, "tensorboard"), ({"wandb": "x"}, "wandb")])
def test_a_missing_library_is_named_before_anything_is_done(tmp_path, config, monkeypatch, setting, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf'needs {library}.*pip install "htmuon\[{library}\]"'):
        train(dataclasses.replace(config, **setting), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_nothing_is_imported_for_a_run_without_sinks(tmp_path, config, monkeypatch):
    for library in ("tensorboard", "wandb", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, library, None)
    assert train(config, tmp_path / "run").steps == 12
    assert len(open_sinks(config, tmp_path, 0, pytest.fail)) == 0


def test_another_project_is_another_run(tmp_path, config, offline):
    ids = []
    for project in ("one", "one", "two"):
        given = dataclasses.replace(config, wandb=project)
        with open_sinks(given, tmp_path, 0, pytest.fail) as opened:
            opened.write({"kind": "train", "step": 2, "loss": 1.5})
        stored = json.loads((tmp_path / sinks.WANDB).read_text())
        assert (stored["project"], stored["sent"]) == (project, {"train": 2})
        ids.append(stored["id"])
    assert ids[0] == ids[1] != ids[2]


def test_numbers_that_are_not_finite_are_left_out():
    record = {"kind": "train", "step": 1, "loss": math.nan, "lr": 0.5, "seconds_per_step": 0.0}
    assert scalars(record) == {"train/lr": 0.5, "train/seconds_per_step": 0.0}


@pytest.mark.parametrize(
    ("setting", "words"), [({"tensorboard": "yes"}, "tensorboard must be"), ({"wandb": 3}, "wandb")]
)
def test_bad_settings(config, setting, words):
    with pytest.raises(TypeError, match=words):
        RunConfig.from_dict({**config.to_dict(), **setting})
