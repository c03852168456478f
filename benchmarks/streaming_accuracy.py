"""How well the streaming method follows the momentum of a training run, and what each part of it is good for.

    python benchmarks/streaming_accuracy.py --json benchmarks/results/streaming_accuracy.json

Trains the recipe `llama-tiny` with HTMuon and its stored learning rate. Every variant below is given the momentum
directions of all hidden matrices at every step, carries its own basis, and is compared with a float64 SVD at the first
steps and at every tenth. Errors are relative Frobenius errors of `U (S / sigma_1)^p V^T`, median and largest over the
matrices of a shape; `stale` is the error of the exact answer of the step before. Seconds are CPU seconds for the
steps of the basis and one map.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from timing import conditions, write
from torch import Tensor

from htmuon.cli.terminal import terminal_display
from htmuon.compare.tuned_rates import load_tuned
from htmuon.linalg import METHODS, Accuracy, Mapped, Method, ScalarFunction
from htmuon.linalg.base import direction_weights, safe_divisor, unit_scale
from htmuon.linalg.streaming import (
    CUTOFF,
    column_lengths,
    long_side_first,
    mapped_in,
    orthonormal,
    power_step,
    started,
    triangular_factor,
)
from htmuon.recipes import RECIPES
from htmuon.spectral import Power
from htmuon.training.train import train

POWERS = (-0.25, 0.0, 0.125, 0.5)
FIRST_STEPS = (1, 2, 3, 5)
EVERY = 10
LATE = 50  # from this step on the start is forgotten

Turn = Callable[[Tensor, Tensor], Tensor]
Map = Callable[[Tensor, Tensor, ScalarFunction], Tensor]


def published_step(tall: Tensor, basis: Tensor) -> Tensor:
    """`QR(M^T QR(M V))` by Householder, the columns in the order in which they come."""
    inner = torch.linalg.qr(tall @ basis).Q
    turned: Tensor = torch.linalg.qr(tall.mT @ inner).Q
    return turned


def step_in_old_order(tall: Tensor, basis: Tensor) -> Tensor:
    """A step without sorting."""
    return orthonormal(basis @ triangular_factor(tall @ basis).mT, otherwise=basis)


def step_sorted_before(tall: Tensor, basis: Tensor) -> Tensor:
    """A step that sorts the columns of `M V` instead of those of `M^T Q`."""
    order = column_lengths(tall @ basis).argsort(dim=-1, descending=True)
    return step_in_old_order(tall, basis.gather(-1, order.expand_as(basis)))


def diagonal_map(basis: Tensor, tall: Tensor, function: ScalarFunction) -> Tensor:
    """The published map: columns of `M V` scaled to their weights."""
    columns = tall @ basis
    sigma = column_lengths(columns)
    sigma_1 = sigma.amax(-1, keepdim=True)
    floor = torch.finfo(sigma.dtype).eps
    return (columns * (function((sigma / sigma_1).clamp(min=floor)) / sigma.clamp(min=floor * sigma_1))) @ basis.mT


def block_gap_map(basis: Tensor, tall: Tensor, function: ScalarFunction) -> Tensor:
    """The first-order map with the gap of the eigenvalues of the 2 x 2 blocks."""
    columns = tall @ basis
    inner = columns.mT @ columns
    squares = inner.diagonal(dim1=-2, dim2=-1)
    sigma = squares.sqrt()
    weights, _, _ = direction_weights(sigma, function, CUTOFF * torch.finfo(sigma.dtype).eps)
    phi = weights / safe_divisor(sigma)
    gap = squares.unsqueeze(-1) - squares.unsqueeze(-2)
    rise = (phi.unsqueeze(-1) - phi.unsqueeze(-2)) * gap.sign()
    core = torch.diag_embed(phi) + rise * inner / safe_divisor(torch.hypot(gap, 2 * inner))
    return columns @ (core @ basis.mT)


def first_order_map(basis: Tensor, tall: Tensor, function: ScalarFunction) -> Tensor:
    return mapped_in(basis, tall, function).matrix


@dataclass(frozen=True)
class Variant:
    """Steps of one kind, and a map in the basis that they lead to."""

    turn: Turn
    steps: int
    mapping: Map


PUBLISHED = "published: one step, Householder, diagonal map"
STREAMING = "streaming: two steps, sorted Cholesky, first-order"
VARIANTS = {
    PUBLISHED: Variant(published_step, 1, diagonal_map),
    "one step, sorted Cholesky, first-order map": Variant(power_step, 1, first_order_map),
    "two steps, sorted Cholesky, diagonal map": Variant(power_step, 2, diagonal_map),
    "two steps, sorted Cholesky, gap of 2 x 2 blocks": Variant(power_step, 2, block_gap_map),
    "two steps, Householder, first-order map": Variant(published_step, 2, first_order_map),
    "two steps, Cholesky, first-order map": Variant(step_in_old_order, 2, first_order_map),
    "two steps, Cholesky sorted before, first-order map": Variant(step_sorted_before, 2, first_order_map),
    STREAMING: Variant(power_step, 2, first_order_map),
    "three steps, sorted Cholesky, first-order map": Variant(power_step, 3, first_order_map),
}
STALE = "stale"


class Follower(Method):
    """`eigh` for the training, which shows every direction that it maps to all variants."""

    name = "follower"

    def __init__(self) -> None:
        self.step = 0
        self.bases: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        self.answers: dict[tuple[int, ...], list[Tensor]] = {}
        self.seconds: dict[str, float] = defaultdict(float)
        # variant -> shape -> power -> step -> [median, largest]
        self.errors: dict[str, Any] = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))

    def __call__(self, matrix: Tensor, function: ScalarFunction) -> Mapped:
        tall, _ = unit_scale(long_side_first(matrix)[0], torch.float32)
        shape = tuple(matrix.shape)
        self.step += shape == next(iter(self.answers), shape)  # the stacks come in one order at every step
        judged = self.step in FIRST_STEPS or self.step % EVERY == 0
        # The step before is needed for what a stale answer errs.
        answers = self._exact(tall) if judged or self.step + 1 in FIRST_STEPS or (self.step + 1) % EVERY == 0 else []
        if judged and self.step > 1:
            for power, old, new in zip(POWERS, self.answers[shape], answers, strict=True):
                self._record(STALE, matrix, power, old, new)
        self.answers[shape] = answers
        for name, variant in VARIANTS.items():
            start = time.process_time()
            basis = self.bases.get((name, shape))
            if basis is None:
                basis = started(torch.zeros(*tall.shape[:-2], tall.shape[-1], tall.shape[-1]))
            for _ in range(variant.steps):
                basis = variant.turn(tall, basis)
            self.bases[name, shape] = basis
            variant.mapping(basis, tall, Power(0.125))
            self.seconds[name] += time.process_time() - start
            if judged:
                for power, answer in zip(POWERS, answers, strict=True):
                    self._record(name, matrix, power, variant.mapping(basis, tall, Power(power)), answer)
        return METHODS["eigh"](matrix, function)

    def accuracy(self, matrix: Tensor, power: float) -> Accuracy:
        return METHODS["eigh"].accuracy(matrix, power)

    def _exact(self, tall: Tensor) -> list[Tensor]:
        u, sigma, vh = torch.linalg.svd(tall.to(torch.float64), full_matrices=False)
        relative = sigma / sigma[..., :1]
        # What rounding alone made of a float32 matrix is no direction.
        kept = relative > torch.finfo(torch.float32).eps
        return [(u * torch.where(kept, relative, 1.0).pow(p).mul(kept).unsqueeze(-2)) @ vh for p in POWERS]

    def _record(self, name: str, matrix: Tensor, power: float, got: Tensor, answer: Tensor) -> None:
        error = torch.linalg.matrix_norm(got - answer) / torch.linalg.matrix_norm(answer)
        where = self.errors[name]["x".join(map(str, matrix.shape[-2:]))][str(power)]
        where[str(self.step)] = [error.median().item(), error.max().item()]

    @contextmanager
    def following(self) -> Iterator[None]:
        METHODS.register(self.name)(self)
        yield


def summary(errors: dict[str, Any]) -> dict[str, Any]:
    """Over all late steps of a shape: the median of the medians, and the largest error; and the median at step 1."""
    return {
        name: {
            shape: {
                power: {
                    "first": round(by_step["1"][0], 5) if "1" in by_step else None,
                    "median": round(median(middle for step, (middle, _) in by_step.items() if int(step) >= LATE), 5),
                    "largest": round(max(largest for step, (_, largest) in by_step.items() if int(step) >= LATE), 5),
                }
                for power, by_step in by_power.items()
            }
            for shape, by_power in by_shape.items()
        }
        for name, by_shape in errors.items()
    }


def courses(errors: dict[str, Any]) -> dict[str, Any]:
    """Step by step, what was published and what the library does."""
    return {
        name: {
            shape: {
                power: {
                    "steps": [int(step) for step in by_step],
                    "median": [round(middle, 5) for middle, _ in by_step.values()],
                    "largest": [round(largest, 5) for _, largest in by_step.values()],
                }
                for power, by_step in by_power.items()
            }
            for shape, by_power in errors[name].items()
        }
        for name in (PUBLISHED, STREAMING)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help=f"length of the run, at least {LATE} (default 200)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--json", type=Path, help="where to store the results")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    run = RECIPES["llama-tiny"]()
    stored = Path(str(files("htmuon.compare") / "tuned.json"))
    tuned = load_tuned(stored)[run.recipe].optimizers["htmuon"]
    follower = Follower()
    spec = replace(run.optimizer, name=f"htmuon:method={follower.name}", lr=tuned.lr, adamw_lr=tuned.adamw_lr)
    config = replace(run, optimizer=spec, steps=arguments.steps, seed=0, device="cpu")
    with TemporaryDirectory() as folder, terminal_display() as display, follower.following():
        train(config, Path(folder) / "run", display)

    table = summary(follower.errors)
    for shape in table[STALE]:
        print(f"\n{shape}: relative error, median at step 1 / median and largest from step {LATE} on, at p =")
        print(f"{'':50}" + "".join(f"{power:>22}" for power in POWERS))
        for name, by_shape in table.items():
            cells = [by_shape[shape][str(power)] for power in POWERS]
            print(f"{name:50}" + "".join(f"{_numbers(cell):>22}" for cell in cells))
    print("\nCPU seconds: " + ", ".join(f"{name} {value:.1f}" for name, value in follower.seconds.items()))
    results = {"summary": table, "courses": courses(follower.errors), "cpu_seconds": dict(follower.seconds)}
    write(arguments.json, {**conditions(), "lr": tuned.lr, "steps": arguments.steps, **results})


def _numbers(cell: dict[str, float | None]) -> str:
    return " / ".join("-" if value is None else f"{value:.3f}" for value in cell.values())


if __name__ == "__main__":
    main()
