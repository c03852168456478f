"""Record the matrices that an optimizer maps during a training run, so that methods are judged on real spectra.

    python benchmarks/record_momentum.py --out runs/momentum.safetensors
    python benchmarks/record_momentum.py --hidden-size 512 --steps 50 --record 1 10 50 --out runs/wide.safetensors

Trains the recipe `llama-tiny` with seed 0 and the stored learning rate, and writes the momentum direction of every
hidden matrix (after Nesterov, before the map; float32) at the given steps, under `step/parameter name`. Then it prints
how the singular values are spread, relative to the largest one, for every shape.
"""

import argparse
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from htmuon._files import new_file, write_tensors
from htmuon.cli.terminal import terminal_display
from htmuon.compare.tuned_rates import load_tuned
from htmuon.linalg import METHODS, Accuracy, Mapped, Method, ScalarFunction
from htmuon.recipes import RECIPES
from htmuon.training.run_config import RunConfig
from htmuon.training.train import train

STORED = Path(str(files("htmuon.compare") / "tuned.json"))
STEPS = (1, 2, 5, 10, 25, 50, 100, 150, 200)
# The stored learning rate of each optimizer; that of Muon was tuned with the published method.
TUNED_AS = {"htmuon": "htmuon", "muon": "muon:method=newton_schulz"}


class Recorder(Method):
    """`eigh`, which keeps a copy of what it is given at some steps.

    Args:
        steps: the steps to record, counted from 1.
    """

    name = "recorder"

    def __init__(self, steps: tuple[int, ...]) -> None:
        self.steps = frozenset(steps)
        self.recorded: dict[str, Tensor] = {}
        self._step = 0
        self._names: dict[tuple[int, ...], deque[str]] = {}

    def __call__(self, matrix: Tensor, function: ScalarFunction) -> Mapped:
        if self._step in self.steps:
            for one in matrix:
                name = self._names[tuple(one.shape)].popleft()
                self.recorded[f"{self._step}/{name}"] = one.to("cpu", torch.float32, copy=True)
        return METHODS["eigh"](matrix, function)

    def accuracy(self, matrix: Tensor, power: float) -> Accuracy:
        return METHODS["eigh"].accuracy(matrix, power)

    def begin_step(self, optimizer: torch.optim.Optimizer, *arguments: Any) -> None:
        """The optimizer stacks the parameters of one shape in their order, so the names are dealt out in that order."""
        self._step += 1
        names = defaultdict(deque)
        for group in optimizer.param_groups:
            for name, parameter in zip(group["param_names"], group["params"], strict=True):
                names[tuple(parameter.shape)].append(name)
        self._names = names

    @contextmanager
    def listening(self) -> Iterator[None]:
        METHODS.register(self.name)(self)
        hook = register_optimizer_step_pre_hook(self.begin_step)
        try:
            yield
        finally:
            hook.remove()


def configuration(arguments: argparse.Namespace) -> RunConfig:
    run = RECIPES["llama-tiny"]()
    tuned = load_tuned(STORED)[run.recipe].optimizers[TUNED_AS[arguments.optimizer]]
    hidden = arguments.hidden_size or run.model.hidden_size
    widened = run.model.intermediate_size * hidden // run.model.hidden_size
    spec = f"{arguments.optimizer}:method={Recorder.name}"
    return replace(
        run,
        model=replace(
            run.model,
            hidden_size=hidden,
            intermediate_size=arguments.intermediate_size or widened,
            num_layers=arguments.num_layers or run.model.num_layers,
        ),
        optimizer=replace(run.optimizer, name=spec, lr=tuned.lr, adamw_lr=tuned.adamw_lr),
        steps=arguments.steps or run.steps,
        seed=0,
        device=arguments.device,
    )


def print_spread(recorded: dict[str, Tensor]) -> None:
    """Quantiles of sigma / sigma_1 over all steps and matrices of a shape."""
    by_shape = defaultdict(list)
    for matrix in recorded.values():
        by_shape[tuple(matrix.shape)].append(matrix)
    quantiles = (0.75, 0.5, 0.25, 0.01, 0.0)
    heads = ("quartiles", "", "", "last percent", "smallest")
    print(f"\n{'sigma / sigma_1':16}{'matrices':>9}" + "".join(f"{head:>14}" for head in heads))
    for shape, matrices in by_shape.items():
        sigma = torch.linalg.svdvals(torch.stack(matrices).double())
        relative = sigma[sigma[:, 0] > 0] / sigma[sigma[:, 0] > 0, :1]
        cells = "".join(f"{value:14.1e}" for value in relative.quantile(torch.tensor(quantiles, dtype=sigma.dtype)))
        print(f"{'x'.join(map(str, shape)):16}{len(matrices):9}{cells}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/momentum.safetensors"), help="the file to write")
    parser.add_argument("--record", type=int, nargs="+", default=STEPS, help="steps to record, counted from 1")
    parser.add_argument("--optimizer", choices=TUNED_AS, default="htmuon", help="what trains the model")
    parser.add_argument("--steps", type=int, help="length of the run (default: the recipe's)")
    parser.add_argument("--hidden-size", type=int, help="a wider model, for larger matrices")
    parser.add_argument("--intermediate-size", type=int, help="width of its MLP (default: in the recipe's proportion)")
    parser.add_argument("--num-layers", type=int, help="its decoder blocks")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<index>")
    arguments = parser.parse_args()
    config = configuration(arguments)
    recorder = Recorder(tuple(arguments.record))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder, terminal_display() as display, recorder.listening():
        train(config, Path(folder) / "run", display, cache=arguments.out.parent)
    with new_file(arguments.out) as new:
        write_tensors(new, recorder.recorded)
    print(f"{len(recorder.recorded)} matrices written to {arguments.out}")
    print_spread(recorder.recorded)


if __name__ == "__main__":
    main()
