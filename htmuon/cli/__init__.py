"""The command line: `htmuon compare | train | route | analyze | bench | list`."""

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from htmuon._extras import require
from htmuon._registry import unknown_name
from htmuon.training.loop import TrainingStoppedError

_HELP = """\
usage: htmuon COMMAND ...

Heavy-tailed spectral optimizers for PyTorch: U S^p V^T for any p, on top of every Muon variant.

commands:
  compare RECIPE   train a recipe with several optimizers and seeds, learning rates tuned or stored; ends in a report
  train RECIPE     one training run
  route NAME       which parameters of an architecture are matrices, and why the others are not
  analyze PATH     spectra of a checkpoint's matrices: heavy tails, ranks, noise; of two checkpoints side by side
  bench RECIPE     time and error of an optimizer step by every method, beside torch.optim.Muon and other libraries
  list             recipes, optimizers, spectral maps, methods, normalizations, power schedules

examples:
  htmuon compare llama-tiny --out runs/demo
  htmuon compare llama-tiny --optimizers adamw muon htmuon:power=0.25 --seeds 0 1 2 --learning-rates tune
  htmuon train llama-tiny --optimizer.name htmuon --optimizer.lr 0.02 --out runs/first
  htmuon route gpt_oss
  htmuon analyze runs/first --out runs/first/spectra
  htmuon bench llama-60m --layers 2
  htmuon compare llama-tiny --help      all settings of the recipe, with their defaults
"""


@dataclass(frozen=True)
class _Command:
    """One command.

    Args:
        module: whose `run` takes the words after the command; imported when it is called, for help must not wait.
        libraries: what it needs beside torch.
        interrupted: what its user can do after Ctrl-C.
    """

    module: str
    libraries: tuple[str, ...] = ()
    interrupted: str = ""


_COMMANDS = {
    "compare": _Command(
        "htmuon.cli.compare",
        ("tyro", "rich", "jinja2", "matplotlib"),
        "; the same command resumes where this one stopped",
    ),
    "train": _Command(
        "htmuon.cli.train", ("tyro", "rich"), "; with --resume the same command resumes where this one stopped"
    ),
    "route": _Command("htmuon.cli.route", ("tyro", "rich")),
    "analyze": _Command("htmuon.cli.analyze", ("tyro", "rich", "safetensors")),
    "bench": _Command("htmuon.cli.bench", ("tyro", "rich")),
    "list": _Command("htmuon.cli.listing"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: what was typed after `htmuon`; those of the process if None.

    Returns:
        The exit code: 0, 1 for a training run that diverged or had to stop, 2 for something that the user can
        mend, 130 when interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except KeyboardInterrupt:
        command = _COMMANDS.get(words[0])
        print(f"\nhtmuon: interrupted{command.interrupted if command else ''}.", file=sys.stderr)
        return 130
    except TrainingStoppedError as error:
        print(f"htmuon: stopped: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read the output has seen enough, as with `htmuon list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, ImportError, OSError) as error:
        print(f"htmuon: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_HELP, end="")
        return 0 if words else 2
    if words[0] == "--version":
        import htmuon

        print(f"htmuon {htmuon.__version__}")
        return 0
    if words[0] not in _COMMANDS:
        raise unknown_name("the command", words[0], list(_COMMANDS))
    command = _COMMANDS[words[0]]
    for library in command.libraries:
        require(library)
    exit_code: int | None = importlib.import_module(command.module).run(words[1:])
    return exit_code or 0
