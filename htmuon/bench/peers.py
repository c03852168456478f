"""Muon in other libraries, each with its own defaults but the learning rate, the momentum and the decay."""

import importlib
import importlib.metadata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from warnings import catch_warnings, simplefilter

import torch
from torch import nn
from torch.optim import Optimizer

from htmuon.optim.rules import update_scale


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What the bench sets in every peer."""

    lr: float
    momentum: float
    weight_decay: float


@dataclass(frozen=True)
class Peer:
    """A Muon of another library.

    Attributes:
        name: where it is imported from.
        distribution: the package that installs it.
        make: the optimizer over matrices; its update is a polar factor times `max(1, rows / columns)^0.5`.
    """

    name: str
    distribution: str
    make: Callable[[list[nn.Parameter], Rates], Optimizer]

    @property
    def version(self) -> str | None:
        """The installed version, or None."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None


def _torch(parameters: list[nn.Parameter], rates: Rates) -> Optimizer:
    return torch.optim.Muon(parameters, lr=rates.lr, momentum=rates.momentum, weight_decay=rates.weight_decay)


def _pytorch_optimizer(parameters: list[nn.Parameter], rates: Rates) -> Optimizer:
    muon = importlib.import_module("pytorch_optimizer").Muon
    groups = [{"params": parameters, "use_muon": True}]
    return _made(muon(groups, lr=rates.lr, momentum=rates.momentum, weight_decay=rates.weight_decay))


def _heavyball(parameters: list[nn.Parameter], rates: Rates) -> Optimizer:
    muon = importlib.import_module("heavyball").Muon
    return _made(muon(parameters, lr=rates.lr, betas=(rates.momentum, 0.99), weight_decay=rates.weight_decay))


def _emerging_optimizers(parameters: list[nn.Parameter], rates: Rates) -> Optimizer:
    muon = importlib.import_module("emerging_optimizers.orthogonalized_optimizers").Muon
    settings = {"momentum": rates.momentum, "weight_decay": rates.weight_decay}
    return _made(muon(parameters, lr=rates.lr, nesterov=True, scale_mode="shape_scaling", **settings))


def _gram_newton_schulz(parameters: list[nn.Parameter], rates: Rates) -> Optimizer:
    muon = importlib.import_module("gram_newton_schulz").Muon
    settings = {"momentum": rates.momentum, "weight_decay": rates.weight_decay}
    # Its kernels are for GPUs, and asking for them on a CPU fails.
    on_gpu = parameters[0].device.type == "cuda"
    return _made(muon(parameters, lr=rates.lr, adjust_lr=_original_scale, ns_use_kernels=on_gpu, **settings))


def _original_scale(lr: float, shape: tuple[int, ...]) -> float:
    return lr * update_scale(tuple(shape), "original")


def _made(optimizer: object) -> Optimizer:
    assert isinstance(optimizer, Optimizer)
    return optimizer


BASELINE = Peer("torch.optim.Muon", "torch", _torch)
PEERS = (
    Peer("pytorch_optimizer.Muon", "pytorch_optimizer", _pytorch_optimizer),
    Peer("heavyball.Muon", "heavyball", _heavyball),
    Peer("emerging_optimizers Muon", "emerging-optimizers", _emerging_optimizers),
    Peer("gram_newton_schulz.Muon", "gram-newton-schulz", _gram_newton_schulz),
)


@contextmanager
def guest() -> Iterator[None]:
    """Let foreign code run without its prints, its warnings, and its changes of the precision of products."""
    precision = torch.get_float32_matmul_precision()
    try:
        with redirect_stdout(StringIO()), catch_warnings():
            simplefilter("ignore")
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
