import torch

from htmuon.analysis.hidden import LastUpdate, hidden_matrices
from htmuon.analysis.spectral_records import run_spectra
from htmuon.baselines.specs import build_optimizer


def make_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Linear(6, 9), torch.nn.Linear(9, 3))


def train_one_step(spec, before=lambda model: None):
    model = make_model()
    optimizer = build_optimizer(spec, model, lr=0.01, adamw_lr=0.01, weight_decay=0.5)
    update = LastUpdate(optimizer, hidden_matrices(model))
    model(torch.randn(40, 6)).square().mean().backward()
    before(model)
    optimizer.step()
    return model, update


def test_an_update_of_muon_has_singular_values_of_one_with_its_scale():
    model, update = train_one_step("muon:method=svd")
    spectra = run_spectra(make_model(), model, update)
    assert sorted(spectra) == sorted(
        f"{kind}/{name}.weight" for kind in ("initial_weights", "weights", "updates") for name in (0, 1)
    )
    # Weights of size 0.4 rounded to 2^-25, divided by lr = 0.01: 3e-6 an entry.
    torch.testing.assert_close(spectra["updates/0.weight"], torch.ones(6), rtol=0, atol=3e-5)
    torch.testing.assert_close(spectra["updates/1.weight"], torch.full((6,), 1.5**0.5), rtol=0, atol=3e-5)
    expected = torch.linalg.svdvals(model[1].weight.detach())
    torch.testing.assert_close(spectra["weights/1.weight"], expected, rtol=1e-5, atol=1e-6)
    expected = torch.linalg.svdvals(make_model()[1].weight.detach())
    torch.testing.assert_close(spectra["initial_weights/1.weight"], expected, rtol=1e-5, atol=1e-6)
    assert all(bool((values.diff() <= 0).all()) and values.dtype == torch.float32 for values in spectra.values())


def test_a_masked_step_has_an_update_of_zero():
    model, update = train_one_step("htmuon", before=lambda model: model[2].bias.grad.fill_(float("nan")))
    assert all(bool((direction == 0).all()) for direction in update.directions().values())
    del model
