"""The command `htmuon analyze`, from what is typed to what is printed and written."""

import csv
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pages import Page
from rich.console import Console
from safetensors.torch import load_file
from stored_models import heavy, model, write, write_shards

from htmuon.analysis import analyze_matrices
from htmuon.checkpoints import AnalyzeConfig, analyze
from htmuon.checkpoints.alpha_table import layer_table, type_table
from htmuon.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command prints when it succeeds."""
    assert main(["analyze", *map(str, arguments)]) == 0
    out, err = capsys.readouterr()
    assert "error" not in err
    return out


def error(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line of a user's error."""
    assert main(["analyze", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("htmuon: error: ")
    assert err.count("\n") == 1
    return err


def csv_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def cells(out: str, name: str) -> list[str]:
    table, _, _ = out.partition("\n\n")
    (line,) = [line for line in table.splitlines() if line.split()[:1] == [name]]
    return line.split()[1:]


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    return write(tmp_path / "model.safetensors", model())


def test_help_teaches_by_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["analyze", "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for part in (
        "Examples:",
        "htmuon analyze runs/muon --against runs/htmuon",
        "torch.load(weights_only=True)",
        "PATH",
    ):
        assert part in text
    assert main(["--help"]) == 0
    assert "analyze PATH" in capsys.readouterr().out


def test_the_table_has_the_numbers_of_the_analysis(capsys: pytest.CaptureFixture[str], stored: Path) -> None:
    out = run(capsys, stored)
    name = "model.layers.1.mlp.up_proj"
    (expected,) = analyze_matrices({"w": model()[f"{name}.weight"]})
    ks, hill = expected.fits["ks"], expected.fits["hill"]
    assert cells(out, name) == [
        "48x24",
        f"{ks.alpha:.2f}" if ks.ok else ks.status,
        f"{hill.alpha:.2f}",
        f"{ks.ks_distance:.3f}" if ks.ok else "-",
        f"{expected.stable_rank:.1f}",
        str(expected.spikes),
    ]
    assert "6 matrices with 6,528 parameters; 2 vectors and other tensors skipped." in out
    names = [line.split()[0] for line in out.partition("\n\n")[0].splitlines()[1:]]
    layers = [f"model.layers.{i}.{module}" for i in (0, 1) for module in ("mlp.up_proj", "self_attn.q_proj")]
    assert names == ["lm_head", "model.embed_tokens", *layers]


def test_planted_exponents_are_found(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Eigenvalues i^(-2 s) have the density x^-alpha with alpha = 1 + 1 / (2 s)."""
    tensors = {f"s{s}": heavy(300, 200, exponent=s) for s in (0.4, 0.6)}
    out = run(capsys, write(tmp_path / "x.safetensors", tensors), "--estimator", "hill")
    for s in (0.4, 0.6):
        assert float(cells(out, f"s{s}")[1]) == pytest.approx(1 + 1 / (2 * s), rel=0.05)


def test_formats_of_one_model_give_one_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tensors = model()
    write_shards(tmp_path / "shards", tensors)
    write_shards(tmp_path / "plain", tensors, index=False)
    write(tmp_path / "hub" / "model.safetensors", tensors)
    write(tmp_path / "run" / "checkpoints" / "step-00000100" / "model.safetensors", tensors)
    torch.save({"model": tensors, "epoch": 1}, tmp_path / "x.pt")
    outs = [run(capsys, tmp_path / name) for name in ("hub", "shards", "plain", "run")]
    outs.append(run(capsys, tmp_path / "x.pt", "--allow-pickle"))
    tables = [out.partition("\n\n")[0] for out in outs]
    assert set(tables) == {tables[0]}
    assert f"{tmp_path}/shards (2 shards): 6 matrices" in outs[1]
    assert "(the unfinished run's step-00000100)" in outs[3]


def test_a_row_has_a_status_where_there_is_no_number(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    good = heavy(40, 30)
    broken, infinite = good.clone(), good.clone()
    broken[3, 4], infinite[0, 0] = math.nan, math.inf
    tensors = {
        "good": good,
        "broken": broken,
        "inf": infinite,
        "zero": torch.zeros(40, 30),
        "small": torch.randn(5, 30),
        "int8": torch.ones(40, 30, dtype=torch.int8),
        "fp8": torch.ones(40, 30).to(torch.float8_e4m3fn),
        "bias": torch.ones(30),
    }
    file = write(tmp_path / "x.safetensors", tensors)
    out = run(capsys, file, "--csv", tmp_path / "x.csv", "--json", tmp_path / "x.json")
    statuses = {
        "broken": "not_finite",
        "inf": "not_finite",
        "zero": "zero",
        "small": "too_small",
        "int8": "not_floating",
        "fp8": "not_floating",
    }
    for name, status in statuses.items():
        assert cells(out, name)[1:4] == [status, status, "-"]
    kinds = ("not_floating: stored as I8, ", "not_floating: stored as F8_E4M3, ")
    for reason in ("not_finite: ", "zero: ", "too_small: ", *kinds):
        assert out.count(f"\n{reason}") == 1
    counted = re.search(r"alpha \(hill\): .* 1 of 7 matrices fitted, no fit for 6 \((.*)\)", out)
    assert counted is not None
    assert set(counted[1].split(", ")) == {"2 not_finite", "2 not_floating", "1 zero", "1 too_small"}
    rows = {row["name"]: row for row in csv_rows(tmp_path / "x.csv")}
    numbers = {row["name"]: row for row in json.loads((tmp_path / "x.json").read_text())["checkpoints"][0]["matrices"]}
    for name, status in statuses.items():
        assert rows[name]["status"] == numbers[name]["status"] == status
        assert rows[name]["alpha_hill"] == ""
        assert numbers[name]["alpha_hill"] is None
        assert "nan" not in rows[name].values()
    assert float(rows["good"]["alpha_hill"]) == numbers["good"]["alpha_hill"]


def test_a_checkpoint_against_itself_differs_by_nothing(capsys: pytest.CaptureFixture[str], stored: Path) -> None:
    out = run(capsys, stored, "--against", stored, "--estimator", "hill")
    for name in ("lm_head", "model.layers.0.mlp.up_proj"):
        assert cells(out, name)[2] == "+0.00"
    assert "alpha (hill), first minus second: mean +0.00 ± 0.00, median +0.00, over 6 matrices fitted in both" in out


def test_two_checkpoints_side_by_side(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first = write(
        tmp_path / "a.safetensors", {"module.l.0.w": heavy(200, 90, exponent=0.6), "only.here": heavy(30, 30)}
    )
    second = write(tmp_path / "b.safetensors", {"l.0.w": heavy(200, 90, exponent=0.4), "there": heavy(30, 30)})
    out = run(capsys, first, "--against", second, "--estimator", "hill", "--json", tmp_path / "x.json")
    here, there, difference = map(float, cells(out, "l.0.w"))
    assert difference == pytest.approx(here - there, abs=0.011)
    assert difference < -0.2
    assert cells(out, "only.here")[1:] == cells(out, "there")[::2] == ["-", "-"]
    assert "(names compared without 'module.')" in out
    assert "lower (heavier tail) in the first for 1." in out
    stored = json.loads((tmp_path / "x.json").read_text())
    assert list(stored["differences"]) == ["l.0.w"]
    assert stored["alpha_differences"]["hill"] == [stored["differences"]["l.0.w"]["hill"]]
    assert stored["command"] == f"htmuon analyze {first} --against {second} --estimator hill --json {tmp_path}/x.json"


def test_patterns_choose(capsys: pytest.CaptureFixture[str], stored: Path) -> None:
    out = run(capsys, stored, "--include", "*.layers.*", "--exclude", "*q_proj*", "--estimator", "hill")
    assert "2 matrices with" in out
    assert "4 matrices left out by patterns" in out
    assert "q_proj" not in out


def test_p_values_and_other_laws_come_on_request(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = write(tmp_path / "x.safetensors", {"noise": torch.randn(200, 200)})
    words = [
        file,
        "--estimator",
        "hill",
        "--p-value",
        "20",
        "--alternatives",
        "--randomized",
        "--csv",
        tmp_path / "x.csv",
    ]
    out = run(capsys, *words)
    assert "p-values (hill): a power law is ruled out (p < 0.1, 20 synthetic spectra) for 1 of 1 fits." in out
    assert "Other laws (hill), of 1 tails: 1 is better described by a" in out
    assert "With permuted entries the mean stable rank is" in out
    (row,) = csv_rows(tmp_path / "x.csv")
    assert float(row["p_value_hill"]) < 0.1
    assert float(row["truncated_power_law_ratio_hill"]) < 0
    assert float(row["stable_rank_randomized"]) == pytest.approx(float(row["stable_rank"]), rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "PATH"),
        (["/nowhere/x"], "/nowhere/x must be a file or folder with a checkpoint; there is none."),
        (["."], "must hold safetensors files or pytorch_model.bin; it has none."),
        (["good.safetensors", "--estimator", "pareto"], "--estimator"),
        (
            ["good.safetensors", "--include", "q_proj"],
            "--include pattern 'q_proj' matches no matrix of good.safetensors",
        ),
        (["good.safetensors", "--exclude", "*"], "must leave a matrix"),
        (["good.safetensors", "--p-value", "-1"], "positive, or 0 for none; got -1"),
        (["good.safetensors", "--device", "tpu"], "device must be auto, cpu, cuda or cuda:<index>; got 'tpu'"),
        (["good.safetensors", "--against", "other.safetensors"], "none in common"),
        (["good.safetensors", "--jsn", "x"], "Perhaps you meant --json?"),
        (["vectors.safetensors"], "of its 2 none is one"),
        (["int8.safetensors"], "its 1 matrices are stored as I8. Dequantize it"),
        (["cut.safetensors"], "damaged or cut short"),
        (["x.pt"], "Add --allow-pickle"),
        (["huge.pt", "--allow-pickle"], "w of shape 10000000x10000000 must fit in memory"),
        (["meta.pt", "--allow-pickle"], "its 1 matrices are stored as meta."),
        (["x.gguf"], "a checkpoint must be a file that ends in"),
        (["good.safetensors", "--csv", "good.safetensors/x.csv"], "good.safetensors"),
    ],
)
def test_user_errors_are_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if arguments != ["."]:
        good = write(tmp_path / "good.safetensors", {"w": heavy(30, 20)})
        write(tmp_path / "other.safetensors", {"v": heavy(30, 20)})
        write(tmp_path / "vectors.safetensors", {"a": torch.ones(3), "b": torch.ones(())})
        write(tmp_path / "int8.safetensors", {"w": torch.ones(30, 20, dtype=torch.int8)})
        (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:-100])
        (tmp_path / "x.gguf").write_bytes(b"GGUF")
        torch.save({"w": heavy(30, 20)}, tmp_path / "x.pt")
        torch.save({"w": torch.ones(1).expand(10**7, 10**7)}, tmp_path / "huge.pt")
        torch.save({"w": torch.ones(30, 20, device="meta")}, tmp_path / "meta.pt")
    assert message in error(capsys, *arguments)


def page(folder: Path) -> Page:
    read = Page()
    read.feed((folder / "report.html").read_text(encoding="utf-8"))
    assert "script" not in read.tags
    assert read.links == []
    return read


def test_the_page_is_one_file_with_the_figures_inside(capsys: pytest.CaptureFixture[str], stored: Path) -> None:
    out = stored.parent / "out"
    printed = run(capsys, stored, "--out", out)
    assert printed.endswith(f"written: {out}/report.html\n")
    read = page(out)
    # Alpha by depth and by type for two estimators, and six spectra.
    assert read.tags.count("svg") == 2 + 2 + 6
    assert "block 1: alpha" in (out / "report.html").read_text()
    assert "6 matrices with 6,528 parameters" in read.text
    assert sorted(file.name for file in out.iterdir()) == ["analysis.csv", "analysis.json", "figures", "report.html"]
    names = ["alpha-by-depth", "alpha-by-module-type"]
    kinds = ("mlp.up_proj", "self_attn.q_proj", "head", "embedding")
    names += [f"spectra-{number:02}-{kind}" for number, kind in enumerate(kinds)]
    assert sorted(file.name for file in (out / "figures").iterdir()) == [f"{name}.png" for name in names]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in (out / "figures").iterdir())


@pytest.mark.slow
def test_names_from_a_file_are_only_text(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    names = ["<script>alert(1)</script>.0.w", "[red]bold[/red].0.w", "$\\frac{$.0.w", "\x1b[31m.0.w", "a/../../b"]
    file = write(tmp_path / "x.safetensors", {name: heavy(24, 20) for name in names})
    out = run(capsys, file, "--against", file, "--out", tmp_path / "out", "--plots", tmp_path / "plots")
    assert "\x1b" not in out
    assert "[red]bold[/red].0.w" in out
    assert "<script>alert(1)</script>" in page(tmp_path / "out").text
    assert {path.parent for path in (tmp_path / "plots").rglob("*.png")} == {tmp_path / "plots"}


def test_a_page_without_a_single_fit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = write(tmp_path / "x.safetensors", {"zero": torch.zeros(20, 20), "small": torch.randn(3, 4)})
    out = run(capsys, file, "--out", tmp_path / "out")
    assert "alpha (ks): none of 2 matrices could be fitted (1 too_small, 1 zero)." in out
    assert page(tmp_path / "out").tags.count("svg") == 1


def test_the_tables_fit_80_columns(tmp_path: Path) -> None:
    names = [f"model.layers.{i}.post_attention.feed_forward.experts.{i}.down_projection.weight" for i in (3, 30)]
    tensors = {name: torch.randn(12, 11) for name in names} | {"zero": torch.zeros(11008, 11)}
    file = write(tmp_path / "x.safetensors", tensors)
    for more in ({}, {"against": file}, {"samples": 2, "alternatives": True}):
        analysis = analyze(AnalyzeConfig(path=file, **more))
        with (console := Console(width=80, file=sys.stderr)).capture() as captured:
            console.print(layer_table(analysis))
            console.print(type_table(analysis))
        lines = captured.get().splitlines()
        assert max(map(len, lines)) <= 80
        assert any("11008x11" in line for line in lines) or analysis.compared
        assert "zero" in captured.get()


@pytest.mark.slow
def test_a_missing_library_names_the_extra(tmp_path: Path) -> None:
    file = write(tmp_path / "x.safetensors", {"w": heavy(20, 20)})
    for missing, more in (("safetensors", []), ("matplotlib", ["--out", str(tmp_path / "out")])):
        code = f"import sys; sys.modules[{missing!r}] = None; from htmuon.cli import main; sys.exit(main(sys.argv[1:]))"
        words = [sys.executable, "-c", code, "analyze", str(file), *more]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert f'needs {missing}, which is not installed: pip install "htmuon[train]"' in done.stderr
        assert done.stdout == ""


def test_low_rank_has_no_noise_to_draw(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pruned = heavy(60, 40)
    pruned[:45] = 0.0
    low = write(tmp_path / "low.safetensors", {"low": heavy(60, 10) @ heavy(10, 40), "pruned": pruned})
    out = tmp_path / "page"
    run(capsys, low, "--out", out, "--plots", tmp_path / "plots", "--csv", tmp_path / "low.csv")
    assert (out / "report.html").exists()
    assert [row["marchenko_pastur_edge"] for row in csv_rows(tmp_path / "low.csv")] == ["0.0", "0.0"]


def test_numbers_are_written_even_if_a_figure_fails(
    capsys: pytest.CaptureFixture[str], stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> None:
        raise ValueError("no ink")

    monkeypatch.setattr("htmuon.checkpoints.checkpoint_page.build_figures", fails)
    assert main(["analyze", str(stored), "--out", str(tmp_path / "page"), "--csv", str(tmp_path / "x.csv")]) == 2
    assert "no ink" in capsys.readouterr().err
    assert len(csv_rows(tmp_path / "x.csv")) == 6
    assert len(json.loads((tmp_path / "page" / "analysis.json").read_text())["checkpoints"][0]["matrices"]) == 6


def test_equal_eigenvalues_do_not_stop_a_comparison_with_other_laws(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tied = torch.diag(torch.arange(1.0, 22.0).repeat_interleave(3))
    stored = write(tmp_path / "tied.safetensors", {"tied": tied, "heavy": heavy(60, 40)})
    assert "Other laws (hill), of 2 tails:" in run(capsys, stored, "--alternatives")


def test_matrices_of_other_shapes_are_not_compared(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first = write(tmp_path / "a.safetensors", {"w": heavy(64, 32), "v": heavy(40, 30)})
    second = write(tmp_path / "b.safetensors", {"w": heavy(32, 64), "v": heavy(40, 30, 1)})
    out = run(capsys, first, "--against", second)
    assert cells(out, "w")[2] == "shapes"
    assert "over 1 matrix fitted in both" in out


def test_module_types_that_differ_in_punctuation_have_figures_of_their_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    stored = write(tmp_path / "x.safetensors", {"block.0.a/b": heavy(40, 30), "block.0.a:b": heavy(40, 30, 1)})
    run(capsys, stored, "--plots", tmp_path / "plots")
    assert len(list((tmp_path / "plots").glob("spectra-*.png"))) == 2


def test_each_estimator_once(capsys: pytest.CaptureFixture[str], stored: Path) -> None:
    assert "every estimator is to be given once; got ks ks" in error(capsys, stored, "--estimator", "ks", "ks")


def test_permuted_copies_and_hidden_matrices_have_numbers_of_their_own(
    capsys: pytest.CaptureFixture[str], stored: Path, tmp_path: Path
) -> None:
    run(capsys, stored, "--randomized", "--csv", tmp_path / "x.csv", "--json", tmp_path / "x.json")
    for row in csv_rows(tmp_path / "x.csv"):
        (alone,) = analyze_matrices({"w": load_file(stored)[row["name"]]}, randomized=True)
        assert alone.randomized is not None
        assert (row["spikes"], row["spikes_randomized"]) == (str(alone.spikes), str(alone.randomized.spikes))
    checkpoint = json.loads((tmp_path / "x.json").read_text())["checkpoints"][0]
    assert (checkpoint["all"]["matrices"], checkpoint["hidden"]["matrices"]) == (6, 4)  # without embedding and head
