import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from synthetic_runs import write_run

from htmuon.cli.terminal import PlainDisplay, result_table, terminal_display
from htmuon.compare.run_record import RunRecord
from htmuon.compare.summary import summarize
from htmuon.training.run_config import RunConfig


def records(folder: Path) -> dict[str, list[RunRecord]]:
    for spec, loss in (("adamw", 3.5), ("htmuon", 3.4)):
        write_run(folder / spec, optimizer=spec, seed=0, final_loss=loss)
    return {spec: [RunRecord(folder / spec)] for spec in ("adamw", "htmuon")}


def test_plain_lines(tiny_run: RunConfig, tmp_path: Path) -> None:
    now = 0.0
    lines: list[str] = []
    display = PlainDisplay(lines.append, clock=lambda: now)
    display.on_plan(2, 6)
    display.on_run("test: AdamW, lr 0.004, seed 0")
    display.on_start(tiny_run, 2)
    display.on_step(3, 4.0, 0.5)  # too early for a line
    now = 11.0
    display.on_step(4, 3.9, 40.0)
    display.on_evaluation(4, 3.8)
    result = records(tmp_path)["adamw"][0].result
    assert result is not None
    display.on_finish(result)
    assert lines == [
        "[1/2] test: AdamW, lr 0.004, seed 0",
        "  resumes at step 2 of 6",
        "  step 4/6, training loss 3.9000, 1 min 20 s left",
        "  step 4/6, test loss 3.8000",
        "  done: 100 ms per step, optimizer 20 %",
    ]


def test_plain_table_is_aligned_and_complete(tmp_path: Path) -> None:
    lines = result_table(summarize(records(tmp_path))).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "alpha (KS)" in lines[0]
    assert "alpha (Hill)" in lines[0]
    assert "3.4000" in lines[2]
    assert "-0.1000" in lines[2]


def test_output_that_is_no_terminal_has_no_control_characters(
    tiny_run: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    with terminal_display(Console(file=io.StringIO())) as display:
        display.on_run("test: Muon, lr 0.02, seed 0")
        display.on_start(tiny_run, 0)
        display.on_evaluation(6, 3.0)
    text = capsys.readouterr().out
    assert "test loss 3.0000" in text
    assert not re.search(r"[^\x20-\x7e\n]", text)


def test_live_display_shows_bars_and_the_table(tiny_run: RunConfig, tmp_path: Path) -> None:
    screen = io.StringIO()
    with terminal_display(Console(file=screen, force_terminal=True, width=120)) as display:
        display.on_plan(4, 6)
        display.on_run("test: Muon, lr 0.02, seed 0")
        display.on_start(tiny_run, 0)
        display.on_step(3, 4.25, 0.1)
        display.on_evaluation(4, 4.125)
        display.on_message("look here")
        display.on_table(summarize(records(tmp_path)))
    text = screen.getvalue()
    for part in ("all runs", "run 1 of 4", "test: Muon", "loss 4.250", "test 4.125", "look here", "3.4000"):
        assert part in text
