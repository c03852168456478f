from pathlib import Path

import pytest
import torch
from synthetic_runs import write_run

from htmuon.baselines.specs import build_optimizer
from htmuon.cli.arguments import parse
from htmuon.cli.compare import CompareArguments
from htmuon.compare.report.power_figures import families, power_figure
from htmuon.compare.run_record import RunRecord
from htmuon.compare.summary import OptimizerSummary, summarize
from htmuon.compare.sweep import expand, family_of, power_of
from htmuon.recipes import RECIPES


@pytest.mark.parametrize(
    ("optimizers", "powers", "schedules", "expected"),
    [
        (["adamw", "muon"], [], [], ["adamw", "muon"]),
        (["adamw", "muon", "htmuon"], [0, 0.25], [], ["adamw", "muon", "htmuon:power=0.25"]),
        (["htmuon", "muon"], [0, 0.25], [], ["htmuon:power=0.25", "muon"]),
        (
            ["muon:method=newton_schulz", "htmuon", "htnormuon:beta2=0.9"],
            [0.0, -0.125],
            [],
            [
                "muon:method=newton_schulz",
                "htmuon:power=0",
                "htmuon:power=-0.125",
                "htnormuon:beta2=0.9,power=0",
                "htnormuon:beta2=0.9,power=-0.125",
            ],
        ),
        (["htmuon", "htmuon:power=0.5"], [0.5, 0.5], [], ["htmuon:power=0.5"]),
        (
            ["htmuon"],
            [0.125],
            ["interval", "logistic", "interval:every=3,power=0.25", "linear:start=0.25,end=0"],
            [
                "htmuon:power=0.125",
                "htmuon:schedule=interval,every=5",
                "htmuon:schedule=logistic,start=1,end=-0.25,total_steps=200",
                "htmuon:schedule=interval,every=3,power=0.25",
                "htmuon:schedule=linear,total_steps=200,start=0.25,end=0",
            ],
        ),
    ],
)
def test_expansion(optimizers: list[str], powers: list[float], schedules: list[str], expected: list[str]) -> None:
    specs = expand(optimizers, powers, schedules, steps=200)
    assert list(specs) == expected
    for spec in specs:
        build_optimizer(spec, torch.nn.Linear(2, 2), lr=0.1, adamw_lr=0.1, weight_decay=0.0)


@pytest.mark.parametrize(("powers", "schedules"), [([0.25], []), ([], ["interval"])])
def test_a_sweep_needs_a_heavy_tailed_optimizer(powers: list[float], schedules: list[str]) -> None:
    with pytest.raises(ValueError, match=r"that leaves its power open.*got adamw muon\. Add htmuon"):
        expand(["adamw", "muon"], powers, schedules, steps=200)


def test_negative_powers_can_be_typed() -> None:
    recipe = RECIPES["llama-tiny"]()
    words = ["--power", "-0.125", "0", "0.25", "--schedules", "interval", "logistic"]
    given = parse(CompareArguments, recipe, words, prog="htmuon compare", without={"recipe", "optimizer"})
    assert given.power == (-0.125, 0.0, 0.25)
    assert given.schedules == ("interval", "logistic")


def test_families_differ_in_the_power_alone() -> None:
    assert family_of("htmuon:power=0.25") == family_of("muon") == family_of("htmuon:nesterov=true") == "htmuon"
    assert family_of("htnormuon:power=0.5,beta2=0.9") == family_of("normuon:beta2=0.9") == "htnormuon:beta2=0.9"
    assert power_of("htmuon:schedule=interval,every=5") is None
    assert power_of("adamw") is None
    assert power_of("htadamuon") == 0.125


LOSSES = {
    "adamw": 3.9,
    "muon": 3.5,
    "htmuon:power=0.25": 3.6,
    "htmuon:power=-0.125": 3.4,
    "htmuon:normalization=rms": 3.3,
}


@pytest.fixture
def swept(tmp_path: Path) -> list[OptimizerSummary]:
    records = {}
    for place, (spec, loss) in enumerate(LOSSES.items()):
        for seed in (0, 1, 2):
            wiggle = 0.01 * seed + 0.002 * ((place + seed) % 3)
            write_run(tmp_path / f"{place}-{seed}", optimizer=spec, seed=seed, final_loss=loss + wiggle)
        records[spec] = [RunRecord(tmp_path / f"{place}-{seed}") for seed in (0, 1, 2)]
    return summarize(records)


def test_the_figure_has_a_line_for_each_family_and_the_baseline(swept: list[OptimizerSummary]) -> None:
    found = families(swept)
    assert {name: [power for power, _ in members] for name, members in found.items()} == {"htmuon": [-0.125, 0.0, 0.25]}
    figure = power_figure(swept)
    assert [panel.title for panel in figure.panels] == ["Test loss by power", "Test loss minus Muon's"]
    losses, differences = (drawn_lines(panel) for panel in figure.panels)
    assert losses[0] == pytest.approx([summary.loss for summary in (swept[3], swept[1], swept[2])])
    assert differences[0] == pytest.approx([swept[3].difference, swept[2].difference])  # not of the baseline to itself
    page = "".join(figure.svgs())
    assert all(f">{name}</text>" in page for name in ("HTMuon", "Muon", "power p"))
    assert figure.png().startswith(b"\x89PNG")


def drawn_lines(panel: object) -> list[list[float]]:
    from matplotlib.figure import Figure as Canvas

    ax = Canvas().add_subplot()
    panel.draw(ax)  # type: ignore[attr-defined]
    return [list(container.lines[0].get_ydata()) for container in ax.containers]


def test_two_powers_are_no_sweep(swept: list[OptimizerSummary]) -> None:
    assert families(swept[:3]) == {}
