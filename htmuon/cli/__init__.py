"""The command line: `htmuon compare | train | analyze | bench | list`."""

import os
import sys
from collections.abc import Sequence

from htmuon._extras import require
from htmuon._registry import unknown_name
from htmuon.training.loop import TrainingStoppedError

_HELP = """\
usage: htmuon COMMAND ...

Heavy-tailed spectral optimizers for PyTorch: U S^p V^T for any p, on top of every Muon variant.

commands:
  compare RECIPE   train a recipe with several optimizers and seeds, learning rates tuned or stored; ends in a report
  train RECIPE     one training run
  analyze PATH     spectra of a checkpoint's matrices: heavy tails, ranks, noise; of two checkpoints side by side
  bench RECIPE     time and error of an optimizer step by every method, beside torch.optim.Muon and other libraries
  list             recipes, optimizers, spectral maps, methods, normalizations, power schedules

examples:
  htmuon compare llama-tiny --out runs/demo
  htmuon compare llama-tiny --optimizers adamw muon htmuon:power=0.25 --seeds 0 1 2 --learning-rates tune
  htmuon train llama-tiny --optimizer.name htmuon --optimizer.lr 0.02 --out runs/first
  htmuon analyze runs/first --out runs/first/spectra
  htmuon bench llama-60m --layers 2
  htmuon compare llama-tiny --help      all settings of the recipe, with their defaults
"""
# The libraries that each command needs beside torch.
_COMMANDS = {
    "compare": ("tyro", "rich", "jinja2", "matplotlib"),
    "train": ("tyro", "rich"),
    "analyze": ("tyro", "rich", "safetensors"),
    "bench": ("tyro", "rich"),
    "list": (),
}
# What an interrupted command leaves.
_GOES_ON = {
    "compare": "; the same command goes on where this one stopped",
    "train": "; with --resume the same command goes on where this one stopped",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: what was typed after `htmuon`; those of the process if None.

    Returns:
        The exit code: 0, 1 for a training run that diverged or could not go on, 2 for something that the user can
        mend, 130 when interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except KeyboardInterrupt:
        print(f"\nhtmuon: interrupted{_GOES_ON.get(words[0], '')}.", file=sys.stderr)
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
    command, rest = words[0], words[1:]
    for library in _COMMANDS.get(command, ()):
        require(library)
    # Imported when needed: help must not wait for what a training run needs.
    if command == "compare":
        from htmuon.cli import compare

        compare.run(rest)
    elif command == "train":
        from htmuon.cli import train

        return train.run(rest)
    elif command == "analyze":
        from htmuon.cli import analyze

        analyze.run(rest)
    elif command == "bench":
        from htmuon.cli import bench

        bench.run(rest)
    elif command == "list":
        from htmuon.cli import listing

        if rest:
            raise ValueError(f"htmuon list takes no arguments; got {' '.join(rest)}. Leave them out.")
        print(listing.listing(), flush=True)
    elif command == "--version":
        import htmuon

        print(f"htmuon {htmuon.__version__}")
    else:
        raise unknown_name("the command", command, list(_COMMANDS))
    return 0
