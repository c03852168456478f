import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import htmuon
from htmuon.cli import main
from htmuon.data.text.text_in_memory import LanguageModelling
from htmuon.recipes import RECIPES

STEPS = RECIPES["llama-tiny"]().steps
TINY = [
    *("--data.vocab-size", "300", "--data.sequence-length", "16"),
    *(
        "--model.hidden-size",
        "16",
        "--model.intermediate-size",
        "24",
        "--model.num-layers",
        "1",
        "--model.num-heads",
        "2",
    ),
    *("--steps", "4", "--batch-size", "2", "--eval-interval", "2", "--log-interval", "1", "--checkpoint-interval", "2"),
    *("--device", "cpu"),
]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("<|endoftext|>".join(f"document {i}: " + "we the people of the states " * 30 for i in range(8)))
    return str(path)


def error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a user's error."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("htmuon: error: ")
    assert err.count("\n") == 1
    return err


def test_help_teaches_by_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for part in ("compare", "train", "analyze", "bench", "list", "htmuon compare llama-tiny --out runs/demo"):
        assert part in text
    assert main([]) == 2


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            ["compare", "--help"],
            [
                "--optimizers",
                "--learning-rates {stored,tune,missing}",
                "--steps INT",
                "Examples:",
                f"(default: {STEPS})",
            ],
        ),
        (["train", "llama-tiny", "--help"], ["--optimizer.name", "--resume", "--seed INT", "Examples:"]),
        (["bench", "--help"], ["--methods", "--peers, --no-peers", "llama-1b", "Examples:", "(default: 0.125)"]),
        # Flags that a run has, too, under the same name and with another meaning.
        (["route", "--help"], ["--split", "how fused weights are taken apart"]),
        (["analyze", "--help"], ["--device", "where the spectra are computed"]),
    ],
)
def test_help_of_a_command(capsys: pytest.CaptureFixture[str], arguments: list[str], parts: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for part in parts:
        assert part in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"htmuon {htmuon.__version__}\n"


def test_list_names_and_describes_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    heads = [line for line in lines if line and not line.startswith(" ")]
    assert heads == [
        "Recipes:",
        "Optimizers:",
        "Optimizers of other packages, to compare with:",
        "Spectral maps:",
        "Methods:",
        "Normalizations:",
        "Rules for learning rates (htmuon:rate_rule=alignment):",
        "Rules for powers (htmuon:power_rule=alignment):",
        "Rules for powers that look at spectra (muon:power_by=alpha,every=100):",
        "Momentum rules (htmuon:momentum_rule=sum):",
        "Weight updates (htmuon:weight_update=cautious):",
        "Power schedules (htmuon:schedule=interval,power=0.125,every=5):",
        "Settings of an optimizer (htmuon:power=0.25,normalization=rms):",
        "Settings of some matrices, by kind (muon:lr_scale.query+key=2,power.down=-0.4):",
        "Settings of a method, map or rule (htmuon:method=polynomial,levels=8):",
    ]
    entries = [re.fullmatch(r"  (\S+) +(\S.*)", line) for line in lines if line.startswith(" ")]
    assert all(entries)
    names = {entry[1] for entry in entries if entry}
    assert {"llama-tiny", "adamw", "muon", "htmuon", "eigh", "power", "rms", "interval", "lion"} <= names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["compair"],
            "one of compare, train, route, analyze, bench, list; got 'compair'. Did you mean 'compare'?",
        ),
        (["compare"], "the name of a recipe must come first; choose one of llama-tiny"),
        (["compare", "lama-tiny"], "recipe must be one of llama-tiny"),
        (["compare", "llama-tiny", "--stepz", "3"], "Unrecognized options: --stepz, 3 Perhaps you meant --steps?"),
        (["compare", "llama-tiny", "--steps", "many"], "--steps: invalid literal for int"),
        (["compare", "llama-tiny", "--learning-rates", "guess"], "Expected one of ('stored', 'tune', 'missing')"),
        (["compare", "llama-tiny", "--steps", "0"], "steps must be a whole number of at least 1; got 0"),
        (["compare", "llama-tiny", "--optimizers", "moun"], "Did you mean 'muon'?"),
        (["compare", "llama-tiny", "--tuned-file", "/nowhere/x.json", "--out", "/nowhere/out"], "/nowhere/x.json"),
        (["train", "llama-tiny"], "--out"),
        (["bench"], "a bench needs either a recipe or shapes; got neither"),
        (["bench", "llama-tiny", "--shapes", "4x4"], "either a recipe or shapes; got llama-tiny and 4x4"),
        (["bench", "lama-60m"], "Did you mean 'llama-60m'?"),
        (["bench", "llama-60m", "--layers", "9"], "between 1 and the 8 layers of llama-60m; got 9"),
        (["bench", "--shapes", "4by4"], "ROWSxCOLUMNS*COUNT"),
        (["bench", "--shapes", "4x4", "--methods", "eig"], "Did you mean 'eigh'?"),
        (["bench", "--shapes", "4x4", "--power", "2"], "power must lie in [-1.0, 1.0]; got 2"),
        (["bench", "--shapes", "4x4", "--candidates", "moun"], "Did you mean 'muon'?"),
        (["bench", "--shapes", "4x4", "--momentum", "/nowhere/x.safetensors"], "/nowhere/x.safetensors"),
        (["bench", "--shapes", "4x4", "--rounds", "0"], "rounds must be at least 1; got 0"),
        (["bench", "--shapes", "4x4", "--threads", "0"], "threads must be at least 1; got 0"),
        (["bench", "--shapes", "4x4", "--device", "tpu"], "device must be auto, cpu, cuda or cuda:<index>; got 'tpu'"),
        (["train", "llama-tiny", "--out", "/nowhere/out", "--data", "/nowhere/text"], "/nowhere/text"),
    ],
)
def test_user_errors_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert message in error(capsys, *arguments)


def test_train_writes_a_run_and_returns_it_again(capsys: pytest.CaptureFixture[str], text: str, tmp_path: Path) -> None:
    words = ["train", "llama-tiny", "--data", text, *TINY, "--optimizer.name", "muon", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    first = capsys.readouterr().out
    assert "step 4/4, test loss" in first
    assert (tmp_path / "run" / "result.json").exists()
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "already finished: " + first.splitlines()[-1]
    assert "other settings (steps is 4 there and 5 here)" in error(capsys, *words, "--steps", "5")


def test_a_run_with_too_many_bad_gradients_says_so_without_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str, tmp_path: Path
) -> None:
    honest = LanguageModelling.training_loss
    monkeypatch.setattr(LanguageModelling, "training_loss", lambda *words: honest(*words) * float("nan"))
    words = ["train", "llama-tiny", "--data", text, *TINY, "--max-skipped-steps", "2", "--out", str(tmp_path / "run")]
    assert main(words) == 1
    assert capsys.readouterr().err.startswith("htmuon: stopped: training must have fewer than 2 steps")


def test_a_run_that_diverges_says_so(capsys: pytest.CaptureFixture[str], text: str, tmp_path: Path) -> None:
    words = ["train", "llama-tiny", "--data", text, *TINY, "--optimizer.lr", "1e30", "--optimizer.adamw-lr", "1e30"]
    assert main([*words, "--max-skipped-steps", "2", "--out", str(tmp_path / "run")]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("diverged after")


INTERRUPTED = """
import sys
import torch
from htmuon.cli import main
from htmuon.recipes import RECIPES
from htmuon.training.loop import TrainingLoop
torch.set_num_threads(1)
step = TrainingLoop._step
def interrupted(self, number):
    if number == 3:
        raise KeyboardInterrupt
    return step(self, number)
TrainingLoop._step = interrupted
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_an_interrupted_run_needs_resume(capsys: pytest.CaptureFixture[str], text: str, tmp_path: Path) -> None:
    words = ["train", "llama-tiny", "--data", text, *TINY, "--optimizer.name", "muon", "--out", str(tmp_path / "run")]
    stopped = subprocess.run([sys.executable, "-c", INTERRUPTED, *words], capture_output=True, text=True, check=False)
    assert stopped.returncode == 130
    assert (
        stopped.stderr.strip() == "htmuon: interrupted; with --resume the same command resumes where this one stopped."
    )
    assert "add --resume to continue it" in error(capsys, *words)
    assert main([*words, "--resume"]) == 0
    assert "resumes at step 2 of 4" in capsys.readouterr().out


def test_bench_prints_a_table_and_stores_the_numbers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "new" / "bench.json"
    words = ["bench", "--shapes", "12x8*2", "--methods", "auto", "--rounds", "2", "--device", "cpu", "--threads", "1"]
    assert main([*words, "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("One optimizer step over 2 hidden matrices (12x8*2), float32\n")
    assert re.search(r"\ntorch.optim.Muon .* 1.00x ", out)
    assert re.search(r"\nhtmuon:method=auto \(quintic, 7 steps\) ", out)
    assert out.endswith(f"written to {file}\n")
    stored = json.loads(file.read_text())
    assert stored["conditions"]["command"] == shlex.join(["htmuon", *words, "--json", str(file)])
    assert [len(measured["seconds"]) for measured in stored["measured"]] == [2] * len(stored["measured"])


@pytest.mark.slow
def test_help_and_list_do_not_load_what_only_training_needs() -> None:
    code = (
        "import sys; from htmuon.cli import main; main(['--help']); main(['list']); "
        "heavy = {'transformers', 'matplotlib', 'tokenizers', 'jinja2'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["tyro", "rich", "matplotlib", "jinja2"])
def test_a_missing_library_names_the_extra(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from htmuon.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["compare", "llama-tiny", "--tuned-file", "/nowhere/x.json"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f'htmuon: error: this needs {missing}, which is not installed: pip install "htmuon[train]"\n'
    )
