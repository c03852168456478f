import json
import math

import pytest
import torch
from safetensors.torch import save_file

from htmuon.bench import BenchConfig, BenchResult, bench, candidates
from htmuon.bench import measure as run
from htmuon.bench.bench_table import below, heads, rows, title
from htmuon.bench.peers import BASELINE, Peer
from htmuon.bench.timing import side_by_side
from htmuon.reporting.tables import plain_table, rich_table

TINY = {"shapes": ("12x8*3", "8x8"), "rounds": 2, "device": "cpu"}


def broken(parameters, rates):
    raise RuntimeError("needs a machine\nthat nobody has")


def chatty(parameters, rates):
    print("auto-tuning")
    torch.set_float32_matmul_precision("medium")
    return BASELINE.make(parameters, rates)


@pytest.fixture
def some_peers(monkeypatch):
    peers = (
        Peer("broken.Muon", "torch", broken),
        Peer("chatty.Muon", "torch", chatty),
        Peer("absent.Muon", "a-package-that-is-not-there", broken),
    )
    monkeypatch.setattr(candidates, "PEERS", peers)
    monkeypatch.setattr(run, "PEERS", peers)


@pytest.mark.usefixtures("some_peers")
def test_every_method_is_measured_beside_the_peers(capsys):
    result = bench(BenchConfig(**TINY))
    names = [measured.name for measured in result.measured]
    assert names[0] == "torch.optim.Muon"
    assert {"muon:method=newton_schulz", "htmuon:method=auto", "htmuon:method=eigh", "htmuon:method=svd"} <= set(names)
    assert names[-1] == "chatty.Muon"
    assert result.failed == {"broken.Muon": "RuntimeError: needs a machine"}
    assert result.missing == ["a-package-that-is-not-there"]
    assert capsys.readouterr().out == ""
    assert torch.get_float32_matmul_precision() == "highest"
    assert result.measured[0].ratio == 1.0
    for measured in result.measured:
        assert len(measured.seconds) == 2
        assert set(measured.errors) == {"12x8", "8x8"}
        assert all(math.isfinite(error) for errors in measured.errors.values() for error in errors.values())
    svd = result.measured[names.index("htmuon:method=svd")]
    assert svd.worst("1e+06") < 1e-5
    text = "\n".join([title(result), plain_table(heads(result), rows(result)), *below(result)])
    for part in ("htmuon:method=svd", "broken.Muon failed: RuntimeError: needs a machine", "Not installed: a-package"):
        assert part in text
    assert rich_table(heads(result), rows(result)).row_count == len(names)


def test_results_survive_json():
    result = bench(BenchConfig(**TINY, methods=("eigh",), peers=False))
    assert BenchResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_specs_take_the_place_of_the_methods_and_other_rules_are_timed_only():
    specs = ("htmuon:power=0.5,method=eigh", "adamw", "htnormuon")
    result = bench(BenchConfig(**TINY, candidates=specs, peers=False))
    assert [measured.name for measured in result.measured] == ["torch.optim.Muon", *specs]
    assert [bool(measured.errors) for measured in result.measured] == [True, True, False, False]
    assert " -  " in plain_table(heads(result), rows(result))


def test_errors_on_recorded_matrices(tmp_path):
    file = tmp_path / "momentum.safetensors"
    save_file({f"{i}/w": torch.randn(6, 9) for i in range(4)}, file)
    result = bench(BenchConfig(**TINY, methods=("eigh",), peers=False, momentum=file, dtype="bfloat16"))
    assert result.columns == ["median", "largest"]
    assert result.measured[1].errors.keys() == {"6x9"}
    assert result.measured[1].worst("largest") < 1e-5
    assert any("4 of 6x9" in note for note in result.notes)


def test_part_of_a_model_is_said_to_be_one():
    result = bench(BenchConfig(model="llama-tiny", layers=1, methods=("eigh",), peers=False, rounds=1, device="cpu"))
    assert result.shapes == ["128x128*4", "352x128*2", "128x352"]
    assert "Times and ratios are of 1 of the 6 layers of llama-tiny." in result.notes


def test_what_cannot_fit_is_refused_before_it_is_tried():
    with pytest.raises(ValueError, match=r"must fit into memory; they take \d+ GB of \d+ GB. Bench fewer layers"):
        bench(BenchConfig(shapes=("100000x100000*1000",), methods=("eigh",), peers=False, device="cpu"))


def test_slow_candidates_sit_out_after_their_time():
    calls = {"slow": 0, "fast": 0}

    def count(name):
        calls[name] += 1

    runs = {name: lambda name=name: count(name) for name in calls}
    seconds = side_by_side(runs, 5, device=torch.device("cpu"), warm_up=False, most_seconds=0.0)
    assert {name: len(values) for name, values in seconds.items()} == calls == {"slow": 1, "fast": 1}
    side_by_side(runs, 5, device=torch.device("cpu"))
    assert calls == {"slow": 7, "fast": 7}
