"""Everything about many matrices at once: names, order, stacks, statuses, and the randomized copy."""

import math

import pytest
import torch
from kernels.products import needs_gpu
from torch import Tensor

from htmuon.analysis import MatrixAnalysis, analyze_matrices, eigenvalues, fit_power_law, singular_values, stable_rank


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def one(matrix: Tensor, **options: bool) -> MatrixAnalysis:
    [result] = analyze_matrices({"w": matrix}, **options)  # type: ignore[arg-type]
    return result


def test_results_come_in_order_one_for_each_matrix_of_a_batch() -> None:
    matrices = {"a": random(20, 30), "experts": random(2, 15, 12, seed=1), "b": random(20, 30, seed=2)}
    results = analyze_matrices(matrices | {"grid": random(1, 2, 11, 11, seed=3)})
    assert [r.name for r in results] == ["a", "experts[0]", "experts[1]", "b", "grid[0, 0]", "grid[0, 1]"]
    assert [r.shape for r in results] == [(20, 30), (15, 12), (15, 12), (20, 30), (11, 11), (11, 11)]
    torch.testing.assert_close(results[3].eigenvalues, eigenvalues(matrices["b"]))
    torch.testing.assert_close(results[2].eigenvalues, eigenvalues(matrices["experts"][1]))


def test_numbers_are_those_of_their_definitions() -> None:
    matrix = random(50, 40) * torch.logspace(0, -2, 40)
    result = one(matrix)
    sigma = torch.linalg.svdvals(matrix.double())
    share = sigma.square() / sigma.square().sum()
    assert result.stable_rank == pytest.approx(float(stable_rank(sigma)), rel=1e-5)
    assert result.spectral_entropy == pytest.approx(float(-(share * share.log()).sum() / math.log(40)), rel=1e-5)
    assert result.frobenius_norm == pytest.approx(float(matrix.norm()), rel=1e-5)
    assert result.spectral_norm == pytest.approx(float(sigma[0]), rel=1e-5)
    for estimator, fit in result.fits.items():
        assert fit.estimator == estimator
        assert fit.alpha == pytest.approx(fit_power_law(eigenvalues(matrix), estimator=estimator).alpha)
    assert result.alpha_weighted == pytest.approx(result.fits["ks"].alpha * math.log10(float(sigma[0]) ** 2), rel=1e-5)
    assert result.spikes == int((sigma.square() > result.marchenko_pastur_edge).sum())


def test_stacks_do_not_change_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = {str(i): random(24, 18, seed=i) for i in range(5)}
    stacked = analyze_matrices(matrices)
    monkeypatch.setattr("htmuon.analysis.matrix_analysis._STACK_ELEMENTS", 2 * 24 * 18)
    for whole, part in zip(stacked, analyze_matrices(matrices), strict=True):
        assert whole.name == part.name
        torch.testing.assert_close(whole.sigma, part.sigma)
        assert whole.fits["hill"].alpha == pytest.approx(part.fits["hill"].alpha)


@pytest.mark.parametrize(
    ("matrix", "status", "has_norm"),
    [
        (torch.zeros(30, 20), "zero", True),
        (torch.zeros(0, 20), "zero", True),
        (random(30, 5), "too_small", True),
        (random(30, 20).index_fill(0, torch.tensor([3]), math.nan), "not_finite", False),
        (random(30, 20).index_fill(0, torch.tensor([3]), math.inf), "not_finite", False),
    ],
)
def test_what_has_no_spectrum_says_why(matrix: Tensor, status: str, has_norm: bool) -> None:
    good, bad = analyze_matrices({"good": random(*matrix.shape) if matrix.numel() else random(9, 9), "bad": matrix})
    assert bad.status == status
    assert bad.message
    assert math.isnan(bad.frobenius_norm) == (not has_norm)
    numbers = [bad.alpha_weighted, bad.marchenko_pastur_edge]
    numbers += [fit.alpha for fit in bad.fits.values()]
    assert all(math.isnan(number) for number in numbers)
    assert bad.spikes is None
    assert good.stable_rank > 1


def test_one_estimator_can_be_left_out() -> None:
    [result] = analyze_matrices({"w": random(30, 20)}, estimators=("hill",))
    assert list(result.fits) == ["hill"]
    assert math.isnan(result.alpha_weighted)


def test_the_randomized_copy_keeps_the_entries_and_loses_the_structure() -> None:
    spiked = random(100, 80) + 3 * torch.outer(random(100, seed=1), random(80, seed=2))
    before = torch.get_rng_state()
    result = one(spiked, randomized=True)
    assert torch.equal(torch.get_rng_state(), before)
    copy = result.randomized
    assert copy is not None
    assert copy.randomized is None
    assert copy.frobenius_norm == pytest.approx(result.frobenius_norm, rel=1e-5)
    assert copy.spectral_norm < 0.5 * result.spectral_norm
    assert result.spikes >= 1
    again = one(spiked, randomized=True).randomized
    assert again is not None
    assert torch.equal(again.sigma, copy.sigma)
    assert one(spiked).randomized is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_floating_dtype(dtype: torch.dtype) -> None:
    matrix = random(40, 30).to(dtype)
    result = one(matrix)
    assert result.status == "ok"
    assert result.fits["hill"].alpha == pytest.approx(one(matrix.float()).fits["hill"].alpha, rel=1e-4)


def test_rejects_a_vector() -> None:
    with pytest.raises(ValueError, match=r"at least two dims \[\*batch, m, n\]; got shape \(3,\) for 'bias'"):
        analyze_matrices({"bias": torch.ones(3)})


NOT_MATRICES = {
    "complex": (random(20, 20).to(torch.complex64), TypeError, "real floating-point numbers; got torch.complex64"),
    "int": (torch.ones(20, 20, dtype=torch.int8), TypeError, "got torch.int8.*dequantize"),
    "bool": (torch.ones(20, 20, dtype=torch.bool), TypeError, "got torch.bool"),
    "meta": (torch.empty(20, 20, device="meta"), ValueError, "dense and have numbers; got meta"),
    "sparse": (torch.eye(20).to_sparse(), ValueError, "dense and have numbers; got torch.sparse_coo"),
}


@pytest.mark.parametrize("kind", NOT_MATRICES)
def test_what_is_no_real_matrix_is_refused_by_what_it_is(kind: str) -> None:
    tensor, error, message = NOT_MATRICES[kind]
    for measure in (lambda: analyze_matrices({"w": tensor}), lambda: singular_values(tensor)):
        with pytest.raises(error, match=message):
            measure()


def test_a_sharded_tensor_is_no_whole_matrix() -> None:
    tensor = random(20, 20)
    tensor.placements = ("Shard(0)",)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="must be whole; got a DTensor for 'w'"):
        analyze_matrices({"w": tensor})


def test_complex_eigenvalues_are_refused() -> None:
    with pytest.raises(TypeError, match="eigenvalues must be real"):
        fit_power_law(torch.ones(20, dtype=torch.complex64))


@pytest.mark.parametrize("huge", [random(20, 20) * 1e38, random(20, 20).double() * 1e200])
def test_entries_whose_squares_are_not_finite_give_no_number(huge: Tensor) -> None:
    result = one(huge)
    assert result.status == "not_finite"
    assert "so large that their squares are not" in result.message
    assert {fit.status for fit in result.fits.values()} == {"not_finite"}
    numbers = [result.frobenius_norm, result.spectral_norm, result.stable_rank, result.spectral_entropy]
    assert all(math.isnan(number) for number in numbers)


def test_fits_of_few_eigenvalues_survive_a_tie() -> None:
    """Of 20 eigenvalues the upper half is ten; that two of them are equal up to rounding leaves nine different."""
    sigma = torch.linspace(1, 2, 20)
    sigma[-2:] = 2.0
    matrix = torch.diag(sigma).bfloat16()
    assert one(matrix).fits["hill"].ok


@pytest.mark.gpu
@needs_gpu
def test_the_same_on_a_gpu() -> None:
    matrices = {str(i): random(120, 90, seed=i) * torch.logspace(0, -1, 90) for i in range(4)}
    on_cpu = analyze_matrices(matrices)
    on_gpu = analyze_matrices({name: matrix.cuda() for name, matrix in matrices.items()})
    for expected, result in zip(on_cpu, on_gpu, strict=True):
        assert result.sigma.device.type == "cpu"
        torch.testing.assert_close(result.sigma, expected.sigma, rtol=1e-5, atol=0)
        for estimator, fit in result.fits.items():
            assert fit.alpha == pytest.approx(expected.fits[estimator].alpha, rel=1e-4)
            assert fit.tail_size == expected.fits[estimator].tail_size
        assert result.spikes == expected.spikes
