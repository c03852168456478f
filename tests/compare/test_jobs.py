"""A comparison whose runs are trained side by side."""

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import pytest

from htmuon._files import write_json
from htmuon.cli import compare as compare_command
from htmuon.compare import jobs
from htmuon.compare.compare_config import CompareConfig
from htmuon.compare.comparing import compare
from htmuon.compare.grid import GridConfig
from htmuon.compare.jobs import Display, opened_jobs
from htmuon.compare.run_record import RunRecord
from htmuon.compare.tuned_rates import load_tuned
from htmuon.training.run_config import RunConfig

pytestmark = pytest.mark.slow

WARNING = "The machine trained up to 2 runs at a time: times are not compared."


class Events(Display):
    """Keeps the titles of the runs, how each of them ended, and the last plan."""

    def __init__(self) -> None:
        self.runs: list[list[str]] = []
        self.planned = 0

    def on_plan(self, runs: int, steps_per_run: int) -> None:
        self.planned = runs

    def on_run(self, title: str) -> None:
        self.runs.append([title])

    def on_start(self, run: RunConfig, first_step: int) -> None:
        self.runs[-1].append(f"seed {run.seed} at {first_step}")

    def on_evaluation(self, step: int, loss: float) -> None:
        self.runs[-1].append(f"{step}: {loss}")


def measured(folder: Path) -> dict[str, Any]:
    """What the runs of a comparison found, apart from times."""
    runs = {path.parent.name: RunRecord(path.parent) for path in folder.glob("runs/*/*/result.json")}
    return {name: (run.final_loss, run.curve("train"), run.curve("evaluation")) for name, run in runs.items()}


@pytest.fixture
def forked(processes: BaseContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that have the libraries when they start; those of the killed comparison below get them as users' do."""
    monkeypatch.setattr(jobs, "get_context", lambda method: processes)


@pytest.mark.usefixtures("no_figures", "forked")
def test_runs_side_by_side_are_those_in_turn_to_the_bit(tiny: CompareConfig, tmp_path: Path) -> None:
    # A grid that must grow, and of the three searches two at the same time.
    config = dataclasses.replace(
        tiny,
        run=dataclasses.replace(tiny.run, monitor_every=None),
        optimizers=("muon", "htmuon:power=0.25", "htmuon"),
        grid=GridConfig(points=3, factor=1.5, max_extensions=2),
    )
    in_turn, side_by_side = Events(), Events()
    one = dataclasses.replace(config, out=tmp_path / "one")
    two = dataclasses.replace(config, out=tmp_path / "two", jobs=2)
    summaries = compare(one, command="", save_tuned=tmp_path / "one.json", display=in_turn).summaries
    again = compare(two, command="", save_tuned=tmp_path / "two.json", display=side_by_side).summaries

    assert [summary.losses for summary in again] == [summary.losses for summary in summaries]
    assert measured(two.out) == measured(one.out)
    assert (tmp_path / "two.json").read_text() == (tmp_path / "one.json").read_text()
    assert any(len(found.grid) > 3 for found in load_tuned(tmp_path / "two.json")["llama-tiny"].optimizers.values())
    # The same events of each run, and whole; only which of two is finished first differs.
    assert sorted(side_by_side.runs) == sorted(in_turn.runs)
    assert side_by_side.planned == in_turn.planned == len(side_by_side.runs)
    compare(dataclasses.replace(two, jobs=1), command="")  # trains nothing, and knows still how they were trained
    alone, beside = (json.loads((config.out / "summary.json").read_text()) for config in (one, two))
    assert WARNING in beside["warnings"]
    assert not any("A step of" in sentence for sentence in beside["verdict"])
    assert "equal_time" in alone
    assert "equal_time" not in beside
    assert not any("at a time" in warning for warning in alone["warnings"])

    # What is finished counts, whoever trained it, and nothing is trained again.
    results = {path: path.stat().st_mtime_ns for path in one.out.glob("runs/*/*/result.json")}
    finished = Events()
    assert compare(dataclasses.replace(one, jobs=2), command="", display=finished).summaries == summaries
    assert {len(events) for events in finished.runs} == {1}
    assert {path: path.stat().st_mtime_ns for path in results} == results
    assert "at a time" not in (one.out / "summary.json").read_text()


@pytest.mark.usefixtures("forked")
def test_an_error_in_a_process_is_that_of_the_comparison(tiny: CompareConfig) -> None:
    missing = dataclasses.replace(tiny.run, data=dataclasses.replace(tiny.run.data, path="no such text"))
    with pytest.raises(ValueError, match="no such text"):
        compare(dataclasses.replace(tiny, run=missing, jobs=2), command="")


@pytest.mark.usefixtures("forked")
def test_an_error_ends_the_runs_beside_it(tiny: CompareConfig, tmp_path: Path) -> None:
    """Whichever of them was asked for first."""
    endless = dataclasses.replace(tiny.run, steps=10**6, monitor_every=None)
    missing = dataclasses.replace(endless, data=dataclasses.replace(endless.data, path="no such text"))
    with (
        pytest.raises(ValueError, match="no such text"),
        opened_jobs(2, Display(), tmp_path / "data") as two,
    ):
        list(two.each(lambda run: two.train("", run, tmp_path / str(id(run))), [endless, missing]))


@pytest.mark.usefixtures("forked")
def test_a_process_that_is_killed_ends_the_comparison(tiny: CompareConfig, tmp_path: Path) -> None:
    endless = dataclasses.replace(tiny.run, steps=10**6, monitor_every=None)

    def kill_the_second() -> None:
        while len(list(tmp_path.glob("run*/metrics.jsonl"))) < 2:
            time.sleep(0.05)
        max(multiprocessing.active_children(), key=lambda process: process.pid or 0).kill()

    killer = threading.Thread(target=kill_the_second, daemon=True)
    killer.start()
    with (
        pytest.raises(ChildProcessError, match=r"from outside.*with fewer jobs"),
        opened_jobs(2, Display(), tmp_path / "data") as two,
    ):
        list(two.each(lambda name: two.train("", endless, tmp_path / name), ["run1", "run2"]))
    killer.join()
    assert not multiprocessing.active_children()


ENDLESS = """
import sys
from htmuon.cli import main
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


def test_no_process_outlives_a_killed_comparison(text: Path, tmp_path: Path) -> None:
    script, out = tmp_path / "script.py", tmp_path / "out"
    script.write_text(ENDLESS)
    words = f"compare llama-tiny --data {text} --data.vocab-size 300 --data.sequence-length 16 --model.hidden-size 16 "
    words += "--model.intermediate-size 24 --model.num-layers 1 --model.num-heads 2 --batch-size 2 --device cpu "
    words += f"--steps 1000000 --learning-rates tune --jobs 2 --out {out}"
    parent = subprocess.Popen([sys.executable, script, *words.split()], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(begun := list(out.glob("runs/validation/*/metrics.jsonl"))) < 2:
        assert parent.poll() is None, "the comparison ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    time.sleep(0.5)
    sizes = [path.stat().st_size for path in begun]
    time.sleep(1.0)
    assert [path.stat().st_size for path in begun] == sizes


def test_the_flag_goes_with_a_new_comparison_and_a_confirmation(
    tiny: CompareConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def caught(config: CompareConfig, **_: object) -> None:
        raise ValueError(f"{config.jobs} jobs")

    monkeypatch.setattr(compare_command, "compare", caught)
    tiny.claim_folder()
    found = {"complete": True, "baseline": "muon", "winner": "htmuon:power=0.25", "tuning_seeds": [100]}
    write_json(tiny.out / "summary.json", found)
    for words in (["--out", "new"], ["--confirm", str(tiny.out)]):
        with pytest.raises(ValueError, match="3 jobs"):
            compare_command.run(["llama-tiny", "--jobs", "3", *words])
