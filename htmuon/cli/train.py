"""`htmuon train`: one training run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from htmuon.cli.arguments import parse, recipe_of, run_settings
from htmuon.cli.terminal import terminal_display
from htmuon.training.launch import rank_of_process, was_restarted
from htmuon.training.run_folder import RunFolder
from htmuon.training.train import train


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """Train a recipe with one optimizer.

    Examples:
      htmuon train llama-tiny --optimizer.name htmuon --optimizer.lr 0.02 --out runs/first
      htmuon train llama-tiny --optimizer.name htmuon --optimizer.lr 0.02 --out runs/first --resume
      torchrun --nproc-per-node 2 -m htmuon train llama-tiny --out runs/two --parallel fsdp2

    Attributes:
        out: the folder of the run; it gets the settings, the log, checkpoints, weights and spectra. Of text that
            is held in memory, such as llama-tiny's, the tokens are kept beside it, for other runs on the same text.
        resume: continue the unfinished run in that folder, as a run does by itself that torchrun restarts.
    """

    out: Path
    resume: bool = False


def run(arguments: Sequence[str]) -> int:
    """Run the command with the arguments after `train`; 1 if the run diverged."""
    recipe, rest = recipe_of(arguments)
    given = parse(TrainArguments, recipe, rest, prog=f"htmuon train {recipe.recipe}", without={"recipe"})
    config = run_settings(given, recipe)
    if rank_of_process():  # the first process looks at the folder, writes there, and talks
        train(config, given.out)
        return 0
    folder = RunFolder(given.out)
    folder.check(config)
    finished = folder.stored_result() is not None
    resuming = given.resume or was_restarted()
    if (given.out / "config.json").exists() and not resuming and not finished:
        raise ValueError(
            f"{given.out} holds an unfinished run; add --resume to continue it, or choose another folder with --out."
        )
    with terminal_display() as display:
        result = train(config, given.out, display)
    if result.diverged:
        print(
            f"diverged after {result.steps} of {config.steps} steps, {result.skipped_steps} of them skipped for "
            f"gradients that are not finite; {result.split} loss {result.final_loss:.4f}. "
            "Use a smaller --optimizer.lr."
        )
        return 1
    accuracy, data = result.accuracy, result.data_seconds_per_step / result.seconds_per_step
    quality = f"perplexity {result.perplexity:.2f}" if accuracy is None else f"accuracy {100 * accuracy:.2f} %"
    if result.unreadable_samples:
        print(f"{result.unreadable_samples} samples could not be read and were left out; messages above name examples.")
    print(
        f"{'already finished: ' if finished else ''}{result.split} loss {result.final_loss:.4f}, "
        f"{quality}, {1e3 * result.seconds_per_step:.3g} ms per step "
        f"({100 * result.optimizer_share:.0f} % optimizer, {100 * data:.0f} % waiting for data): {given.out}"
    )
    return 0
