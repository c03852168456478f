"""The bench: every candidate steps on copies of the same weights and gradients, and is compared with an SVD."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

import htmuon
from htmuon._device import current, pick_device
from htmuon.bench.bench_config import BenchConfig
from htmuon.bench.bench_result import BenchResult, Measured
from htmuon.bench.candidates import Candidate, PeerCandidate, SpecCandidate, chosen_candidates
from htmuon.bench.errors import LARGEST_SIDE, Oracle, Probe, recorded_probes, synthetic_probes
from htmuon.bench.peers import BASELINE, PEERS, guest
from htmuon.bench.shapes import Model, model_matrices, own_matrices
from htmuon.bench.timing import conditions, ratios, side_by_side

T = TypeVar("T")

# A candidate that has taken so long is known well enough.
MOST_SECONDS = 30.0


def bench(
    config: BenchConfig, *, command: str | None = None, progress: Callable[[str], None] = lambda _: None
) -> BenchResult:
    """Time a step of every candidate and measure its errors.

    Args:
        config: all settings.
        command: what was typed; that of this process if None.
        progress: called with what is being done.

    Raises:
        ValueError: a setting is not usable.

    Example:
        >>> result = bench(BenchConfig(shapes=("8x12*2",), methods=("eigh",), peers=False, rounds=1, device="cpu"))
        >>> [measured.name for measured in result.measured], result.columns
        (['torch.optim.Muon', 'htmuon:method=eigh'], ['1e+02', '1e+03', '1e+04', '1e+06'])
    """
    load = os.getloadavg()[0]
    device = pick_device(config.device)
    model = own_matrices(config.shapes) if config.shapes else model_matrices(config.model, config.layers)
    candidates, missing = chosen_candidates(config)
    _check_memory(model, config.parameter_dtype, len(candidates), device)
    probes = _probes(config, model, device)  # a file that cannot be read is an error of the first second
    failed: dict[str, str] = {}
    with current(device):
        seconds = _Steps(config, model, device, failed).seconds(candidates, progress)
        errors = _errors([c for c in candidates if c.name in seconds], probes, failed, progress)
    ran = [candidate for candidate in candidates if candidate.name not in failed]
    seconds = {candidate.name: seconds[candidate.name] for candidate in ran}
    ratio = ratios(seconds, BASELINE.name)
    measured = [
        Measured(
            name=candidate.name,
            picks=candidate.picks(model.shapes, device),
            seconds=seconds[candidate.name],
            ratio=ratio[candidate.name],
            computes="" if candidate.function() is None else str(candidate.function()),
            errors=errors[candidate.name],
        )
        for candidate in ran
    ]
    return BenchResult(
        conditions=conditions(command, device),
        versions=_versions(with_peers=config.peers),
        matrices=model.describe(),
        shapes=[str(shape) for shape in model.shapes],
        dtype=config.dtype,
        baseline=BASELINE.name,
        measured=measured,
        columns=["median", "largest"] if config.momentum else list(probes[0].matrices),
        failed=failed,
        missing=missing,
        notes=[*_busy(load, device), *_notes(config, model, probes, ran, seconds)],
    )


class _Steps:
    """The steps that are timed.

    Args:
        config: the settings of the bench.
        model: the matrices.
        device: where they are.
        failed: gets the reasons of the peers that fail.
    """

    def __init__(self, config: BenchConfig, model: Model, device: torch.device, failed: dict[str, str]) -> None:
        self.config, self.device, self.failed = config, device, failed
        generator = torch.Generator().manual_seed(0)
        shapes = [(shape.rows, shape.columns) for shape in model.shapes for _ in range(shape.count)]
        self.weights, self.gradients = (
            [(scale * torch.randn(shape, generator=generator)).to(device, config.parameter_dtype) for shape in shapes]
            for scale in (0.02, 0.01)
        )

    def seconds(self, candidates: Sequence[Candidate], progress: Callable[[str], None]) -> dict[str, list[float]]:
        """Of every candidate that runs, in every round."""
        optimizers: dict[str, Optimizer] = {}
        for candidate in candidates:
            progress(f"first step of {candidate.name}")
            optimizer = _attempt(candidate, partial(self._first_step, candidate), self.failed)
            if optimizer is not None:
                optimizers[candidate.name] = optimizer
        progress(f"timing {self.config.rounds} rounds of {len(optimizers)} candidates")
        with guest():
            return side_by_side(
                {name: optimizer.step for name, optimizer in optimizers.items()},
                self.config.rounds,
                device=self.device,
                prepare=lambda name: self._give_gradients(optimizers[name]),
                warm_up=False,
                most_seconds=MOST_SECONDS,
            )

    def _first_step(self, candidate: Candidate) -> Optimizer:
        """The step that allocates, and of a peer a second one: it may compile again, or fail only then."""
        optimizer = candidate.optimizer([nn.Parameter(weight.clone()) for weight in self.weights])
        for _ in range(2 if _is_foreign(candidate) else 1):
            self._give_gradients(optimizer)
            optimizer.step()
        return optimizer

    def _give_gradients(self, optimizer: Optimizer) -> None:
        """Fresh ones before each step: some optimizers write to them, or drop them."""
        parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
        for parameter, gradient in zip(parameters, self.gradients, strict=True):
            if parameter.grad is None:
                parameter.grad = gradient.clone()
            else:
                parameter.grad.copy_(gradient)


def _is_foreign(candidate: Candidate) -> bool:
    return isinstance(candidate, PeerCandidate) and candidate.peer is not BASELINE


def _attempt(candidate: Candidate, run: Callable[[], T], failed: dict[str, str]) -> T | None:
    """What `run` returns; of a peer that fails, None and one line on why."""
    if not _is_foreign(candidate):
        return run()
    try:
        with guest():
            return run()
    except Exception as error:  # whatever another library raises must not end the bench
        lines = str(error).strip().splitlines() or [""]
        failed[candidate.name] = f"{type(error).__name__}: {lines[0]}"
        return None


def _probes(config: BenchConfig, model: Model, device: torch.device) -> list[Probe]:
    if config.momentum is not None:
        return recorded_probes(config.momentum, config.parameter_dtype, device)
    return synthetic_probes(model.shapes, config.parameter_dtype, device)


def _errors(
    candidates: Sequence[Candidate], probes: Sequence[Probe], failed: dict[str, str], progress: Callable[[str], None]
) -> dict[str, dict[str, dict[str, float]]]:
    """By candidate, shape and column."""
    found: dict[str, dict[str, dict[str, float]]] = {candidate.name: {} for candidate in candidates}
    for probe in probes:
        progress(f"float64 decompositions of {probe.shape} matrices")
        oracle = Oracle(probe)
        for candidate in candidates:
            function = candidate.function()
            if function is None or candidate.name in failed:
                continue
            progress(f"errors of {candidate.name} on {probe.shape} matrices")
            errors = _attempt(candidate, partial(oracle.errors, candidate, function), failed)
            if errors is not None:
                found[candidate.name][probe.shape] = errors
    return found


def _versions(*, with_peers: bool) -> dict[str, str]:
    peers = {peer.distribution: peer.version for peer in PEERS if with_peers}
    return {"htmuon": htmuon.__version__, **{name: version for name, version in peers.items() if version is not None}}


def _notes(
    config: BenchConfig,
    model: Model,
    probes: Sequence[Probe],
    ran: Sequence[Candidate],
    seconds: Mapping[str, Sequence[float]],
) -> list[str]:
    notes = []
    fewer = [f"{name} ({len(values)})" for name, values in seconds.items() if len(values) < config.rounds]
    if fewer:
        notes.append(f"Fewer rounds, after {MOST_SECONDS:.0f} s of steps: {', '.join(fewer)}.")
    if model.layers != model.all_layers:
        notes.append(f"Times and ratios are of {model.layers} of the {model.all_layers} layers of {model.name}.")
    if config.momentum is not None:
        counts = ", ".join(f"{len(probe.matrices['recorded'])} of {probe.shape}" for probe in probes)
        notes.append(f"Errors are measured on recorded momentum matrices ({counts}): the median one and the largest.")
    else:
        notes.append(
            "Errors are measured on matrices whose singular values are evenly spread in logarithm, by their condition, "
            f"for the sides {', '.join(probe.shape for probe in probes)}."
        )
        if any(min(shape.rows, shape.columns) > LARGEST_SIDE for shape in model.shapes):
            notes.append(
                f"Matrices with a short side above {LARGEST_SIDE} are stood for by smaller ones in the errors."
            )
    stateful = [c.name for c in ran if isinstance(c, SpecCandidate) and c.keeps_state()]
    if stateful:
        notes.append(f"Errors of {', '.join(stateful)} are without what it carries from step to step.")
    return notes


def _busy(load: float, device: torch.device) -> list[str]:
    """A warning where other processes wanted much of the CPU when the bench started."""
    cores = os.cpu_count() or 1
    if device.type == "cuda" or load < 0.5 * cores:
        return []
    return [f"The machine was busy when this started (load {load:.1f} on {cores} cores): measure again when it is not."]


def _check_memory(model: Model, dtype: torch.dtype, candidates: int, device: torch.device) -> None:
    """Raise ValueError where weights and momenta of all candidates cannot fit."""
    copies = 3 * candidates + 2  # weights, gradients and momenta; the first two once more to copy from
    elements = sum(shape.count * shape.rows * shape.columns for shape in model.shapes)
    needed = copies * elements * dtype.itemsize
    if device.type == "cuda":
        there = torch.cuda.get_device_properties(device).total_memory
    else:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ValueError(
            f"the weights, gradients and momenta of {candidates} candidates must fit into memory; they take "
            f"{needed / 1e9:.0f} GB of {there / 1e9:.0f} GB. Bench fewer layers (--layers 2) or candidates."
        )
