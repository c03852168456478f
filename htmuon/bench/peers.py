"""Muon in other libraries, each by its fastest documented call for the plain update: a polar factor of the momentum."""

import importlib
import importlib.metadata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any
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
        devices: the types of devices that it runs on.
    """

    name: str
    distribution: str
    make: Callable[[list[nn.Parameter], Rates], Optimizer]
    devices: tuple[str, ...] = ("cpu", "cuda")

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


def _pytorch_optimizer_compiled(parameters: list[nn.Parameter], rates: Rates) -> Optimizer:
    optimizer: Any = _pytorch_optimizer(parameters, rates)
    optimizer._compile_foreach()
    return _made(optimizer)


def _timm(parameters: list[nn.Parameter], rates: Rates) -> Optimizer:
    muon = importlib.import_module("timm.optim").Muon
    settings = {"momentum": rates.momentum, "weight_decay": rates.weight_decay}
    return _made(muon(parameters, lr=rates.lr, nesterov=True, adjust_lr_fn="original", **settings))


def _heavyball(parameters: list[nn.Parameter], rates: Rates) -> Optimizer:
    muon = importlib.import_module("heavyball").Muon
    return _made(muon(parameters, lr=rates.lr, betas=(rates.momentum, 0.99), weight_decay=rates.weight_decay))


def _optimuon(parameters: list[nn.Parameter], rates: Rates) -> Optimizer:
    muon = importlib.import_module("optimuon").Muon
    settings = {"momentum": rates.momentum, "weight_decay": rates.weight_decay}
    return _made(muon(parameters, lr=rates.lr, normuon=False, cautious_wd=False, **settings))


def _muonium(parameters: list[nn.Parameter], rates: Rates) -> Optimizer:
    muon = importlib.import_module("muonium").Muon
    settings = {"momentum": rates.momentum, "wd": rates.weight_decay, "use_cautious_wd": False}
    return _made(muon(parameters, lr=rates.lr, orthogonalization_strategy="newton_schulz", **settings))


def _emerging_optimizers(parameters: list[nn.Parameter], rates: Rates) -> Optimizer:
    return _emerging(parameters, rates, use_syrk=False)


def _emerging_optimizers_syrk(parameters: list[nn.Parameter], rates: Rates) -> Optimizer:
    return _emerging(parameters, rates, use_syrk=True)


def _emerging(parameters: list[nn.Parameter], rates: Rates, *, use_syrk: bool) -> Optimizer:
    muon = importlib.import_module("emerging_optimizers.orthogonalized_optimizers").Muon
    settings = {"momentum": rates.momentum, "weight_decay": rates.weight_decay, "scale_mode": "shape_scaling"}
    return _made(muon(parameters, lr=rates.lr, nesterov=True, use_syrk=use_syrk, **settings))


def _gram_newton_schulz(parameters: list[nn.Parameter], rates: Rates) -> Optimizer:
    return _gram(parameters, rates, ns_use_kernels=False)


def _gram_newton_schulz_kernels(parameters: list[nn.Parameter], rates: Rates) -> Optimizer:
    return _gram(parameters, rates, ns_use_kernels=True)


def _gram(parameters: list[nn.Parameter], rates: Rates, *, ns_use_kernels: bool) -> Optimizer:
    muon = importlib.import_module("gram_newton_schulz").Muon
    settings = {"momentum": rates.momentum, "weight_decay": rates.weight_decay, "adjust_lr": _original_scale}
    return _made(muon(parameters, lr=rates.lr, ns_use_kernels=ns_use_kernels, **settings))


def _original_scale(lr: float, shape: tuple[int, ...]) -> float:
    return lr * update_scale(tuple(shape), "original")


def _made(optimizer: object) -> Optimizer:
    assert isinstance(optimizer, Optimizer)
    return optimizer


BASELINE = Peer("torch.optim.Muon", "torch", _torch)
PEERS = (
    Peer("pytorch_optimizer.Muon", "pytorch_optimizer", _pytorch_optimizer),
    Peer("pytorch_optimizer.Muon, compiled", "pytorch_optimizer", _pytorch_optimizer_compiled, ("cuda",)),
    Peer("timm.optim.Muon", "timm", _timm),
    Peer("heavyball.Muon", "heavyball", _heavyball),
    Peer("optimuon.Muon", "optimuon", _optimuon),
    # Where Triton is installed it takes kernels for CUDA (0.2.0).
    Peer("muonium.Muon", "muonium", _muonium, ("cuda",)),
    Peer("emerging_optimizers Muon", "emerging-optimizers", _emerging_optimizers),
    Peer("emerging_optimizers Muon, syrk", "emerging-optimizers", _emerging_optimizers_syrk, ("cuda",)),
    Peer("gram_newton_schulz.Muon", "gram-newton-schulz", _gram_newton_schulz),
    Peer("gram_newton_schulz.Muon, kernels", "gram-newton-schulz", _gram_newton_schulz_kernels, ("cuda",)),
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
