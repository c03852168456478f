"""What `streaming` carries from step to step, against a float64 SVD of every step."""

from itertools import pairwise

import pytest
import torch
from matrices import SPECTRA, mapped_by_svd, matrix_with, relative_error, zoo_matrix

from htmuon.linalg import METHODS, streaming
from htmuon.spectral import Function, Power, RankPower

METHOD = METHODS["streaming"]
ORIENTATIONS = pytest.mark.parametrize("shape", [(40, 24), (24, 40), (24, 24), (2, 3, 12, 7)], ids=str)


def cold(shape, dtype=torch.float32):
    return {name: torch.zeros(size, dtype=dtype) for name, size in METHOD.state_shapes(shape).items()}


def exact(matrix, power):
    return mapped_by_svd(matrix, lambda sigma: (sigma / sigma.amax(-1, keepdim=True)) ** power)


def run(matrices, power):
    """Mapped matrices of a sequence from a cold start, and the last state."""
    state, results = cold(matrices[0].shape), []
    for matrix in matrices:
        mapped, state = METHOD.advance(matrix, Power(power), state)
        results.append(mapped.matrix)
    return results, state


def orthogonality_error(basis):
    return (basis.mT @ basis - torch.eye(basis.shape[-1], dtype=basis.dtype)).abs().max()


def right_vectors(matrix):
    """The exact basis, largest direction first."""
    return torch.linalg.svd(matrix, full_matrices=False).Vh.mT


def turned(basis, angle):
    """A basis in which no direction is off by more than an angle."""
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(basis.shape, generator=generator, dtype=basis.dtype)
    generators = square - square.mT
    return basis @ torch.linalg.matrix_exp(angle * generators / torch.linalg.matrix_norm(generators, ord=2))


def with_gram(square):
    """A matrix M with `M^T M = square`, so that the identity is a basis in which `square` is what is not diagonal."""
    return torch.linalg.cholesky(torch.tensor(square, dtype=torch.float64)).mT


def with_and_without_correction(columns, function, degree=0.0):
    """`M phi(D + E)` to first order, and `M phi(D)`, for a basis that is the identity, times `sigma_1^degree`."""
    mapped = streaming.mapped_in(torch.eye(columns.shape[-1], dtype=columns.dtype), columns, function)
    sigma = streaming.column_lengths(columns)
    largest = sigma.amax() ** degree
    return mapped.matrix * largest, columns * function(sigma / sigma.amax()) / sigma * largest


def momenta(shape, steps, seed=0):
    """Nesterov directions of momentum 0.95 over a fixed rank-4 signal in noise, as an optimizer would map them."""
    generator = torch.Generator().manual_seed(seed)
    signal = matrix_with(torch.tensor([4.0, 2.0, 1.0, 0.5]), (shape[0], 4)) @ torch.randn(
        4, shape[1], generator=generator, dtype=torch.float64
    )
    momentum = torch.zeros(shape, dtype=torch.float64)
    directions = []
    for _ in range(steps):
        gradient = signal + torch.randn(shape, generator=generator, dtype=torch.float64)
        momentum = momentum.lerp(gradient, 0.05)
        directions.append(gradient.lerp(momentum, 0.95).to(torch.float32))
    return directions


@ORIENTATIONS
def test_the_basis_is_that_of_the_short_side(shape):
    assert METHOD.state_shapes(shape) == {"right_basis": (*shape[:-2], min(shape[-2:]), min(shape[-2:]))}
    _, state = run([zoo_matrix("one over i", shape).to(torch.float32)], 0.0)
    assert state["right_basis"].shape == METHOD.state_shapes(shape)["right_basis"]


@ORIENTATIONS
@pytest.mark.parametrize("power", [-0.25, 0.0, 0.125, 0.5])
def test_on_a_fixed_matrix_the_error_falls_to_rounding(shape, power):
    matrix = zoo_matrix("condition 1e2", shape).to(torch.float32)
    results, _ = run([matrix] * 40, power)
    errors = [relative_error(result, exact(matrix, power)) for result in results]
    assert errors[3] < errors[1] < errors[0]
    # A step has two power iterations: neighbours at a ratio of 0.8 are told apart by 0.8^4 = 0.4 better after each.
    # The rounding is eps times the condition.
    assert errors[-1] < 1e-4


@pytest.mark.parametrize("function", [RankPower(0.5), Function(lambda x: x / (x + 0.05))], ids=["rank", "soft sign"])
def test_it_learns_every_function(function):
    matrix = zoo_matrix("condition 1e2", (30, 20)).to(torch.float32)
    state = cold(matrix.shape)
    for _ in range(40):
        mapped, state = METHOD.advance(matrix, function, state)
    expected = mapped_by_svd(matrix, lambda sigma: function(sigma / sigma.max()))
    assert relative_error(mapped.matrix, expected) < 1e-4
    assert mapped.rank.item() == 20


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_advancing_from_the_exact_basis_is_the_call(spectrum):
    matrix = zoo_matrix(spectrum, (30, 20)).to(torch.float32)
    _, _, vh = torch.linalg.svd(matrix.to(torch.float64), full_matrices=False)
    mapped, _ = METHOD.advance(matrix, Power(0.5), {"right_basis": vh.mT.to(torch.float32)})
    called = METHOD(matrix, Power(0.5))
    # Directions at the rounding of float32 weigh up to 1e-3.5 at p = 0.5 and are found by chance.
    torch.testing.assert_close(mapped.matrix, called.matrix, rtol=0, atol=1e-3)
    assert torch.equal(called.rank, mapped.rank)


def test_a_step_tells_two_directions_apart_by_the_fourth_power_of_their_ratio():
    # Two power iterations, and each takes sin and cos of the angle times sigma^2: exact, so rounding is all the error.
    ratio, angle = 0.8, torch.tensor(0.3, dtype=torch.float64)
    basis = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    matrix = torch.diag(torch.tensor([1.0, ratio], dtype=torch.float64))
    _, state = METHOD.advance(matrix, Power(0.0), {"right_basis": basis})
    after = state["right_basis"]
    torch.testing.assert_close(after[1, 0] / after[0, 0], ratio**4 * angle.tan(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("power", [-0.25, 0.0, 0.125, 0.5])
def test_a_basis_in_the_wrong_order_is_as_good_as_one_in_the_right_order(power):
    # As when the large directions have shrunk below the small ones. Power iteration would have to turn every direction
    # into the one that takes its place, through all that lie between them: a few per cent are still missing after five
    # iterations. Sorted, only the angle of 0.03 is left, which enters squared, and less in every iteration.
    matrix = zoo_matrix("one over i", (20, 12))
    basis = turned(right_vectors(matrix).flip(-1), 0.03)
    mapped, _ = METHOD.advance(matrix, Power(power), {"right_basis": basis})
    assert relative_error(mapped.matrix, exact(matrix, power)) < 0.03**2


@pytest.mark.parametrize(
    "function",
    [*map(Power, (-0.25, 0.0, 0.125, 0.5)), Function(lambda x: x / (x + 0.05))],
    ids=["-1/4", "0", "1/8", "1/2", "soft sign"],
)
@pytest.mark.parametrize("spectrum", ["condition 1e2", "one over i", "two clusters"])
def test_the_map_errs_by_the_square_of_the_angle(spectrum, function):
    matrix = zoo_matrix(spectrum, (20, 12))
    expected = mapped_by_svd(matrix, lambda sigma: function(sigma / sigma.amax()))
    basis = right_vectors(matrix)
    one, half = (
        relative_error(streaming.mapped_in(turned(basis, angle), matrix, function).matrix, expected)
        for angle in (1e-3, 5e-4)
    )
    # The third order is smaller by the angle times the condition, 1e-3 * 100 / 4 and less.
    assert one / half == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("power", [-0.25, 0.0, 0.125, 0.5])
def test_directions_as_far_apart_as_they_are_entangled_are_corrected(power):
    # The gap d_1 - d_2 is e: the correction is e / (e^2 + e^2)^(1/2) = 0.71 of the first-order one and leaves 0.29 of
    # the error, but for the second order, smaller by e.
    columns = with_gram([[1.0, 0.01], [0.01, 0.99]])
    expected = mapped_by_svd(columns, lambda sigma: sigma**power)
    corrected, uncorrected = with_and_without_correction(columns, Power(power), degree=power)
    assert relative_error(corrected, expected) < 0.31 * relative_error(uncorrected, expected)


@pytest.mark.parametrize("apart", [1e-12, 1e-6, 1e-3, 1e-1])
@pytest.mark.parametrize("entangled", [1e-3, 1e-2, 1e-1])
def test_where_the_function_jumps_a_correction_does_no_more_harm_than_none(apart, entangled):
    # Among thirty others, so that the norm of the whole says little about the two.
    others = 2 * torch.eye(30, dtype=torch.float64)
    columns = torch.block_diag(others, with_gram([[1.0, entangled], [entangled, 1.0 - apart]]))
    between = (1 - apart / 4) / 2  # the two are at 1 / 2 and (1 - apart / 2) / 2 of the largest
    step = Function(lambda x: (x > between).to(x.dtype))
    expected = mapped_by_svd(columns, lambda sigma: (torch.arange(32) < 31).to(sigma.dtype))
    corrected, uncorrected = with_and_without_correction(columns, step)
    # Half of the jump is right, all of it errs as much as none; an entanglement of 0.1 changes lengths by a twentieth.
    assert relative_error(corrected, expected) < 1.1 * relative_error(uncorrected, expected)


@pytest.mark.parametrize("shape", [(48, 32), (32, 48), (32, 32)], ids=str)
@pytest.mark.parametrize("power", [0.0, 0.125, 0.5])
def test_turning_momentum_is_followed(shape, power):
    directions = momenta(shape, 60)
    answers = [exact(direction, power) for direction in directions]
    results, state = run(directions, power)
    errors = [relative_error(result, answer) for result, answer in zip(results, answers, strict=True)]
    # What a method would err that computed every other step exactly and repeated itself in between.
    stale = [relative_error(old, new) for old, new in pairwise(answers)]
    assert max(errors[10:]) < 0.25 * min(stale[9:])
    assert orthogonality_error(state["right_basis"]) < 1e-5


def test_the_error_does_not_depend_on_the_scale():
    matrices = [matrix.to(torch.float32) for matrix in momenta((20, 12), 6)]
    plain, _ = run(matrices, 0.125)
    for exponent in (-100, 100):  # powers of two, far from what float32 cannot hold: equal to the bit
        scaled, _ = run([torch.ldexp(matrix, torch.tensor(exponent)) for matrix in matrices], 0.125)
        for one, two in zip(plain, scaled, strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize("spectrum", ["half rank", "condition 1e8", "one large"])
@ORIENTATIONS
def test_lost_directions_do_not_spoil_the_basis(spectrum, shape):
    poor = zoo_matrix(spectrum, shape).to(torch.float32)
    zero = torch.zeros(shape)
    rich = zoo_matrix("condition 1e2", shape, seed=1).to(torch.float32)
    results, state = run([zero, poor, poor, zero, poor, zero], 0.0)
    assert all(result.isfinite().all() for result in results)
    assert (results[0] == 0).all()
    assert (results[3] == 0).all()
    assert orthogonality_error(state["right_basis"]) < 1e-5
    for _ in range(40):
        mapped, state = METHOD.advance(rich, Power(0.0), state)
    assert relative_error(mapped.matrix, exact(rich, 0.0)) < 1e-4


def test_a_batch_may_hold_old_and_new_matrices():
    matrix = zoo_matrix("condition 1e2", (9, 6)).to(torch.float32)
    _, old = run([matrix] * 3, 0.0)
    one, _ = METHOD.advance(matrix, Power(0.0), old)
    new, _ = METHOD.advance(matrix, Power(0.0), cold(matrix.shape))
    both = {"right_basis": torch.stack([old["right_basis"], torch.zeros(6, 6)])}
    mapped, _ = METHOD.advance(torch.stack([matrix, matrix]), Power(0.0), both)
    torch.testing.assert_close(mapped.matrix, torch.stack([one.matrix, new.matrix]), rtol=0, atol=1e-5)


def test_state_of_others_is_handed_through():
    other = torch.ones(3)
    _, state = METHOD.advance(torch.eye(4), Power(0.0), {**cold((4, 4)), "other": other})
    assert state["other"] is other


def test_the_basis_is_never_narrower_than_it_was_stored():
    matrix = zoo_matrix("one over i", (8, 5)).to(torch.bfloat16)
    mapped, state = METHOD.advance(matrix, Power(0.0), cold((8, 5)))
    assert state["right_basis"].dtype == mapped.matrix.dtype == torch.float32


def twins_of_columns(rows=30, columns=8, seed=0):
    """Columns of which every one comes twice: their Gram matrix is singular."""
    half = torch.randn(rows, columns // 2, generator=torch.Generator().manual_seed(seed))
    return torch.cat([half, half], dim=-1)


@pytest.fixture
def householder_calls(monkeypatch):
    calls, qr = [], torch.linalg.qr
    monkeypatch.setattr(torch.linalg, "qr", lambda *a, **k: calls.append(a[0].shape) or qr(*a, **k))
    return calls


def test_where_cholesky_fails_householder_takes_over(monkeypatch, householder_calls):
    monkeypatch.setattr(streaming, "SHIFT", -1.0)  # below zero, so that a singular Gram matrix fails for certain
    columns = torch.stack([twins_of_columns(), torch.randn(30, 8)])
    unit = columns / streaming.column_lengths(columns)
    assert streaming.shifted_cholesky(unit, streaming.SHIFT)[1].flatten().tolist() == [True, False]
    factor = streaming.triangular_factor(columns)
    assert len(householder_calls) == 1
    torch.testing.assert_close(factor.mT @ factor, columns.mT @ columns, rtol=1e-4, atol=1e-4)


def test_singular_matrices_are_made_orthonormal_without_householder(householder_calls):
    # Of 200 such matrices two passes leave 199 that are not orthonormal, three passes none.
    square = torch.stack([twins_of_columns(8, 8, seed) for seed in range(20)])
    q = streaming.orthonormal(square, otherwise=torch.eye(8).expand(20, 8, 8))
    assert not householder_calls
    assert orthogonality_error(q) < streaming.ORTHONORMAL
    # It is a QR factorization: what Q^T makes of the matrix is upper triangular.
    torch.testing.assert_close((q.mT @ square).tril(-1), torch.zeros(20, 8, 8), rtol=0, atol=1e-3)


def one_without_a_column():
    """Two matrices, and the first has a zero column, of which no scaling makes a direction."""
    square = torch.randn(2, 8, 8)
    square[0, :, 3] = 0
    return square


def test_where_no_pass_is_orthonormal_householder_takes_over(householder_calls):
    square = one_without_a_column()
    q = streaming.orthonormal(square, otherwise=torch.eye(8).expand(2, 8, 8))
    assert len(householder_calls) == 1
    assert orthogonality_error(q) < 1e-5
    torch.testing.assert_close((q.mT @ square).tril(-1), torch.zeros(2, 8, 8), rtol=0, atol=1e-5)


def test_well_conditioned_steps_never_need_householder(householder_calls):
    directions = momenta((20, 12), 10)
    householder_calls.clear()  # the momenta were made with some
    run(directions, 0.125)
    assert not householder_calls


@pytest.fixture(params=["host may look", "host may not look"])
def both_paths(request, monkeypatch):
    """As on a CPU, where a failed Cholesky is mended, and as on an accelerator, where it must not happen."""
    if request.param == "host may not look":
        monkeypatch.setattr(streaming, "host_may_look", lambda tensor: False)


def rank_one(shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    u, v = (torch.randn(size, generator=generator) for size in shape)
    return torch.outer(u / u.norm(), v / v.norm())


def gaussian(shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


# A direction that dwarfs all others: at a cold start all columns point along it.
GIANT = {
    "a giant": lambda noise: rank_one(noise.shape) + 1e-4 * noise / torch.linalg.matrix_norm(noise, ord=2),
    "a constant": lambda noise: 1 + 1e-3 * noise,
}


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize("shape", [(512, 512), (256, 1024), (640, 512)], ids=str)
def test_a_gradient_of_rank_one_is_exact_at_a_cold_start(shape):
    matrix = rank_one(shape)
    results, state = run([matrix] * 2, 0.125)
    # One direction of weight 1; the others are the rounding of the matrix itself, and cut off.
    for result in results:
        assert relative_error(result, matrix) < 1e-5
    assert orthogonality_error(state["right_basis"]) < 1e-5


@pytest.mark.slow
@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize("matrix_of", GIANT.values(), ids=GIANT)
def test_a_giant_direction_costs_little_of_the_others(matrix_of):
    noise = gaussian((640, 512))
    matrix = matrix_of(noise)
    plain, _ = run([noise] * 6, 0.125)
    results, state = run([matrix] * 6, 0.125)
    right, right_alone = exact(matrix, 0.125), exact(noise, 0.125)
    first, last = (relative_error(results[i], right) for i in (0, -1))
    first_alone, last_alone = (relative_error(plain[i], right_alone) for i in (0, -1))
    # The first step sees the others at 1e-4 of the giant, below the root of the shift, 4 eps 512 = (1.6e-2)^2: it finds
    # the giant. The next ones start from columns of which only one points along it.
    assert first < 4 * first_alone
    assert last < 1.5 * last_alone
    # The giant has weight 1 and is known to rounding.
    assert torch.linalg.matrix_norm(results[0], ord=2) == pytest.approx(1, rel=1e-3)
    assert orthogonality_error(state["right_basis"]) < 1e-5


@pytest.mark.parametrize("power", [0.0, 0.125, 0.5])
def test_in_a_basis_that_fits_nothing_the_result_is_no_longer_than_that_of_muon(power):
    matrix = GIANT["a giant"](gaussian((300, 200)))
    mapped = streaming.mapped_in(torch.eye(200), matrix, Power(power))
    # 200 directions of weight at most 1; the corrections alone would make it 2000 and more.
    assert torch.linalg.matrix_norm(mapped.matrix) < 1.001 * 200**0.5


def test_a_factor_is_that_of_the_columns():
    columns = matrix_with(torch.logspace(0, -3, 64), (100, 64)).to(torch.float32)
    factor = streaming.triangular_factor(columns).to(torch.float64)
    unit = columns.to(torch.float64) / streaming.column_lengths(columns)
    correlation = unit.mT @ unit
    factor /= streaming.column_lengths(columns)
    # Four eps times the norm are put on the diagonal; rounding adds less.
    allowed = 5 * torch.finfo(torch.float32).eps * torch.linalg.matrix_norm(correlation)
    assert (factor.mT @ factor - correlation).abs().max() < allowed


def test_on_an_accelerator_a_failed_factor_is_that_of_orthogonal_columns(monkeypatch):
    monkeypatch.setattr(streaming, "host_may_look", lambda tensor: False)
    monkeypatch.setattr(streaming, "SHIFT", -1.0)  # as above
    columns = torch.stack([twins_of_columns(), torch.randn(30, 8)])
    factor = streaming.triangular_factor(columns)
    assert torch.equal(factor[0], torch.diag(streaming.column_lengths(columns)[0, 0]))
    torch.testing.assert_close(factor[1].mT @ factor[1], columns[1].mT @ columns[1], rtol=1e-4, atol=1e-4)


def test_on_an_accelerator_a_failure_keeps_the_basis(monkeypatch):
    monkeypatch.setattr(streaming, "host_may_look", lambda tensor: False)
    otherwise = torch.linalg.qr(torch.randn(2, 8, 8)).Q
    q = streaming.orthonormal(one_without_a_column(), otherwise)
    assert torch.equal(q[0], otherwise[0])
    assert orthogonality_error(q) < 1e-5


def test_on_an_accelerator_the_basis_is_orthonormal_whatever_fails(monkeypatch):
    monkeypatch.setattr(streaming, "host_may_look", lambda tensor: False)
    monkeypatch.setattr(streaming, "SHIFT", -1e5)
    _, state = run([twins_of_columns()] * 3, 0.125)
    assert orthogonality_error(state["right_basis"]) < 1e-5


def test_columns_of_very_different_length_in_one_direction_are_told_apart(householder_calls):
    # A feature that is almost dead: its column is short, like others in direction, and comes first.
    matrix = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    matrix[:, 0] = 1e-4 * (matrix[:, 1] + 0.1 * matrix[:, 2])
    matrix[:, 0] += 1e-5 * torch.randn(30, generator=torch.Generator().manual_seed(1))
    results, _ = run([matrix] * 20, 0.0)
    # The last direction is at 1e-5 of the largest and known to eps / 1e-5 = 1e-2.
    assert relative_error(results[-1], exact(matrix, 0.0)) < 1e-2
    assert not householder_calls


def test_nothing_waits_for_the_host():
    # Meta tensors have no values to read: whatever asked for one would raise.
    matrix = torch.empty(3, 10, 6, device="meta")
    state = {"right_basis": torch.empty(3, 6, 6, device="meta")}
    mapped, new = METHOD.advance(matrix, Power(0.125), state)
    assert mapped.matrix.shape == matrix.shape
    assert new["right_basis"].shape == (3, 6, 6)
