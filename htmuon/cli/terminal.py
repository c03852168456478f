"""Progress: live bars and a table in a terminal, plain lines where the output is a file or a pipe."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from htmuon.compare.columns import columns_of
from htmuon.compare.jobs import Display
from htmuon.compare.labels import label
from htmuon.compare.summary import OptimizerSummary
from htmuon.reporting.tables import plain_table, rich_table
from htmuon.training.run_config import RunConfig
from htmuon.training.run_result import RunResult

# Between the lines of a run without a terminal.
_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def terminal_display(console: Console | None = None) -> Iterator[Display]:
    """A display that suits the output: live in a terminal, plain lines without control characters elsewhere.

    Args:
        console: where to write; standard output if it is None.
    """
    console = console or Console(highlight=False)
    if not console.is_terminal:
        yield PlainDisplay()
        return
    display = LiveDisplay(console)
    with display.live:
        yield display


def result_table(summaries: Sequence[OptimizerSummary]) -> str:
    """The results as aligned text, with all columns."""
    return plain_table(*_cells(summaries, brief=False))


def _cells(summaries: Sequence[OptimizerSummary], *, brief: bool) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: of all columns, or of those that matter most."""
    shown = [column for column in columns_of(summaries) if column.brief or not brief] if summaries else []
    heads = ["optimizer", *(column.header for column in shown)]
    return heads, [[label(summary.spec), *(column.text(summary) for column in shown)] for summary in summaries]


class PlainDisplay(Display):
    """One line for each event worth reading.

    Args:
        write: takes a line.
        clock: seconds; decides when a progress line is due.
    """

    def __init__(self, write: Callable[[str], None] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write or _print_line
        self._clock = clock
        self._last_line = clock()
        self._runs = 0
        self._run = 0
        self._steps = 0
        self._split = ""

    def on_plan(self, runs: int, steps_per_run: int) -> None:
        """Remember the number of runs."""
        self._runs = runs

    def on_run(self, title: str) -> None:
        """Say which run starts."""
        self._run += 1
        self._write(f"[{self._run}/{self._runs}] {title}")

    def on_start(self, run: RunConfig, first_step: int) -> None:
        """Say where an interrupted run resumes."""
        self._steps, self._split = run.steps, run.split
        self._last_line = self._clock()
        if first_step:
            self._write(f"  resumes at step {first_step} of {run.steps}")

    def on_step(self, step: int, loss: float, seconds: float) -> None:
        """Say how far the run is, if nothing was said for a while."""
        if self._clock() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = self._clock()
            left = _duration((self._steps - step) * seconds)
            self._write(f"  step {step}/{self._steps}, training loss {loss:.4f}, {left} left")

    def on_evaluation(self, step: int, loss: float) -> None:
        """Say the loss on the held-out data."""
        self._last_line = self._clock()
        self._write(f"  step {step}/{self._steps}, {self._split} loss {loss:.4f}")

    def on_message(self, text: str) -> None:
        """Pass it on."""
        self._write(text)

    def on_finish(self, result: RunResult) -> None:
        """Say the pace."""
        share = f"optimizer {100 * result.optimizer_share:.0f} %"
        self._write(f"  done: {1e3 * result.seconds_per_step:.3g} ms per step, {share}")


class LiveDisplay(Display):
    """Two bars and the table of results, redrawn in place.

    Args:
        console: a terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._all = _progress()
        self._current = _progress()
        self._all_task: TaskID = self._all.add_task("all runs", total=None, note="")
        self._run_task: TaskID | None = None
        self._title = "training"
        self._table: Table | None = None
        self._runs_started = 0
        self._runs = 0
        self._steps = 0
        self._losses = ["", ""]
        self._split = ""
        self.live = Live(self._drawing(), console=console, refresh_per_second=4)

    def on_plan(self, runs: int, steps_per_run: int) -> None:
        """Set the length of the upper bar: steps of all runs."""
        self._runs, self._steps = runs, steps_per_run
        self._all.update(self._all_task, total=runs * steps_per_run)

    def on_run(self, title: str) -> None:
        """Start a lower bar."""
        self._title = title
        self._runs_started += 1
        done = (self._runs_started - 1) * self._steps
        self._all.update(self._all_task, completed=done, note=f"run {self._runs_started} of {self._runs}")

    def on_table(self, summaries: Sequence[OptimizerSummary]) -> None:
        """Redraw the table."""
        self._table = rich_table(*_cells(summaries, brief=True), title="Results so far")
        self.live.update(self._drawing())

    def on_start(self, run: RunConfig, first_step: int) -> None:
        """Put the lower bar to where the run starts."""
        if self._run_task is not None:
            self._current.remove_task(self._run_task)
        self._losses, self._split = ["", ""], run.split
        self._run_task = self._current.add_task(self._title, total=run.steps, completed=first_step, note="")

    def on_step(self, step: int, loss: float, seconds: float) -> None:
        """Move both bars."""
        assert self._run_task is not None, "on_step before on_start"
        self._losses[0] = f"loss {loss:.3f}"
        self._current.update(self._run_task, completed=step, note=", ".join(filter(None, self._losses)))
        self._all.update(self._all_task, completed=max(self._runs_started - 1, 0) * self._steps + step)

    def on_evaluation(self, step: int, loss: float) -> None:
        """Show the loss on the held-out data."""
        assert self._run_task is not None, "on_evaluation before on_start"
        self._losses[1] = f"{self._split} {loss:.3f}"
        self._current.update(self._run_task, completed=step, note=", ".join(filter(None, self._losses)))

    def on_message(self, text: str) -> None:
        """Print it above the bars."""
        self._console.print(text, style="yellow", markup=False)

    def on_finish(self, result: RunResult) -> None:
        """Fill the upper bar by one run."""
        self._all.update(self._all_task, completed=self._runs_started * self._steps)

    def _drawing(self) -> Group:
        bars = [self._all, self._current] if self._runs else [self._current]
        return Group(*bars, *([self._table] if self._table is not None else []))


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _print_line(line: str) -> None:
    # Flushed, so that a log that is being followed shows it at once.
    print(line, flush=True)
