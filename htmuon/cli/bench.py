"""`htmuon bench`: what a step costs, and how exact it is."""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from htmuon._files import write_json
from htmuon.bench import BenchConfig, BenchResult, bench
from htmuon.bench.bench_config import Dtype
from htmuon.bench.bench_table import below, heads, rows, title
from htmuon.cli.arguments import parse
from htmuon.recipes import RECIPES
from htmuon.reporting.tables import plain_table, rich_table
from htmuon.training.run_config import RunConfig


@dataclass(frozen=True, kw_only=True)
class BenchArguments:
    """Time an optimizer step by every method, beside torch.optim.Muon and other libraries, and measure its error.

    The model is that of a language recipe (htmuon list), such as llama-60m; or give shapes of your own. All candidates
    step in turn on copies of the same weights and gradients.

    Examples:
      htmuon bench llama-60m
      htmuon bench llama-1b --layers 2 --methods auto eigh --rounds 3
      htmuon bench llama-60m --candidates htmuon:method=eigh,normalization=rms muon:method=newton_schulz --no-peers
      htmuon bench --shapes 512x1376 512x512*4 --dtype bfloat16 --json runs/bench.json
      htmuon bench llama-tiny --momentum runs/momentum.safetensors

    Attributes:
        shapes: matrices of your own in place of a model: ROWSxCOLUMNS or ROWSxCOLUMNS*COUNT.
        layers: bench the matrices of the first layers only, so that a large model fits; ratios are of those.
        power: the exponent p of the methods, 0.125 for HTMuon and 0 for Muon.
        methods: names of methods (htmuon list) or auto; all that can compute the power if not given.
        candidates: optimizers by spec, name:key=value,key=value, in place of the methods.
        rounds: rounds that count, after a first step that does not.
        device: auto, cpu, cuda or cuda:<index>.
        dtype: of parameters and gradients.
        threads: threads of the CPU; torch's choice if not given.
        peers: bench Muon of other libraries too, where they are installed.
        momentum: measure errors on the matrices in this safetensors file (benchmarks/record_momentum.py writes one)
            rather than on synthetic ones.
        json: store all numbers in this file.
    """

    shapes: tuple[str, ...] = ()
    layers: int | None = None
    power: float = 0.125
    methods: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    rounds: int = 7
    device: str = "auto"
    dtype: Dtype = "float32"
    threads: int | None = None
    peers: bool = True
    momentum: Path | None = None
    json: Path | None = None


def run(arguments: Sequence[str]) -> None:
    """Run the command with the arguments after `bench`."""
    named = bool(arguments) and not arguments[0].startswith("-")
    model, rest = (arguments[0], arguments[1:]) if named else ("", arguments)
    prog = f"htmuon bench {model}".rstrip()
    everything = {field.name for field in dataclasses.fields(RunConfig)}
    given = parse(BenchArguments, next(iter(RECIPES.items()))[1](), rest, prog=prog, without=everything)
    config = BenchConfig(
        model=model,
        shapes=given.shapes,
        layers=given.layers,
        power=given.power,
        methods=given.methods or None,
        candidates=given.candidates,
        peers=given.peers,
        rounds=given.rounds,
        device=given.device,
        dtype=given.dtype,
        momentum=given.momentum,
    )
    if given.threads is not None:
        if given.threads < 1:
            raise ValueError(f"threads must be at least 1; got {given.threads}.")
        torch.set_num_threads(given.threads)
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
    # Other libraries' prints are caught by another sys.stdout meanwhile; the progress goes to this one.
    console = Console(file=sys.stdout, highlight=False)
    with console.status("") as status:
        command = shlex.join(["htmuon", "bench", *arguments])
        result = bench(config, command=command, progress=lambda text: status.update(f"{text} ..."))
    _show(console, result)
    if given.json is not None:
        write_json(given.json, result.to_dict())
        print(f"\nwritten to {given.json}")


def _show(console: Console, result: BenchResult) -> None:
    if console.is_terminal:
        console.print(rich_table(heads(result), rows(result), title=title(result)))
    else:
        print(title(result), "", plain_table(heads(result), rows(result)), sep="\n")
    print("", *below(result), sep="\n")
