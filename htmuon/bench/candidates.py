"""What is benched: optimizers of this library by spec, and those of other libraries."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from htmuon._device import pick_device
from htmuon._typing import Group
from htmuon.baselines import build_optimizer, optimizer_info
from htmuon.bench.bench_config import BenchConfig
from htmuon.bench.peers import BASELINE, PEERS, Peer, Rates
from htmuon.bench.shapes import Shape
from htmuon.linalg import METHODS, MethodChoice, method_of, select_method
from htmuon.linalg.select import OF_STEPS
from htmuon.optim.base import SpectralOptimizer
from htmuon.optim.rules import update_scale
from htmuon.optim.slots import Identity, Unadapted
from htmuon.spectral import Power, SpectralMap, map_of, spectral_map

# Muon as torch has it, among the methods of this library: what the step loop itself costs.
PUBLISHED_MUON = "muon:method=newton_schulz"


class Candidate(Protocol):
    """Something that steps on matrices."""

    @property
    def name(self) -> str:
        """In the table."""

    def optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        """As it would train them."""

    def function(self) -> SpectralMap | None:
        """The function of the singular values that it means to compute; None where it does more than that."""

    def mapped(self, matrices: list[Tensor]) -> list[Tensor]:
        """What it makes of matrices, without momentum, decay and scale."""

    def picks(self, shapes: Sequence[Shape], device: torch.device) -> str:
        """The method that it chose by itself, or ""."""


@dataclass(frozen=True)
class SpecCandidate:
    """An optimizer of this library, or AdamW.

    Args:
        name: the spec, such as "htmuon:method=eigh".
    """

    name: str

    def optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        """With the library's defaults."""
        return self._over(parameters, lr=0.02, weight_decay=0.1)

    def _over(self, parameters: list[nn.Parameter], *, lr: float, weight_decay: float) -> Optimizer:
        """All of them as matrices: as a model, the last of them would be its output head."""
        layers = as_layers(parameters)
        return build_optimizer(self.name, layers, lr=lr, adamw_lr=lr, weight_decay=weight_decay, matrices="all")

    def function(self) -> SpectralMap | None:
        """The map of its group, where nothing stands before and after it."""
        optimizer = self.optimizer([nn.Parameter(torch.eye(2))])
        if not isinstance(optimizer, SpectralOptimizer):
            return None
        group = optimizer.param_groups[0]
        bare = isinstance(optimizer.precondition(group), Identity)
        bare = bare and isinstance(optimizer.adaptation(group), Unadapted)
        return map_of(group["spectral_map"], group["power"]) if bare else None

    def mapped(self, matrices: list[Tensor]) -> list[Tensor]:
        """Taken from a step without momentum; from the map alone where a method carries a state, which is then new."""
        parameters = [nn.Parameter(torch.zeros_like(matrix)) for matrix in matrices]
        optimizer = self._over(parameters, lr=1.0, weight_decay=0.0)
        group = optimizer.param_groups[0]
        if self.keeps_state():
            function = map_of(group["spectral_map"], group["power"])
            return [spectral_map(matrix, function, method=group["method"]) for matrix in matrices]
        group.update(momentum=0.0, normalization="none", adjust_lr_fn="original")
        return first_updates(optimizer, parameters, matrices)

    def keeps_state(self) -> bool:
        """Whether its method remembers something from step to step."""
        method = self._method()
        return method not in ("auto", "") and bool(method_of(method).state_shapes((2, 2)))

    def picks(self, shapes: Sequence[Shape], device: torch.device) -> str:
        """What "auto" stands for on these shapes."""
        if self._method() != "auto":
            return ""
        group: Group = self.optimizer([nn.Parameter(torch.eye(2))]).param_groups[0]
        one, function = torch.empty(1, device=device), map_of(group["spectral_map"], group["power"])
        stacks = [one.expand(shape.count, shape.rows, shape.columns) for shape in shapes]
        methods = [select_method(stack, function, tolerance=OF_STEPS) for stack in stacks]
        return ", ".join(dict.fromkeys(str(method) for method in methods))

    def _method(self) -> MethodChoice:
        group: Group = self.optimizer([nn.Parameter(torch.eye(2))]).param_groups[0]
        method: MethodChoice = group.get("method", "")
        return method


@dataclass(frozen=True)
class PeerCandidate:
    """Muon of another library.

    Args:
        peer: which.
    """

    peer: Peer

    @property
    def name(self) -> str:
        """Where it is imported from."""
        return self.peer.name

    def optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        """With the learning rate and the decay of the others."""
        return self.peer.make(parameters, Rates(lr=0.02, momentum=0.95, weight_decay=0.1))

    def function(self) -> SpectralMap | None:
        """The polar factor."""
        return Power(0.0)

    def mapped(self, matrices: list[Tensor]) -> list[Tensor]:
        """Taken from a step without momentum."""
        parameters = [nn.Parameter(torch.zeros_like(matrix)) for matrix in matrices]
        optimizer = self.peer.make(parameters, Rates(lr=1.0, momentum=0.0, weight_decay=0.0))
        return first_updates(optimizer, parameters, matrices)

    def picks(self, shapes: Sequence[Shape], device: torch.device) -> str:
        """Nothing."""
        return ""


def as_layers(parameters: Sequence[nn.Parameter]) -> nn.Module:
    """A module whose linear layers have these weights, so that a spec finds them as it finds those of a model."""
    layers = nn.ModuleList()
    for parameter in parameters:
        rows, columns = parameter.shape
        layer = nn.Linear(columns, rows, bias=False, device="meta")
        layer.weight = parameter
        layers.append(layer)
    return layers


def first_updates(optimizer: Optimizer, parameters: list[nn.Parameter], matrices: list[Tensor]) -> list[Tensor]:
    """What the first step at learning rate 1 takes from weights that are zero, before the scale for the shape."""
    for parameter, matrix in zip(parameters, matrices, strict=True):
        parameter.grad = matrix.clone()
    optimizer.step()
    return [-p.detach() / update_scale(tuple(p.shape), "original") for p in parameters]


def chosen_candidates(config: BenchConfig) -> tuple[list[Candidate], list[str]]:
    """The candidates of a bench, the baseline first, and the packages of the peers that are not installed.

    Raises:
        ValueError: a method or a spec is unknown or cannot compute the power.
    """
    specs = list(config.candidates)
    if config.methods is not None or not specs:
        specs = [*method_specs(config.power, config.methods), *specs]
    own = [SpecCandidate(spec) for spec in dict.fromkeys(specs)]
    for candidate in own:
        candidate.function()  # raises the error of a bad spec before anything is measured
    device = pick_device(config.device).type
    peers = [peer for peer in PEERS if config.peers and device in peer.devices]
    there = [PeerCandidate(peer) for peer in peers if peer.version is not None]
    missing = list(dict.fromkeys(peer.distribution for peer in peers if peer.version is None))
    return [PeerCandidate(BASELINE), *own, *there], missing


def method_specs(power: float, methods: Sequence[str] | None) -> list[str]:
    """HTMuon by every method that can compute the power, or by the given ones, and Muon as it is published.

    Example:
        >>> method_specs(0.125, ["eigh"]), method_specs(0.3, ["auto"])
        (['htmuon:method=eigh'], ['htmuon:power=0.3,method=auto'])
    """
    setting = "" if power == optimizer_info("htmuon").settings["power"] else f"power={power:g},"
    specs = [f"htmuon:{setting}method={name}" for name in methods or ("auto", *METHODS)]
    return specs if methods is not None else [PUBLISHED_MUON, *filter(can, specs)]


def can(spec: str) -> bool:
    """Whether the method of a spec has a recipe for its power."""
    try:
        SpecCandidate(spec).function()
    except ValueError:
        return False
    return True
