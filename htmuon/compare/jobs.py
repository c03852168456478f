"""How a comparison trains its runs: one after the other in this process, or several side by side in others."""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from operator import methodcaller
from pathlib import Path
from queue import LifoQueue
from typing import NoReturn, Protocol, TypeVar

import torch

from htmuon.compare.summary import OptimizerSummary
from htmuon.training.loop import TrainingStoppedError
from htmuon.training.run_config import RunConfig
from htmuon.training.run_result import Observer, RunResult
from htmuon.training.train import train

S = TypeVar("S")
T = TypeVar("T")


class Display(Observer):
    """Receives the events of a comparison and of its runs, and ignores them; a base for those that show them."""

    def on_plan(self, runs: int, steps_per_run: int) -> None:
        """So many runs are planned; called again when the search for a learning rate needs more."""

    def on_run(self, title: str) -> None:
        """A run starts, or is taken from the folder if it is finished already."""

    def on_table(self, summaries: Sequence[OptimizerSummary]) -> None:
        """The results so far."""


class Jobs(Protocol):
    """Trains runs, and notifies a display of them.

    Attributes:
        lock: to be held by whoever else notifies the display while runs are trained.
    """

    lock: threading.Lock

    def each(self, function: Callable[[S], T], items: Iterable[S], /) -> Iterator[T]:
        """What `map` gives, in the same order; `function` may train, and use `each` again."""

    def train(self, title: str, config: RunConfig, folder: Path) -> None:
        """Train a run to its end, which may be that it diverges; `trainer.train` says what can go wrong."""


@contextmanager
def opened_jobs(jobs: int, display: Display, cache: Path) -> Iterator[Jobs]:
    """What trains up to `jobs` runs at a time while the context is open.

    Args:
        jobs: how many.
        display: notified of the runs; of those side by side when they are finished, one after the other.
        cache: the folder where tokenized text is kept for all of them.
    """
    if jobs == 1:
        yield InTurn(display, cache)
        return
    display.on_message(f"Runs are trained {jobs} at a time; what there is to say of one is said when it is finished.")
    # A fork would inherit the threads' locks, and could not use CUDA.
    context = get_context("spawn")
    leash, held = context.Pipe(duplex=False)
    threads = max(1, torch.get_num_threads() // jobs)
    # A pool for each process: one of several learns too late that a process died which it started after the first.
    workers = [ProcessPoolExecutor(1, context, _begin, (leash, threads, number)) for number in range(jobs)]
    side_by_side = SideBySide(workers, held, display, cache)
    try:
        yield side_by_side
    except BaseException as error:
        side_by_side.fail(error)
    finally:
        for worker in workers:
            worker.shutdown()
        held.close()
        leash.close()


class InTurn:
    """One run after the other, in this process.

    Args:
        display: notified of each run while it is trained.
        cache: the folder for tokenized text.
    """

    each = staticmethod(map)

    def __init__(self, display: Display, cache: Path) -> None:
        self.display, self.cache = display, cache
        self.lock = threading.Lock()

    def train(self, title: str, config: RunConfig, folder: Path) -> None:
        """Train a run here."""
        self.display.on_run(title)
        _train(config, folder, self.cache, self.display)


class SideBySide:
    """Several runs at a time, each in a process of its own.

    Args:
        workers: pools of one process each.
        held: closing it ends these processes at once.
        display: notified of each run when it is finished.
        cache: the folder for tokenized text.
    """

    def __init__(self, workers: Sequence[ProcessPoolExecutor], held: Connection, display: Display, cache: Path) -> None:
        self.jobs, self.held, self.display, self.cache = len(workers), held, display, cache
        self.lock = threading.Lock()
        self._failure: BaseException | None = None
        # Last in, first out: a process starts when all those before it are busy.
        self._free: LifoQueue[ProcessPoolExecutor] = LifoQueue()
        for worker in reversed(workers):
            self._free.put(worker)

    def each(self, function: Callable[[S], T], items: Iterable[S], /) -> Iterator[T]:
        """Apply `function` to the items in threads, which wait for the processes; results are in order."""
        # Threads of their own for each call: those of one call may wait for another call.
        with ThreadPoolExecutor(self.jobs) as threads:
            try:
                yield from threads.map(function, items)
            except BaseException as error:
                self.fail(error)  # or leaving the context would wait for the runs that have started

    def train(self, title: str, config: RunConfig, folder: Path) -> None:
        """Train a run in the next process that is free."""
        worker = self._free.get()
        try:
            events = worker.submit(_recorded, config, folder, self.cache, self.jobs).result()
        except BrokenProcessPool as error:
            self.fail(
                ChildProcessError(
                    f"a process that trained a run ended by itself or from outside ({error}). Where memory was short, "
                    "give the command again with fewer jobs; a script of your own must call compare under "
                    "`if __name__ == '__main__':`, because these processes import it."
                )
            )
        except Exception as error:
            self.fail(error)
        finally:
            self._free.put(worker)
        with self.lock:
            self.display.on_run(title)
            for event in events:
                event(self.display)

    def fail(self, error: BaseException) -> NoReturn:
        """End all processes, and raise the first error that this was given: the others are its consequences."""
        with self.lock:
            if self._failure is None:
                self._failure = error
                self.held.close()
        raise self._failure


class _Recorder(Observer):
    """Keeps the events of a run, as calls that pass them to another observer."""

    def __init__(self) -> None:
        self.events: list[methodcaller] = []

    def on_start(self, run: RunConfig, first_step: int) -> None:
        self.events.append(methodcaller("on_start", run, first_step))

    def on_step(self, step: int, loss: float, seconds: float) -> None:
        self.events.append(methodcaller("on_step", step, loss, seconds))

    def on_evaluation(self, step: int, loss: float) -> None:
        self.events.append(methodcaller("on_evaluation", step, loss))

    def on_message(self, text: str) -> None:
        self.events.append(methodcaller("on_message", text))

    def on_finish(self, result: RunResult) -> None:
        self.events.append(methodcaller("on_finish", result))


def _train(config: RunConfig, folder: Path, cache: Path, observer: Observer, side_by_side: int = 1) -> None:
    try:
        train(config, folder, observer, cache=cache, side_by_side=side_by_side)
    except TrainingStoppedError as error:
        observer.on_message(f"This run counts as diverged: {error}")


def _recorded(config: RunConfig, folder: Path, cache: Path, side_by_side: int) -> list[methodcaller]:
    """Train a run and return its events."""
    recorder = _Recorder()
    _train(config, folder, cache, recorder, side_by_side)
    return recorder.events


def _begin(leash: Connection, threads: int, number: int) -> None:
    """Prepare a process.

    Args:
        leash: at its end when the process must end.
        threads: of torch.
        number: of the process, from 0; it takes this GPU, in turn where there are fewer.
    """
    threading.Thread(target=_end_with, args=(leash,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent says what follows
    torch.set_num_threads(threads)
    if torch.cuda.device_count() > 1:
        torch.cuda.set_device(number % torch.cuda.device_count())


def _end_with(leash: Connection) -> None:
    """End this process, whatever it does, when the other end of `leash` is closed: by its holder, or with it."""
    try:
        leash.recv()
    finally:
        os._exit(1)
