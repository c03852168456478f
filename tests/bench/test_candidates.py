import pytest
import torch
from matrices import mapped_by_svd, matrix_with, relative_error

from htmuon.bench.candidates import PeerCandidate, SpecCandidate, method_specs
from htmuon.bench.peers import BASELINE
from htmuon.bench.shapes import Shape
from htmuon.spectral import Power

SHAPES = [(12, 12), (20, 9), (9, 20)]


def matrices():
    return [matrix_with(torch.logspace(0, -2, min(shape)), shape).float() for shape in SHAPES]


@pytest.mark.parametrize(
    "spec",
    [
        "htmuon:method=eigh",
        "htmuon:method=svd,normalization=rms,adjust_lr_fn=match_rms_adamw",
        "htmuon:method=eigh,nesterov=false,momentum=0.5",
        "htmuon:method=streaming",
    ],
)
def test_what_is_measured_of_a_spec_is_the_map_alone(spec):
    results = SpecCandidate(spec).mapped(matrices())
    for result, matrix in zip(results, matrices(), strict=True):
        # float32 rounding; streaming is exact up to its first-order correction on a fresh basis.
        assert relative_error(result, mapped_by_svd(matrix, lambda sigma: sigma**0.125)) < 2e-5


def test_every_matrix_is_one_for_the_spectral_side():
    # As a model, the last of them would be its output head.
    matrices = [matrix_with(torch.logspace(0, -1, 6), (6, 9), seed).to(torch.float32) for seed in range(3)]
    candidate = SpecCandidate("htmuon:method=eigh")
    for matrix, mapped in zip(matrices, candidate.mapped(matrices), strict=True):
        assert relative_error(mapped, mapped_by_svd(matrix, lambda sigma: sigma**0.125)) < 1e-4
    (group,) = candidate.optimizer([torch.nn.Parameter(matrix) for matrix in matrices]).param_groups
    assert group["use_muon"]


def test_muon_of_torch_is_measured_as_ours_by_the_same_products():
    theirs = PeerCandidate(BASELINE).mapped(matrices())
    ours = SpecCandidate("muon:method=newton_schulz").mapped(matrices())
    for one, other in zip(theirs, ours, strict=True):
        # Both run in bfloat16, where the order of products in a stack may differ.
        assert relative_error(one, other.double()) < 0.02


def test_only_bare_maps_have_a_function_to_be_measured_against():
    assert SpecCandidate("htmuon:power=0.5").function() == Power(0.5)
    assert SpecCandidate("htmuon:schedule=interval,power=0.125,every=5").function() == Power(0.125)
    assert [SpecCandidate(spec).function() for spec in ("adamw", "htnormuon", "adamuon")] == [None] * 3


def test_methods_that_cannot_compute_the_power_are_left_out_unless_asked_for():
    assert "htmuon:method=newton_schulz" in method_specs(0.125, None)
    assert "htmuon:power=0.3,method=newton_schulz" not in method_specs(0.3, None)
    assert method_specs(0.3, ["newton_schulz"]) == ["htmuon:power=0.3,method=newton_schulz"]


def test_auto_says_what_it_picks():
    cpu = torch.device("cpu")
    assert SpecCandidate("htmuon").picks([Shape(4, 6, 2)], cpu) != ""
    assert SpecCandidate("htmuon:method=eigh").picks([Shape(4, 6)], cpu) == ""
    assert SpecCandidate("adamw").picks([Shape(4, 6)], cpu) == ""
