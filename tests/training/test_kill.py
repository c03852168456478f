"""A run that is killed with SIGKILL, at any moment and again and again, ends as one that was not."""

import dataclasses
import json
import random
import signal
import time

import pytest
from text_streams import write_c4, write_tokenizer

from htmuon.data.text.text_config import TextStreamConfig
from htmuon.training.train import train

pytestmark = pytest.mark.slow

MEASURED = {"seconds_per_step", "optimizer_seconds", "data_seconds"}
FILES = ("model.safetensors", "spectra.safetensors", "spectra.jsonl", "config.json")


def count_lines(folder):
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def outcome(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = [{key: value for key, value in line.items() if key not in MEASURED} for line in lines]
    files = {name: (folder / name).read_bytes() for name in FILES}
    return (
        kept,
        files,
        json.loads((folder / "result.json").read_text())["final_loss"],
        sorted(path.name for path in folder.iterdir()),
    )


@pytest.mark.parametrize("spec", ["htmuon", "adamw"])
def test_killed_runs_end_with_the_same_bits(tmp_path, config, processes, spec):
    optimizer = dataclasses.replace(config.optimizer, name=spec)
    config = dataclasses.replace(
        config, optimizer=optimizer, steps=40, checkpoint_interval=4, eval_interval=10, monitor_every=10
    )
    check_kills(tmp_path, config, processes)


def test_killed_runs_on_streamed_text_end_with_the_same_bits(tmp_path, config, processes):
    data = TextStreamConfig(
        path=str(write_c4(tmp_path / "c4")),
        dataset="allenai/c4",
        tokenizer=str(write_tokenizer(tmp_path / "tokenizer.json")),
        end_token="</s>",
        vocab_size=20,
        sequence_length=16,
    )
    config = dataclasses.replace(
        config, data=data, steps=100, checkpoint_interval=4, eval_interval=25, log_interval=5, monitor_every=25
    )
    check_kills(tmp_path, config, processes)


def check_kills(tmp_path, config, processes):
    def start(folder, cache):
        process = processes.Process(target=train, args=(config, folder), kwargs={"cache": cache})
        process.start()
        return process

    start(tmp_path / "whole", tmp_path / "cache").join()
    lines = len(outcome(tmp_path / "whole")[0])

    broken, killed = tmp_path / "broken", 0
    draw = random.Random(0)
    # Kill while tokens are made and the model is built, in the middle, and while the final files are written.
    for target in (0, 0, 1, lines // 4, lines // 3, lines // 2, lines - 4, lines, lines):
        # This one makes the tokens too, in a cache of its own.
        process = start(broken, tmp_path / "other_cache")
        while process.exitcode is None and count_lines(broken) < target:
            time.sleep(0.001)
        time.sleep(draw.uniform(0.0, 0.03))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    assert killed >= 6
    final = start(broken, tmp_path / "other_cache")
    final.join()
    assert final.exitcode == 0
    assert outcome(broken) == outcome(tmp_path / "whole")
