"""The processes that `torchrun` started, or this one alone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from htmuon._device import pick_device
from htmuon.training.parallel import Parallel
from htmuon.training.run_config import RunConfig


def rank_of_process() -> int:
    """The number that `torchrun` gave this process; 0 without it."""
    return int(os.environ.get("RANK", "0"))


def was_restarted() -> bool:
    """Whether `torchrun --max-restarts` started this process again, after one of the run had failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def device_of_process(name: str) -> torch.device:
    """The device of a setting; under `torchrun` each process of a host has a GPU of its own."""
    device = pick_device(name)
    local = os.environ.get("LOCAL_RANK")
    return torch.device("cuda", int(local)) if device == torch.device("cuda") and local is not None else device


@contextmanager
def opened(config: RunConfig, device: torch.device) -> Iterator[Parallel]:
    """The processes of a run, connected while the context is open.

    Args:
        config: the settings of the run; `parallel` says how several processes hold the model.
        device: of this process.

    Raises:
        ValueError: the settings do not go with several processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Parallel()
        return
    if config.batch_size % size:
        raise ValueError(
            f"batch_size must be a multiple of the number of processes, {size}, for each takes an equal share; got "
            f"{config.batch_size}. Change it, or start another number of processes."
        )
    if config.parallel == "fsdp2" and config.ema_decay is not None:
        raise ValueError("ema_decay needs whole parameters; with --parallel fsdp2 leave it out, or use ddp.")
    from htmuon.training.ddp import DataParallel
    from htmuon.training.fsdp2 import FullySharded

    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, rank, size = next(rendezvous("env://"))
    # torchrun keeps one store for all attempts of a run, in which processes that are started again find the addresses
    # of dead ones: they fail, or wait for ever. Several hosts don't count alike, and share no name for an attempt.
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"attempt {attempt}", store)  # type: ignore[attr-defined]
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        yield FullySharded(device) if config.parallel == "fsdp2" else DataParallel(device)
    finally:
        dist.destroy_process_group()
