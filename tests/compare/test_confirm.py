import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from htmuon._files import write_json
from htmuon.cli import main
from htmuon.compare.columns import columns_of
from htmuon.compare.compare_config import CompareConfig
from htmuon.compare.comparing import compare
from htmuon.compare.confirm import confirmation


def searched(tiny: CompareConfig, **changes: Any) -> Path:
    """The folder of a finished search, with only what a confirmation reads."""
    tiny.claim_folder()
    found = {"complete": True, "baseline": "muon", "winner": "htmuon:power=0.25", "tuning_seeds": [100, 7]}
    write_json(tiny.out / "summary.json", {**found, **changes})
    return tiny.out


def test_winner_and_baseline_are_tuned_again_with_fresh_seeds(tiny: CompareConfig, tmp_path: Path) -> None:
    config = confirmation(searched(tiny), tmp_path / "new")
    assert config.optimizers == ("muon", "htmuon:power=0.25")
    assert (config.baseline, config.learning_rates, config.confirms) == ("muon", "tune", str(tiny.out))
    assert len(config.seeds) == 5
    assert len(config.tuning_seeds) == 2
    assert not {0, 1, 7, 100} & {*config.seeds, *config.tuning_seeds}
    assert (config.run, config.grid) == (tiny.run, tiny.grid)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"winner": None}, "none was lower than muon. There is nothing to confirm"),
        ({"complete": False}, "must be finished; give its command again"),
    ],
)
def test_what_cannot_be_confirmed(tiny: CompareConfig, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confirmation(searched(tiny, **changes), tiny.out / "new")


def test_a_comparison_that_was_only_begun_is_not_finished(tiny: CompareConfig) -> None:
    tiny.claim_folder()
    with pytest.raises(ValueError, match="must be finished; give its command again"):
        confirmation(tiny.out, tiny.out / "new")


def test_a_folder_without_a_comparison_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be the folder of a finished comparison.*Give the folder that"):
        confirmation(tmp_path, tmp_path / "new")


def test_other_flags_beside_confirm_are_refused(tiny: CompareConfig, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "llama-tiny", "--confirm", str(searched(tiny))]
    assert main([*words, "--seeds", "3", "--steps", "5"]) == 2
    assert "got seeds, settings of the run beside it" in capsys.readouterr().err


@pytest.mark.usefixtures("no_figures")
def test_a_confirmation_runs_and_says_so(tiny: CompareConfig, tmp_path: Path) -> None:
    run = dataclasses.replace(tiny.run, steps=2, monitor_every=None)
    plain = dataclasses.replace(tiny, run=run, grid=dataclasses.replace(tiny.grid, max_extensions=0))
    folder = searched(plain, tuning_seeds=[100])
    config = confirmation(folder, tmp_path / "new")
    summaries = compare(
        config, command=shlex.join(["htmuon", "compare", "llama-tiny", "--confirm", str(folder)])
    ).summaries
    assert [len(summary.losses) for summary in summaries] == [5, 5]
    written = json.loads((config.out / "summary.json").read_text())
    assert written["confirms"] == str(folder)
    assert written["tuning_seeds"] == list(config.tuning_seeds)
    assert written["verdict"][0].startswith("This comparison, tuned again and with 5 fresh seeds, ")
    assert [len(written[view]) for view in ("equal_steps", "equal_time")] == [4, 4]
    # The name of the loss says by which data it is.
    assert {row["split"] for row in written["optimizers"]} == {"confirmation"}
    assert any("held-back loss of" in sentence for sentence in written["verdict"])
    assert not any("test loss" in sentence for sentence in written["verdict"])
    assert columns_of(summaries)[0].header == "held-back loss"
    page = (config.out / "report.html").read_text()
    for part in ("after equal training time", "weight decay", "tuned again and with 5 fresh seeds"):
        assert part in page
