"""Runs whose powers are set by rules that look at spectra: broken ones end as those that were not."""

import json

import pytest
import torch

from htmuon.training.train import train


@pytest.mark.parametrize("rule", ["alpha", "nuclear_rank", "schatten"])
@pytest.mark.parametrize("every", [2, 5])  # a checkpoint is at every third step: once before a look, once with one
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, with_optimizer, recorder, rule, every):
    config = with_optimizer(f"muon:power_by={rule},every={every}")
    whole = train(config, tmp_path / "whole")
    for stop in (6, 10):

        def interrupt(step, stop=stop):
            if step == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "broken", recorder(interrupt))
    broken = train(config, tmp_path / "broken")
    for name in ("model.safetensors", "spectra.safetensors"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert broken.powers == whole.powers
    assert len(set(whole.powers.values())) > 1
    assert json.loads((tmp_path / "whole" / "result.json").read_text())["powers"] == whole.powers


def test_a_rule_changes_a_run_by_its_looks_alone(tmp_path, with_optimizer):
    held = train(with_optimizer("muon:power_rule=held"), tmp_path / "held")
    late = train(with_optimizer("muon:power_by=schatten,every=12"), tmp_path / "late")  # after the last step
    assert late.final_loss == held.final_loss
    early = train(with_optimizer("muon:power_by=schatten,every=11"), tmp_path / "early")
    assert early.final_loss != held.final_loss
    assert torch.isfinite(torch.tensor(early.final_loss))
