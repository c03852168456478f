"""Processes that form a process group of gloo and run functions for tests."""

import contextlib
import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

# What a job may take; a collective that nobody answers would wait for ever.
SECONDS = 300


class Ranks:
    """A world of processes that wait for jobs; started once for many tests, as starting takes seconds.

    Args:
        count: of processes.
    """

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, count, port), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, job: Callable[..., Any], *arguments: Any, **settings: Any) -> list[Any]:
        """What `job(*arguments, **settings)` returns on every rank; an exception on any of them is one here."""
        for pipe in self._pipes:
            pipe.send((job, arguments, settings))
        results = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(SECONDS):
                self.close()
                raise TimeoutError(f"rank {rank} gave no answer in {SECONDS} s")
            results.append(pipe.recv())
        failed = [result for result in results if isinstance(result, Failed)]
        if failed:
            raise AssertionError(failed[0])
        return results

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


class Failed(str):
    """The text of an exception on a rank."""


def _serve(pipe: Connection, rank: int, count: int, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(count)}
    dist.init_process_group("gloo")
    with contextlib.suppress(EOFError):
        while True:
            job, arguments, settings = pipe.recv()
            try:
                pipe.send(job(*arguments, **settings))
            except Exception:
                pipe.send(Failed(traceback.format_exc()))
