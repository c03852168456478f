import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from htmuon._files import locked
from htmuon.cli import compare as compare_command
from htmuon.compare.compare_config import CompareConfig
from htmuon.compare.comparing import compare, tuning_command
from htmuon.compare.grid import GridConfig
from htmuon.compare.jobs import Display
from htmuon.compare.run_record import RunRecord
from htmuon.compare.summary import OptimizerSummary
from htmuon.compare.tuned_rates import load_tuned
from htmuon.data.images.image_config import ImageConfig
from htmuon.recipes import RECIPES
from htmuon.training.run_config import RunConfig

pytestmark = pytest.mark.slow


class Titles(Display):
    """Keeps the titles of the runs, what was said, and the last plan."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.messages: list[str] = []
        self.planned = 0

    def on_plan(self, runs: int, steps_per_run: int) -> None:
        self.planned = runs

    def on_run(self, title: str) -> None:
        self.runs.append(title)

    def on_message(self, text: str) -> None:
        self.messages.append(text)


@dataclasses.dataclass
class Done:
    config: CompareConfig
    summaries: Sequence[OptimizerSummary]
    titles: Titles
    tuned: Path


@pytest.fixture(scope="module")
def done(tiny_run: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A finished comparison of two optimizers and two seeds, with its search for learning rates."""
    folder = tmp_path_factory.mktemp("comparison")
    config = CompareConfig(
        run=tiny_run,
        out=folder / "out",
        optimizers=("muon", "htmuon:power=0.25"),
        learning_rates="tune",
        grid=GridConfig(points=3, max_extensions=1),
    )
    titles = Titles()
    summaries = list(compare(config, command="typed", save_tuned=folder / "tuned.json", display=titles).summaries)
    return Done(config, summaries, titles, folder / "tuned.json")


def test_leaves_every_result(done: Done) -> None:
    for name in ("compare.json", "summary.json", "summary.csv", "report.html", "figures/learning-curves.png"):
        assert (done.config.out / name).stat().st_size > 0
    page = (done.config.out / "report.html").read_text()
    assert "HTMuon (power=0.25)" in page
    assert "How the tails evolve" in page
    assert "typed" in page


def test_all_take_the_rate_of_the_other_parameters_that_is_best_with_muon(done: Done) -> None:
    tuned = load_tuned(done.tuned)["llama-tiny"].optimizers
    assert list(tuned) == ["adamw", "muon", "htmuon:power=0.25"]
    assert done.titles.runs[0].startswith("validation: AdamW")
    muon, other = tuned["muon"], tuned["htmuon:power=0.25"]
    # It is searched from AdamW's own on, and found where it has a neighbour on each side or the search was over.
    assert tuned["adamw"].lr in muon.other_grid
    assert muon.adamw_lr == min(muon.other_grid, key=lambda lr: muon.other_grid[lr])
    assert muon.adamw_lr != tuned["adamw"].lr, "this test must see both searches"
    assert (other.adamw_lr, other.other_grid) == (muon.adamw_lr, {})
    assert {summary.adamw_lr for summary in done.summaries} == {muon.adamw_lr}
    for summary in done.summaries:
        found = tuned[summary.spec]
        assert found.lr == summary.lr == min(found.grid, key=lambda lr: found.grid[lr])
    # The rates of the matrices were searched at that rate, Muon's for a second time.
    for documents in ("validation", "test"):
        runs = [RunRecord(path) for path in (done.config.out / "runs" / documents).glob("htmuon*")]
        assert {run.config.optimizer.adamw_lr for run in runs} == {muon.adamw_lr}
    again = [RunRecord(path) for path in (done.config.out / "runs" / "validation").glob("muon*")]
    assert {run.config.optimizer.lr for run in again if run.config.optimizer.adamw_lr == muon.adamw_lr} >= set(
        muon.grid
    )
    page = (done.config.out / "report.html").read_text()
    assert "the one that is best with" in page


def test_tuning_and_report_use_different_documents_and_seeds(done: Done) -> None:
    for documents, seeds in (("validation", {100}), ("test", {0, 1})):
        runs = [RunRecord(path) for path in (done.config.out / "runs" / documents).iterdir()]
        assert {run.config.split for run in runs} == {documents}
        assert {run.config.seed for run in runs} == seeds
        assert {run.config.optimizer.weight_decay for run in runs} == {0.05}


def test_optimizers_take_turns_within_a_seed(done: Done) -> None:
    reports = [title for title in done.titles.runs if title.startswith("test")]
    seeds = [title[-1] for title in reports]
    names = [title.split(",")[0] for title in reports]
    assert seeds == ["0", "0", "1", "1"]
    assert names[:2] == names[2:] == ["test: Muon", "test: HTMuon (power=0.25)"]
    assert done.titles.planned == len(done.titles.runs)


def test_summary_is_that_of_the_run_folders(done: Done) -> None:
    rows = json.loads((done.config.out / "summary.json").read_text())["optimizers"]
    for summary, row in zip(done.summaries, rows, strict=True):
        folders = sorted((done.config.out / "runs" / "test").glob(f"{summary.spec.partition(':')[0]}*"))
        losses = [json.loads((folder / "result.json").read_text())["final_loss"] for folder in folders]
        assert row["losses"] == losses == list(summary.losses)


@pytest.mark.usefixtures("no_figures")
def test_the_same_call_again_trains_nothing(done: Done) -> None:
    before = {path: path.stat().st_mtime_ns for path in (done.config.out / "runs").rglob("*.json*")}
    again = list(compare(done.config, command="typed", display=Display()).summaries)
    assert again == list(done.summaries)
    assert before == {path: path.stat().st_mtime_ns for path in (done.config.out / "runs").rglob("*.json*")}


@pytest.mark.usefixtures("no_figures")
def test_another_baseline_needs_no_other_run(done: Done) -> None:
    before = {path: path.read_bytes() for path in done.config.out.glob("*.*")}
    runs = {path: path.stat().st_mtime_ns for path in (done.config.out / "runs").rglob("*.json*")}
    config = dataclasses.replace(done.config, baseline="htmuon:power=0.25")
    muon, htmuon = compare(config, command="typed").summaries
    assert (len(muon.differences), len(htmuon.differences)) == (2, 0)
    assert runs == {path: path.stat().st_mtime_ns for path in (done.config.out / "runs").rglob("*.json*")}
    for path, content in before.items():
        path.write_bytes(content)


@pytest.mark.usefixtures("no_figures")
def test_stored_rates_are_used_without_a_search(done: Done, tmp_path: Path) -> None:
    config = dataclasses.replace(
        done.config, out=tmp_path / "out", learning_rates="stored", tuned_file=str(done.tuned), seeds=(0,)
    )
    titles = Titles()
    summaries = list(compare(config, command="typed", display=titles).summaries)
    assert [title.split(":")[0] for title in titles.runs] == ["test"] * 2
    assert titles.messages[0].startswith("Learning rates are stored ones")
    assert [summary.lr for summary in summaries] == [summary.lr for summary in done.summaries]
    # Equal settings and seeds give equal bits, in whatever folder.
    assert [summary.losses[0] for summary in summaries] == [summary.losses[0] for summary in done.summaries]
    assert not any("other settings" in message for message in titles.messages)


@pytest.mark.usefixtures("no_figures")
def test_stored_rates_of_other_settings_are_used_with_a_warning(done: Done, tmp_path: Path) -> None:
    config = dataclasses.replace(
        done.config,
        run=dataclasses.replace(done.config.run, steps=4),
        optimizers=("muon",),
        seeds=(0,),
        out=tmp_path / "out",
        learning_rates="stored",
        tuned_file=str(done.tuned),
    )
    titles = Titles()
    compare(config, command="typed", display=titles)
    assert any("steps was 6, is 4" in message for message in titles.messages)
    assert "steps was 6, is 4" in (config.out / "report.html").read_text()


def test_a_rate_that_is_not_stored_is_an_error_with_the_command(done: Done, tmp_path: Path) -> None:
    config = dataclasses.replace(
        done.config, out=tmp_path / "out", optimizers=("normuon",), learning_rates="stored", tuned_file=str(done.tuned)
    )
    with pytest.raises(
        ValueError, match=r"--optimizers normuon .*--model.hidden-size 16 .*--learning-rates tune --save-tuned"
    ):
        compare(config, command="typed")
    assert not config.out.exists()


@pytest.mark.parametrize(
    ("recipe", "typed"),
    [
        ("resnet-tiny", ["--data.no-flip", "--data.crop-padding", "0", "--weight-decay", "0.1", "--steps", "7"]),
        ("gpt2-small", ["--max-grad-norm", "None", "--text", "a [1]/it's"]),
        ("llama-tiny", ["--data.separator=--", "--max-grad-norm", "0.5", "--ema-decay", "0.9"]),
    ],
)
def test_the_tuning_command_can_be_typed(
    recipe: str, typed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[CompareConfig] = []

    def catch(config: CompareConfig, **_: object) -> list[OptimizerSummary]:
        seen.append(config)
        raise ValueError("caught")

    monkeypatch.setattr(compare_command, "compare", catch)
    arguments = [recipe, *typed, "--optimizers", "htmuon:power=0.25", "--out", str(tmp_path)]
    with pytest.raises(ValueError, match="caught"):
        compare_command.run(arguments)
    words = shlex.split(tuning_command(seen[0]))
    assert words[:2] == ["htmuon", "compare"]
    with pytest.raises(ValueError, match="caught"):
        compare_command.run(words[2:])
    asked, suggested = seen
    assert suggested.tuning_settings() == asked.tuning_settings()
    assert suggested.optimizers == asked.optimizers
    assert suggested.learning_rates == "tune"


def test_flags_that_are_on_can_be_typed(tiny: CompareConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = RECIPES["resnet-tiny"]()
    still = dataclasses.replace(usual, data=ImageConfig(flip=False))
    monkeypatch.setitem(RECIPES._parts, "resnet-tiny", lambda: still)
    assert " --data.flip --learning-rates tune" in tuning_command(dataclasses.replace(tiny, run=usual))


def test_rates_are_saved_only_when_tuned(tiny: CompareConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="save_tuned needs learning rates to save"):
        compare(dataclasses.replace(tiny, learning_rates="stored"), command="typed", save_tuned=tmp_path / "x.json")
    foreign = tmp_path / "notes.json"
    foreign.write_text("mine")
    with pytest.raises(ValueError, match="--save-tuned"):
        compare(tiny, command="typed", save_tuned=foreign)
    assert foreign.read_text() == "mine"
    assert not tiny.out.exists()


def test_a_foreign_folder_is_refused_and_left_alone(tiny: CompareConfig) -> None:
    tiny.out.mkdir()
    (tiny.out / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"out must be a new or empty folder.*thesis\.txt"):
        compare(tiny, command="typed")
    assert [path.name for path in tiny.out.iterdir()] == ["thesis.txt"]


def test_a_folder_in_which_another_process_compares_is_refused(tiny: CompareConfig) -> None:
    tiny.claim_folder()
    before = (tiny.out / "compare.json").read_bytes()
    with locked(tiny.out, "comparing"), pytest.raises(ValueError, match="another process is comparing in"):
        compare(dataclasses.replace(tiny, learning_rates="tune", seeds=(5, 6)), command="")
    assert (tiny.out / "compare.json").read_bytes() == before


def test_a_folder_of_another_comparison_is_refused_and_left_alone(tiny: CompareConfig) -> None:
    tiny.claim_folder()
    begun = tiny.out / "runs" / "validation" / "adamw-lr0.001-seed100"
    begun.mkdir(parents=True)
    (begun / "config.json").write_text("{}")
    before = (tiny.out / "compare.json").read_bytes()
    changed = dataclasses.replace(tiny, seeds=(0, 1, 2))
    with pytest.raises(ValueError, match=r"seeds is \[0, 1\] there and \[0, 1, 2\] here"):
        changed.claim_folder()
    assert (tiny.out / "compare.json").read_bytes() == before
    tiny.claim_folder()
    # Each run gets rates and a seed of its own: what the recipe has in their place is no setting of the comparison.
    optimizer = dataclasses.replace(tiny.run.optimizer, lr=0.5, adamw_lr=0.25)
    dataclasses.replace(tiny, run=dataclasses.replace(tiny.run, optimizer=optimizer, seed=9)).claim_folder()
    with pytest.raises(ValueError, match=r"other settings \(its recipe is 'llama-tiny' there and 'resnet-tiny' here\)"):
        dataclasses.replace(tiny, run=RECIPES["resnet-tiny"]()).check_folder()
    (tiny.out / "compare.json").write_text("{")
    with pytest.raises(ValueError, match="not the settings of a comparison"):
        tiny.claim_folder()


def test_a_command_that_failed_before_its_first_run_does_not_keep_the_folder(tiny: CompareConfig) -> None:
    missing = dataclasses.replace(tiny.run, data=dataclasses.replace(tiny.run.data, path="no such text"))
    with pytest.raises(ValueError, match="no such text"):
        compare(dataclasses.replace(tiny, run=missing), command="typed")
    tiny.claim_folder()


def test_stored_rates_of_a_reported_seed_are_refused(done: Done, tmp_path: Path) -> None:
    config = dataclasses.replace(
        done.config,
        out=tmp_path / "out",
        learning_rates="stored",
        tuned_file=str(done.tuned),
        seeds=done.config.tuning_seeds,
        tuning_seeds=(7,),
    )
    with pytest.raises(ValueError, match="no seed in common"):
        compare(config, command="typed")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": (-1,)}, "seed must be"),
        ({"optimizers": ()}, "optimizers must be at least one"),
        ({"optimizers": ("muon", "muon")}, "each given once"),
        ({"baseline": "adamw"}, "baseline must be one of muon, htmuon:power=0.25; got 'adamw'"),
        ({"optimizers": ("moun",)}, "optimizer must be one of .* got 'moun'. Did you mean 'muon'"),
        ({"optimizers": ("htmuon:pwoer=1",)}, "Did you mean 'power'"),
        ({"optimizers": ("htmuon:power",)}, "key=value"),
        ({"seeds": (0, 0)}, "seeds must be at least one, each given once"),
        ({"learning_rates": "tune", "seeds": (100,)}, "no seed in common"),
        ({"jobs": 0}, "jobs must be a whole number of at least 1; got 0"),
        ({"learning_rates": "guess"}, "learning_rates must be one of stored, tune"),
    ],
)
def test_rejects_settings_that_make_no_comparison(
    tiny: CompareConfig, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(tiny, **changes)  # type: ignore[arg-type]


KILLED = """
import sys, time
import torch
from htmuon.cli import main
from htmuon.training.loop import TrainingLoop
torch.set_num_threads(1)
step = TrainingLoop._step
def slowly(self, *args):
    time.sleep(0.05)
    return step(self, *args)
if sys.argv[1] == "slow":
    TrainingLoop._step = slowly
sys.exit(main(sys.argv[2:]))
"""


def test_a_comparison_killed_in_a_run_goes_on_to_the_same_numbers(done: Done, tmp_path: Path) -> None:
    run, out = done.config.run, tmp_path / "out"
    flags = {
        "--data": run.data.path,
        "--data.vocab-size": run.data.vocab_size,
        "--data.sequence-length": run.data.sequence_length,
        "--model.hidden-size": run.model.hidden_size,
        "--model.intermediate-size": run.model.intermediate_size,
        "--model.num-layers": run.model.num_layers,
        "--model.num-heads": run.model.num_heads,
        "--weight-decay": run.optimizer.weight_decay,
        "--steps": run.steps,
        "--batch-size": run.batch_size,
        "--eval-interval": run.eval_interval,
        "--log-interval": run.log_interval,
        "--checkpoint-interval": run.checkpoint_interval,
        "--device": "cpu",
        "--tuned-file": done.tuned,
        "--out": out,
    }
    words = ["compare", "llama-tiny", *(str(word) for pair in flags.items() for word in pair), "--optimizers"]
    words += done.config.optimizers
    slow = subprocess.Popen([sys.executable, "-c", KILLED, "slow", *words], stdout=subprocess.DEVNULL)
    rates = f"lr{done.summaries[1].lr:.6g}-other{done.summaries[1].adamw_lr:.6g}"
    second = out / "runs" / "test" / f"htmuon-power=0.25-{rates}-seed0"
    deadline = time.monotonic() + 60
    while not list(second.glob("checkpoints/step-*")):
        assert slow.poll() is None, "the comparison ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(slow.pid, signal.SIGKILL)
    slow.wait()
    assert not (out / "report.html").exists()
    again = subprocess.run([sys.executable, "-c", KILLED, "fast", *words], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "resumes at step" in again.stdout
    losses = [row["losses"] for row in json.loads((out / "summary.json").read_text())["optimizers"]]
    assert losses == [list(summary.losses) for summary in done.summaries]


def test_a_comparison_grows_by_optimizers_and_its_runs_count(tiny: CompareConfig, no_figures: None) -> None:
    first = list(compare(tiny, command="typed").summaries)
    made = {path: path.stat().st_mtime_ns for path in tiny.out.glob("runs/*/*/result.json")}
    grown = dataclasses.replace(tiny, optimizers=("muon", "htmuon:power=0.25", "htmuon:power=0.5"))
    summaries = list(compare(grown, command="typed").summaries)
    assert [summary.losses for summary in summaries[:2]] == [summary.losses for summary in first]
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert "htmuon-power=0.5" in {path.parent.name.partition("-lr")[0] for path in tiny.out.glob("runs/test/*/*")}
    with pytest.raises(ValueError, match=r"other settings \(optimizers is"):
        tiny.claim_folder()


def test_the_search_for_a_relative_starts_where_the_first_one_ended(tiny: CompareConfig, no_figures: None) -> None:
    compare(tiny, command="typed")
    rates: dict[str, list[float]] = {}
    for path in tiny.out.glob("runs/validation/*"):
        name, _, rest = path.name.partition("-lr")
        rates.setdefault(name, []).append(float(rest.partition("-")[0]))
    [first] = {path.name.partition("-lr")[2].partition("-")[0] for path in tiny.out.glob("runs/test/muon-lr*")}
    # Three points around the start, and at most one beyond them.
    assert float(first) in rates["htmuon-power=0.25"]
    assert {float(first) / 2, float(first) * 2} <= set(rates["htmuon-power=0.25"])


def test_settings_by_kind_are_checked_before_anything_is_trained(tmp_path):
    run = RECIPES["llama-tiny"]()
    specs = ("muon:lr_scale.query+down=2,power.qkv=0.5", "htmuon:rate_rule=alignment")
    assert CompareConfig(run=run, out=tmp_path, optimizers=specs).optimizers == specs
    with pytest.raises(ValueError, match=r"power of 'query' must be a finite number at least -1 and at most 1; got 2"):
        CompareConfig(run=run, out=tmp_path, optimizers=("muon:power.query=2",))
