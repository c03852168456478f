import pytest
import torch
from matrices import relative_error, zoo_matrix
from safetensors.torch import save_file

from htmuon.bench.candidates import SpecCandidate
from htmuon.bench.errors import Oracle, Probe, evenly, measured_sides, recorded_probes, synthetic_probes
from htmuon.bench.shapes import Shape
from htmuon.spectral import Knee, Power

CPU = torch.device("cpu")


def test_synthetic_matrices_have_the_condition_of_their_column():
    (probe,) = synthetic_probes([Shape(12, 20), Shape(20, 12)], torch.float32, CPU)
    assert probe.shape == "12x20"
    for column, (matrix,) in probe.matrices.items():
        sigma = torch.linalg.svdvals(matrix.double())
        # Storing in float32 moves the smallest one by about 1e-7 of the largest.
        assert float(sigma[0] / sigma[-1]) == pytest.approx(float(column), rel=0.2)


def test_matrices_hold_values_of_the_dtype_of_the_parameters():
    (probe,) = synthetic_probes([Shape(8, 8)], torch.bfloat16, CPU)
    for (matrix,) in probe.matrices.values():
        assert matrix.dtype == torch.float32
        assert torch.equal(matrix, matrix.bfloat16().float())


def test_large_matrices_are_stood_for_by_smaller_ones_of_their_proportions():
    assert measured_sides(Shape(2048, 5461)) == (1024, 2730)
    assert measured_sides(Shape(30, 9000)) == (30, 9000)


@pytest.mark.parametrize(
    ("name", "power"),
    # With half the rank, directions that rounding made would weigh as much as others at power 0 and below.
    [
        ("condition 1e4", -0.25),
        ("condition 1e4", 0.0),
        ("condition 1e4", 0.125),
        ("half rank", 0.5),
        ("half rank", 1.0),
    ],
)
def test_a_method_is_judged_by_its_own_power(name, power):
    matrix = zoo_matrix(name, (9, 14)).float()
    candidate = SpecCandidate(f"htmuon:method=svd,power={power}")
    errors = Oracle(Probe("9x14", {"1": [matrix]})).errors(candidate, Power(power))
    assert errors["1"] < 1e-5  # rounding of float32


def test_a_map_that_needs_the_shape_gets_it():
    matrix = zoo_matrix("condition 1e2", (9, 14)).float()
    candidate = SpecCandidate("htmuon:method=svd,spectral_map=knee")
    assert Oracle(Probe("9x14", {"1": [matrix]})).errors(candidate, Knee(0.125))["1"] < 1e-5  # rounding of float32


def test_a_wrong_power_is_an_error():
    matrix = zoo_matrix("condition 1e2", (9, 14)).float()
    oracle = Oracle(Probe("9x14", {"recorded": [matrix, 2 * matrix, 3 * matrix]}))
    errors = oracle.errors(SpecCandidate("htmuon:power=0.5,method=svd"), Power(0.125))
    assert 0.1 < errors["median"] < errors["largest"]


def test_recorded_matrices_are_read_by_shape_without_what_is_no_matrix(tmp_path):
    file = tmp_path / "momentum.safetensors"
    wide = {f"{step}/w": zoo_matrix("one over i", (4, 6), seed=step).float() for step in range(3)}
    useless = {"a": torch.zeros(4, 6), "b": torch.ones(3), "c": torch.full((4, 6), torch.nan)}
    save_file({**wide, **useless, "1/v": torch.eye(5)}, file)
    probes = {probe.shape: probe.matrices["recorded"] for probe in recorded_probes(file, torch.float32, CPU)}
    assert {shape: len(matrices) for shape, matrices in probes.items()} == {"4x6": 3, "5x5": 1}
    assert relative_error(probes["4x6"][0], wide["0/w"].double()) == 0


def test_of_many_matrices_some_are_taken_from_all_over():
    matrices = [torch.full((1, 1), float(i)) for i in range(10)]
    assert [int(m) for m in evenly(matrices, 4.7)] == [0, 3, 6, 9]
    assert len(evenly(matrices, 0.1)) == 1
    assert len(evenly(matrices, 1e9)) == 10


@pytest.mark.parametrize("content", [b"", b"not tensors at all", None])
def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path, content):
    file = tmp_path / "momentum.safetensors"
    save_file({"vector": torch.ones(3)}, file) if content is None else file.write_bytes(content)
    with pytest.raises(ValueError, match=r"momentum must be a .*file"):
        recorded_probes(file, torch.float32, CPU)
