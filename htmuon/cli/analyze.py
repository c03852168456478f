"""`htmuon analyze`: the spectra of a checkpoint's matrices."""

import dataclasses
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from htmuon._extras import require
from htmuon.analysis import ESTIMATORS, Estimator
from htmuon.checkpoints import Analysis, AnalyzeConfig, analyze
from htmuon.checkpoints.alpha_summary import reasons, sentences
from htmuon.checkpoints.alpha_table import layer_table, short_name, type_table
from htmuon.checkpoints.analyze import Progress as Callback
from htmuon.checkpoints.output import write_analysis_csv, write_analysis_json
from htmuon.cli.arguments import parse
from htmuon.recipes import RECIPES
from htmuon.training.run_config import RunConfig

# Between the lines of progress where the output is no terminal.
_SECONDS_BETWEEN_LINES = 10.0
# Where the output is no terminal, no name is folded.
_WIDE = 1000


@dataclass(frozen=True, kw_only=True)
class AnalyzeArguments:
    """Measure the spectrum of every matrix of a checkpoint: how heavy its tail is, and how much of it is noise.

    PATH is a safetensors file, a folder of them (shards), a Hugging Face model folder, a run folder of htmuon train,
    or a pickle of torch. Of each matrix W [out, in] the eigenvalues of W^T W are fitted by a power law with exponent
    alpha: a smaller alpha is a heavier tail. Convolution kernels count as [out, in * kernel], stacked experts one by
    one. One stack of equal shapes is in memory at a time, so that a checkpoint need not fit.

    Examples:
      htmuon analyze model.safetensors
      htmuon analyze Qwen3-0.6B/ --exclude "*embed*" --out runs/qwen3
      htmuon analyze runs/muon --against runs/htmuon --csv runs/alpha.csv
      htmuon analyze model.safetensors --include "*.mlp.*" --estimator ks --json mlp.json
      htmuon analyze model.safetensors --include "*.q_proj.*" --p-value 1000 --alternatives
      htmuon analyze pytorch_model.bin --allow-pickle

    Attributes:
        path: what to analyze.
        against: a second checkpoint to compare with, matched by the names of matrices; differences are PATH minus this.
        include: shell-style patterns over whole names, such as "*.q_proj.*": only these matrices.
        exclude: patterns of matrices to leave out.
        estimator: ks chooses where the tail begins by the Kolmogorov-Smirnov distance, as WeightWatcher; hill takes the
            upper half, as TempBalance. Their alphas are not comparable with each other.
        p_value: test each fit on this many synthetic spectra (1000 give two decimals); below 0.1 the tail is no power
            law. Takes its time.
        alternatives: compare each power law with a truncated one, a lognormal and an exponential, by likelihood.
        randomized: measure a copy of each matrix with its entries permuted too: what noise of the same entries does.
        out: write a folder: report.html (one file, figures inside), figures/, analysis.csv, analysis.json.
        plots: write the figures alone, as PNG, into this folder.
        csv: write a line for each matrix into this file.
        json: write everything into this file.
        device: where the spectra are computed: auto, cpu, cuda or cuda:<index>.
        allow_pickle: open .pt, .pth, .ckpt and .bin files, which are pickles. A pickle can run code when it is loaded;
            here torch.load(weights_only=True) unpickles nothing but tensors and plain containers, and refuses the rest.
    """

    path: tyro.conf.Positional[Path]
    against: Path | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    estimator: tuple[Estimator, ...] = ESTIMATORS
    p_value: int = 0
    alternatives: bool = False
    randomized: bool = False
    out: Path | None = None
    plots: Path | None = None
    csv: Path | None = None
    json: Path | None = None
    device: str = "auto"
    allow_pickle: bool = False


def run(arguments: Sequence[str]) -> None:
    """Run the command with the arguments after `analyze`."""
    everything = {field.name for field in dataclasses.fields(RunConfig)}
    recipe = next(iter(RECIPES.items()))[1]()
    given = parse(AnalyzeArguments, recipe, arguments, prog="htmuon analyze", without=everything)
    config = AnalyzeConfig(
        path=given.path,
        against=given.against,
        include=given.include,
        exclude=given.exclude,
        estimators=given.estimator,
        samples=given.p_value,
        alternatives=given.alternatives,
        randomized=given.randomized,
        device=given.device,
        allow_pickle=given.allow_pickle,
    )
    _prepare(given)
    with _progress() as progress:
        analysis = analyze(config, progress)
    _show(analysis)
    for path in _written(given, analysis, shlex.join(["htmuon", "analyze", *arguments])):
        print(f"written: {path}")


def _prepare(given: AnalyzeArguments) -> None:
    """Make the folders that are written to and find the libraries: what is missing is said before the work."""
    for folder in (given.out, given.plots):
        if folder is not None:
            require("matplotlib")
            require("jinja2")
            folder.mkdir(parents=True, exist_ok=True)
    for file in (given.csv, given.json):
        if file is not None:
            if file.is_dir():
                raise ValueError(f"numbers are written to a file; {file} is a folder. Give a name in it.")
            file.parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def _progress() -> Iterator[Callback]:
    """A bar in a terminal, else a line now and then; on standard error, so that the tables can be piped."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (
        TextColumn("analyzing"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("")
        yield lambda done, total, name: progress.update(
            task, completed=done, total=total, description=short_name(name)[-28:]
        )


class _Lines:
    """Prints how far it is every few seconds."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, done: float, total: float, name: str) -> None:
        if time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            print(f"{done / total:.0%} of the work done ({name})", file=sys.stderr, flush=True)


def _show(analysis: Analysis) -> None:
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console = Console(file=sys.stdout, highlight=False, width=_WIDE)
    console.print(layer_table(analysis))
    console.print()
    console.print(type_table(analysis))
    console.print()
    for line in (*sentences(analysis), *reasons(analysis)):
        console.print(Text(line))


def _written(given: AnalyzeArguments, analysis: Analysis, command: str) -> Iterator[Path]:
    # Numbers first: should a figure fail, they are there.
    if given.csv is not None:
        write_analysis_csv(given.csv, analysis)
        yield given.csv
    if given.json is not None:
        write_analysis_json(given.json, analysis, command)
        yield given.json
    if given.out is not None:
        from htmuon.checkpoints.checkpoint_page import write_page

        yield write_page(given.out, analysis, command)
    if given.plots is not None:
        from htmuon.checkpoints.checkpoint_page import write_figures

        yield write_figures(given.plots, analysis)
