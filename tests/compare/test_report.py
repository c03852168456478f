import dataclasses
import math
from pathlib import Path

import pytest
from pages import Page
from synthetic_runs import write_run

from htmuon._files import slug
from htmuon.compare.labels import label, styles, update_rule
from htmuon.compare.report.comparison_page import Comparison, write_report
from htmuon.compare.run_record import RunRecord
from htmuon.compare.tuned_rates import TunedOptimizer
from htmuon.reporting.figures import Figure, Panel
from htmuon.training.run_config import RunConfig

SPECS = ("adamw", "muon", "htmuon:power=0.25,normalization=rms")


def comparison(folder: Path, tiny_run: RunConfig) -> Comparison:
    records: dict[str, list[RunRecord]] = {}
    for spec in SPECS:
        for seed in (0, 1):
            path = folder / "runs" / f"{slug(spec)}-{seed}"
            write_run(path, optimizer=spec, seed=seed, final_loss=3.5 - 0.1 * SPECS.index(spec) + 0.01 * seed)
            records.setdefault(spec, []).append(RunRecord(path))
    grid = {0.01: 3.6, 0.02: 3.5, 0.04: math.inf}
    return Comparison(
        run=tiny_run,
        seeds=(0, 1),
        tuned={spec: TunedOptimizer(lr=0.02, adamw_lr=0.004, grid=grid, interior=True) for spec in SPECS},
        tuning_seeds=(100,),
        tuning_command="htmuon compare llama-tiny --learning-rates tune",
        command="htmuon compare llama-tiny <script>",
        records=records,
        baseline="adamw",
        warnings=("something changed",),
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_run: RunConfig) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(comparison(folder, tiny_run), folder)
    return folder


def test_page_is_one_file_without_scripts(built: Path) -> None:
    page = Page()
    page.feed((built / "report.html").read_text())
    assert "script" not in page.tags
    assert page.links == []
    # Four learning curves, sensitivity, cost, 7 layer types of weights and of updates, two estimators.
    assert page.tags.count("svg") == 4 + 1 + 1 + 7 + 7 + 2


def test_page_says_what_was_measured(built: Path) -> None:
    page = Page()
    page.feed((built / "report.html").read_text())
    text = " ".join(page.text.split())
    assert "HTMuon (power=0.25, normalization=rms) reaches the lowest test loss of 3.3050" in text
    for part in ("something changed", "htmuon compare llama-tiny <script>", "3.4050 ± 0.0071", "-0.2000", "torch 2.9"):
        assert part in text
    for heading in ("How the learning rates were chosen", "Learning curves", "Cost per step", "alpha by layer"):
        assert heading in text


def test_figures_are_images(built: Path) -> None:
    names = {path.name for path in (built / "figures").iterdir()}
    assert names == {
        "learning-curves.png",
        "learning-rate-sensitivity.png",
        "cost-per-step.png",
        "spectra-of-weights.png",
        "spectra-of-updates.png",
        "alpha-by-layer.png",
    }
    assert all((built / "figures" / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_the_evolution_of_what_was_recorded(tmp_path: Path, tiny_run: RunConfig) -> None:
    whole = comparison(tmp_path, tiny_run)
    records = {spec: [*runs] for spec, runs in whole.records.items()}
    for spec in SPECS[1:]:
        path = tmp_path / "runs" / f"{slug(spec)}-monitored"
        write_run(path, optimizer=spec, seed=2, final_loss=3.0, exponent=0.5, monitored=True)
        records[spec].append(RunRecord(path))
    curve = records[SPECS[1]][-1].evolution("weights", "alpha_ks")
    assert curve.steps == [0, 50, 100, 150, 200]
    assert curve.values == [7.0, 6.5, 6.0, 5.5, 4.0]  # at the end of the one that was fitted
    assert records[SPECS[1]][-1].evolution("updates", "stable_rank").steps == [50, 100, 150, 200]
    assert records[SPECS[0]][0].evolution("weights", "alpha_ks").steps == []
    write_report(dataclasses.replace(whole, records=records), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "How the tails evolve" in page
    assert page.count("alpha of the weights, median Hill estimator") == 2  # the title, and what a screen reader says
    assert (tmp_path / "figures" / "spectra-over-training.png").stat().st_size > 0


def test_drawing_again_gives_the_same_text() -> None:
    figure = Figure(name="line", title="", caption="", panels=(Panel(title="a < b", draw=lambda ax: ax.plot([1, 2])),))
    assert figure.svgs() == figure.svgs()
    assert 'aria-label="a &lt; b"' in figure.svgs()[0]
    assert "currentColor" in figure.svgs()[0]


def test_a_report_with_a_diverged_optimizer_and_no_spectra_is_written(tmp_path: Path, tiny_run: RunConfig) -> None:
    whole = comparison(tmp_path, tiny_run)
    path = tmp_path / "runs" / "diverged"
    write_run(path, optimizer="muon", seed=0, final_loss=3.0, diverged=True)
    (path / "metrics.jsonl").write_text("")
    for run in whole.records["adamw"]:
        (run.folder / "spectra.safetensors").unlink()
    records = {"adamw": whole.records["adamw"], "muon": [RunRecord(path)]}
    write_report(dataclasses.replace(whole, records=records), tmp_path)
    assert "diverged (1 of 1)" in (tmp_path / "report.html").read_text()


def test_names_and_colors() -> None:
    assert [label(spec) for spec in SPECS] == ["AdamW", "Muon", "HTMuon (power=0.25, normalization=rms)"]
    assert slug(SPECS[2]) == "htmuon-power=0.25-normalization=rms"
    many = tuple(f"muon:momentum=0.{i}" for i in range(8))
    drawn = {(style.color, style.linestyle) for style in styles(many).values()}
    assert len(drawn) == len(many)


def test_an_update_rule_is_one_line() -> None:
    assert "element-wise" in update_rule("adamw")
    assert update_rule(SPECS[2]).endswith("Here with power = 0.25, normalization = rms.")
    assert update_rule("muon") != update_rule("htmuon")
