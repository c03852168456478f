"""What the polynomial method promises beyond the contract of every method."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import SPECTRA, mapped_by_svd, matrix_with, relative_error, zoo_matrix

import htmuon
from htmuon.linalg import METHODS, Family, Polynomial
from htmuon.linalg.fit import fit, minimax_weights
from htmuon.linalg.levels import LEVELS, TOP
from htmuon.linalg.nested import start
from htmuon.linalg.plan import cheapest, count
from htmuon.spectral import Function, Power
from htmuon.spectral.power import POWERS

# Largest relative error on [smallest, 1], for p in [0, 1] and in [-1/4, 0): the promise of the library.
PROMISES = [(5, 1e-3, 0.015, 0.1), (6, 1e-3, 0.0025, 0.02), (8, 1e-4, 0.003, 0.02)]


def direction_errors(matrix, mapped, power):
    """Relative errors of all weights against `(sigma / sigma_1)^p`, sigma_1 being the method's own."""
    u, sigma, vh = torch.linalg.svd(matrix.to(torch.float64), full_matrices=False)
    got = (u.mT @ mapped.matrix.to(torch.float64) @ vh.mT).diagonal(dim1=-2, dim2=-1)
    return (got / (sigma / mapped.sigma_1.squeeze(-1).to(torch.float64)) ** power - 1).abs()


@pytest.mark.parametrize(("levels", "smallest", "positive", "negative"), PROMISES)
def test_every_power_is_fitted_within_its_promise_between_the_points_of_the_grid_too(
    levels, smallest, positive, negative
):
    x = torch.logspace(torch.tensor(smallest).log10().item(), 0, 5000, dtype=torch.float64)
    features, fitted = LEVELS[levels].features(x), fit(LEVELS[levels], POWERS)
    for power in torch.linspace(-0.25, 1, 101, dtype=torch.float64).tolist():  # not the grid's spacing of 1/32
        weights = fitted.weights(fitted.table, power).to(torch.float64)
        error = (features @ weights / x**power - 1).abs().max()
        assert error <= (positive if power >= 0 else negative), power


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("power", [-0.25, 0.0, 0.125, 0.5, 1.0])
def test_below_the_range_weights_go_smoothly_to_zero(levels, power):
    below = torch.logspace(-12, torch.tensor(LEVELS[levels].smallest).log10().item(), 3000, dtype=torch.float64)
    fitted = fit(LEVELS[levels], POWERS)
    values = LEVELS[levels].features(below) @ fitted.weights(fitted.table, power).to(torch.float64)
    edge = LEVELS[levels].smallest ** power
    assert values.min() > 0
    assert values.max() <= edge * 1.05  # never up: the fit error at the edge, 3.5 % for p = -1/4 and few levels
    assert values[0] <= 1e-12 * edge / LEVELS[levels].smallest * 3  # linear in x near zero


@pytest.mark.parametrize("levels", LEVELS)
def test_levels_stay_between_zero_and_one(levels):
    x = torch.cat([torch.logspace(-9, -1, 4000), torch.linspace(0.1, TOP, 20000)]).to(torch.float64)
    for level in LEVELS[levels].chain(x)[1:]:
        assert level.min() >= 0
        assert level.max() <= 1.001


def test_lawson_is_minimax():
    # The best relative approximation of 1 / (1 + x) by lines on [0, 1], where the error equioscillates in three points:
    # a + b x with relative error e(x) = (a + b x)(1 + x) - 1, e(0) = -e(1/2) = e(1).
    x = torch.linspace(0, 1, 401, dtype=torch.float64)
    weights, error = minimax_weights(torch.stack([torch.ones_like(x), x], -1), 1 / (1 + x))
    residual = (weights[0] + weights[1] * x) * (1 + x) - 1
    assert residual[0].abs().item() == pytest.approx(error.item(), rel=0.02)
    assert residual[200].item() == pytest.approx(-residual[0].item(), rel=0.05)
    assert residual[400].item() == pytest.approx(residual[0].item(), rel=0.05)


spectra = st.one_of(
    st.sampled_from(list(SPECTRA)).map(lambda name: SPECTRA[name]),
    st.floats(0, 3).map(lambda decay: lambda r: torch.arange(1, r + 1, dtype=torch.float64) ** -decay),
    st.integers(0, 10**6).map(
        lambda seed: (
            lambda r: 10 ** (-3 * torch.rand(r, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
        )
    ),
)


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 70),
    spectrum=spectra,
    power=st.floats(-0.25, 1),
    exponent=st.integers(-25, 25),
    levels=st.sampled_from([5, 6, 8]),
    seed=st.integers(0, 10**6),
)
def test_every_singular_value_within_the_range_of_any_matrix(rows, columns, spectrum, power, exponent, levels, seed):
    matrix = (matrix_with(spectrum(min(rows, columns)), (rows, columns), seed) * 10.0**exponent).to(torch.float32)
    method = Polynomial(levels)
    error = direction_errors(matrix, method(matrix, Power(power)), power)
    sigma = torch.linalg.svdvals(matrix.to(torch.float64))
    tolerance, smallest = method.accuracy(matrix, power)
    # Rounding of a float32 result is relative to its largest weight.
    rounding = 20 * torch.finfo(torch.float32).eps * (sigma / sigma[0]) ** -abs(power)
    inside = sigma >= smallest * sigma[0]
    assert (error <= tolerance + rounding)[inside].all()


@pytest.mark.parametrize(("levels", "smallest", "positive", "negative"), PROMISES)
@pytest.mark.parametrize("shape", [(96, 256), (256, 96), (150, 150)], ids=str)
def test_the_promise_holds_for_matrices_in_float32(levels, smallest, positive, negative, shape):
    # The range is relative to the bound of sigma_1, which is up to 1.2 times above it for these spectra.
    last = max(smallest, 1.2 * LEVELS[levels].smallest)
    matrix = matrix_with(last ** torch.linspace(0, 1, min(shape)), shape).to(torch.float32)
    for power in (-0.25, 0.0, 0.125, 0.33, 1.0):
        error = direction_errors(matrix, Polynomial(levels)(matrix, Power(power)), power)
        # 1e-3: rounding of float32 products, whose Gram matrices hold the squares of what is 1e-3 to 1e-4.
        assert error.max() <= (positive if power >= 0 else negative) + 1e-3


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 60), columns=st.integers(1, 60), spectrum=spectra, seed=st.integers(0, 10**6))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_bound_is_never_below_the_largest_singular_value(dtype, rows, columns, spectrum, seed):
    short, long = sorted((rows, columns))
    matrix = matrix_with(spectrum(short), (short, long), seed).to(torch.float32)
    begun, _ = start(matrix.unsqueeze(0), dtype)
    sigma_1 = torch.linalg.matrix_norm(begun.matrix.to(torch.float64), ord=2)
    # The levels hold up to TOP: so much rounding may push.
    assert sigma_1 <= begun.bound.item() * TOP
    assert begun.bound.item() <= sigma_1 * short**0.125 * TOP * (1 + 4 * torch.finfo(dtype).eps)


def block_diagonal(direction, size):
    """A direction of all coordinates but one, with singular value 1, and that one with a smaller one."""
    n = len(direction)
    matrix = torch.zeros(n + 1, n + 1, dtype=torch.float64)
    matrix[:n, :n] = torch.outer(direction, direction) / direction.square().sum()
    matrix[n, n] = size
    return matrix.to(torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("size", [0.2, 0.5, 0.8, 0.98])
@pytest.mark.parametrize("n", [64, 256, 1024])
@pytest.mark.parametrize(
    "direction",
    [
        lambda n: torch.ones(n),
        lambda n: (-1.0) ** torch.arange(n),
        lambda n: torch.sin(0.01 * torch.arange(n)),
        lambda n: torch.randn(n, generator=torch.Generator().manual_seed(1)),
    ],
    ids=["constant", "alternating", "slow", "random"],
)
def test_the_largest_singular_value_is_not_missed_beside_a_single_coordinate(direction, n, size):
    begun, _ = start(block_diagonal(direction(n).to(torch.float64), size).unsqueeze(0), torch.float32)
    exact = torch.linalg.matrix_norm(begun.matrix.to(torch.float64), ord=2)
    # The docstring's two percent; without the chirp it is `size` that is found.
    assert begun.sigma_1.item() == pytest.approx(exact.item(), rel=0.02)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", [(64, 300), (200, 200), (1, 5)], ids=str)
def test_the_largest_singular_value_is_found_from_below(spectrum, shape):
    for seed in range(3):
        begun, _ = start(zoo_matrix(spectrum, shape, seed).to(torch.float32).unsqueeze(0), torch.float32)
        ratio = begun.sigma_1 / torch.linalg.matrix_norm(begun.matrix.to(torch.float64), ord=2)
        # Below by two percent at most, where many singular values are close to it; power iteration alone leaves four.
        assert 0.98 <= ratio <= 1 + 1e-5


HALVES = ["float16", "bfloat16"]


RANKS = {
    "rank 1": lambda r: (torch.arange(r) < 1).to(torch.float64),
    "rank 3": lambda r: (torch.arange(r) < 3).to(torch.float64),
    "steep": lambda r: torch.arange(1, r + 1, dtype=torch.float64) ** -1.5,
    "two levels": lambda r: torch.where(torch.arange(r) < r // 2, 1.0, 2e-3),
}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", *HALVES])
@pytest.mark.parametrize("levels", [3, 5, 6, 7, 8])
@pytest.mark.parametrize("shape", [(64, 150), (110, 110)], ids=str)
def test_the_accuracy_holds_for_every_precision_and_number_of_levels(shape, levels, precision):
    method = Polynomial(levels, precision)
    for spectrum in (SPECTRA | RANKS).values():
        matrix = matrix_with(spectrum(min(shape)), shape).to(torch.float32)
        sigma = torch.linalg.svdvals(matrix.to(torch.float64))
        for power in (-0.25, -0.125, 0.0, 0.125, 0.5, 1.0):
            tolerance, smallest = method.accuracy(matrix, power)
            inside = sigma >= smallest * sigma[0]
            assert direction_errors(matrix, method(matrix, Power(power)), power)[inside].max() <= tolerance


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (3, 48, 48)], ids=str)
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("power", [-0.25, 0.0, 0.125, 1.0])
def test_half_precision_is_finite_and_close_for_every_spectrum(power, spectrum, shape, precision):
    matrix = zoo_matrix(spectrum, shape).to(torch.float32)
    method = Polynomial(6, precision)
    mapped = method(matrix, Power(power))
    assert mapped.matrix.isfinite().all()
    # What remains of the matrix after rounding is all that can be asked for: the same power of the rounded matrix.
    eps = torch.finfo(getattr(torch, precision)).eps
    kept = torch.linalg.svdvals(matrix.to(torch.float64))
    heaviest = (kept / kept[..., :1]).clamp(min=LEVELS[6].smallest) ** power
    assert torch.linalg.matrix_norm(mapped.matrix.to(torch.float64), ord=2).max() <= heaviest.max() * (1.05 + 16 * eps)


@pytest.mark.parametrize("shape", [(192, 512), (512, 192), (256, 256)], ids=str)
def test_float16_is_within_one_percent_at_condition_1e3(shape):
    matrix = matrix_with(torch.logspace(0, -3, min(shape)), shape).to(torch.float32)
    expected = mapped_by_svd(matrix, lambda sigma: (sigma / sigma.max()) ** 0.125)
    mapped = Polynomial(6, "float16")(matrix, Power(0.125))
    # Rounding the input alone makes 0.8 % on the rectangular ones. Relative to sigma_1 as the method found it.
    assert relative_error(mapped.matrix * mapped.sigma_1**0.125, expected) < 0.0105


@pytest.mark.parametrize("precision", ["float32", *HALVES])
@pytest.mark.parametrize("levels", [4, 6, 8])
@pytest.mark.parametrize("shape", [(30, 30), (20, 50)], ids=str)
def test_the_plan_counts_the_products(monkeypatch, shape, levels, precision):
    method, made = Polynomial(levels, precision), {"symmetric": 0, "gram": 0}
    for name in ("gram", "symmetric_product"):
        original = getattr(htmuon.linalg.nested, name)

        def counted(*arguments, original=original, name=name, **settings):
            made["gram" if name == "gram" else "symmetric"] += 1
            return original(*arguments, **settings)

        monkeypatch.setattr(htmuon.linalg.nested, name, counted)
    method(zoo_matrix("one over i", shape).to(torch.float32), Power(0.125))
    plan = method.plan(shape, torch.device("cpu"))
    assert made == {"symmetric": plan.symmetric, "gram": plan.grams}
    assert plan.rectangular == 1 + len(plan.restarts) * (1 if plan.folded else 2)


def test_plans_cost_what_their_products_cost():
    # Without restarts 4 L + 1 products on the short side and two rectangular ones, the Gram matrix being one of them.
    assert count(6, (), folded=True).cost(2.0, halved=False) == 25 + 2 * 2.0
    assert cheapest(6, 6, 1.0, folded=True).restarts == ()
    assert cheapest(6, 1, 3.0, folded=False).restarts == (1, 2, 3, 4, 5)
    for longest in range(1, 7):
        segments = cheapest(6, longest, 2.0, folded=False).segments
        assert all(end - first <= longest for first, end in segments)


def test_a_scheduled_power_costs_no_fit_and_no_wait():
    matrix = zoo_matrix("condition 1e2", (20, 30)).to(torch.float32)
    method = Polynomial()
    method(matrix, Power(0.125))
    before = fit.cache_info().misses
    for power in (0.1, 0.77, torch.tensor(0.31), torch.tensor(-0.2, dtype=torch.float64)):
        mapped = method(matrix, Power(power))
        assert direction_errors(matrix, mapped, float(power)).max() < 0.02
    assert fit.cache_info().misses == before


def test_the_global_random_state_is_left_alone():
    state = torch.get_rng_state()
    Polynomial()(torch.randn(9, 12, generator=torch.Generator().manual_seed(0)), Power(0.1))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("function", [torch.tanh, lambda x: x / (x + 0.05), lambda x: torch.log1p(100 * x)])
@pytest.mark.parametrize("spectrum", ["condition 1e2", "flat", "two clusters", "one over i"])
def test_any_smooth_function_fits_with_a_known_error(function, spectrum):
    matrix = zoo_matrix(spectrum, (40, 25)).to(torch.float32)
    error = Polynomial().fit_error(Function(function))
    assert error < 0.05
    mapped = Polynomial()(matrix, Function(function))
    expected = mapped_by_svd(matrix, lambda sigma: function(sigma / sigma.max()))
    # The estimate of sigma_1 is good to a percent, and none of these functions is steeper than x.
    assert relative_error(mapped.matrix, expected) < error + 0.012


def test_one_fit_serves_members_between_the_points_of_a_grid():
    family = Family(lambda x, t: x / (x + t), (htmuon.linalg.Axis(0.01, 0.2, 61),))
    fitted = fit(LEVELS[6], family)
    x = LEVELS[6].grid(3)
    features = LEVELS[6].features(x)
    together = fitted.weights(fitted.table, torch.tensor([0.0123, 0.05, 0.1777])).to(torch.float64)
    for weights, t in zip(together, (0.0123, 0.05, 0.1777), strict=True):
        assert (features @ weights / family.function(x, t) - 1).abs().max() < fitted.error + 1e-3


def test_stacks_are_computed_as_their_matrices():
    stack = torch.stack([zoo_matrix(name, (12, 18)) for name in SPECTRA]).to(torch.float32)
    mapped = Polynomial()(stack, Power(0.25))
    for one, matrix, sigma_1, rank in zip(stack, mapped.matrix, mapped.sigma_1, mapped.rank, strict=True):
        alone = Polynomial()(one, Power(0.25))
        torch.testing.assert_close(matrix, alone.matrix, rtol=0, atol=1e-5)
        torch.testing.assert_close(sigma_1, alone.sigma_1, rtol=1e-5, atol=0)
        assert rank == alone.rank


@pytest.mark.parametrize("rank", [1, 7, 20, 40])
def test_the_rank_is_counted_from_traces(rank):
    spectrum = torch.cat([torch.logspace(0, -2, rank), torch.zeros(40 - rank)])
    matrix = matrix_with(spectrum, (40, 60)).to(torch.float32)
    # The fit of a step function by the squares of the levels is good to five percent.
    assert Polynomial()(matrix, Power(0.125)).rank.item() == pytest.approx(rank, abs=0.5 + 0.05 * rank)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: htmuon.spectral_power(m, 0.1, method={"name": "polynomial", "levels": 2}), "from 3 to 8; got 2"),
        (lambda m: htmuon.spectral_power(m, 0.1, method={"name": "polynomial", "levels": True}), "got True"),
        (lambda m: htmuon.spectral_power(m, -0.5, method="polynomial"), "at least -0.25; got power=-0.5.*'eigh'"),
        (
            lambda m: htmuon.spectral_power(m, 0.1, method={"name": "eigh", "levels": 6}),
            "takes no settings; got levels",
        ),
        (
            lambda m: htmuon.spectral_map(m, htmuon.spectral.RankPower(0.1), method="polynomial"),
            "each singular value alone",
        ),
    ],
)
def test_settings_that_do_not_fit_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(torch.eye(3))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Polynomial(12), "from 3 to 8; got 12"),
        (lambda: Polynomial(precision="fp8"), "precision must be one of"),
        (lambda: Polynomial().fit_error(htmuon.spectral.RankPower(0.1)), "each singular value alone.*'eigh'"),
        (lambda: Polynomial().fit_error(Function(lambda x: 0 * x)), "stays above 1e-5.*'eigh'"),
        (lambda: Polynomial()(torch.eye(3), htmuon.spectral.RankPower(0.1)), "each singular value alone"),
        (lambda: Polynomial().fit_error(Power(-0.5)), "at least -0.25; got power=-0.5"),
        (lambda: Polynomial()(torch.eye(3), Power(torch.tensor(-0.4))), "at least -0.25; got power=-0.4"),
        (lambda: Power(torch.tensor(torch.nan)), "got nan"),
    ],
)
def test_the_method_itself_names_what_does_not_fit(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_the_error_of_a_power_is_that_of_the_power():
    x = torch.logspace(torch.tensor(LEVELS[6].smallest).log10().item(), 0, 3000, dtype=torch.float64)
    fitted = fit(LEVELS[6], POWERS)
    for power in (-0.2, 0.125, 0.9):
        weights = fitted.weights(fitted.table, power).to(torch.float64)
        error = (LEVELS[6].features(x) @ weights / x**power - 1).abs().max().item()
        # The range goes on to 1.01, and both grids can miss a peak by a little.
        assert Polynomial(6).fit_error(Power(power)) == pytest.approx(error, rel=0.1)


def test_large_matrices_are_computed_in_halves_and_as_exactly():
    # From 384 rows on the CPU computes half of each symmetric product.
    matrix = matrix_with(torch.logspace(0, -3, 400), (400, 450)).to(torch.float32)
    assert direction_errors(matrix, Polynomial()(matrix, Power(0.125)), 0.125).max() <= 0.0025 + 1e-3


def test_every_setting_reaches_the_optimizer():
    parameters = [torch.nn.Parameter(zoo_matrix("condition 1e2", (12, 20)).to(torch.float32)) for _ in range(2)]
    optimizers = [
        htmuon.HTMuon([p], method=Polynomial(levels, "float32"), momentum=0.0, weight_decay=0.0)
        for p, levels in zip(parameters, (3, 8), strict=True)
    ]
    start_ = parameters[0].detach().clone()
    for p, optimizer in zip(parameters, optimizers, strict=True):
        p.grad = zoo_matrix("condition 1e4", (12, 20)).to(torch.float32)
        optimizer.step()
    updates = [(start_ - p.detach()) / 0.02 for p in parameters]
    exact = mapped_by_svd(parameters[0].grad, lambda sigma: sigma**0.125)
    coarse, fine = (relative_error(update, exact) for update in updates)
    assert fine < 0.02 < coarse
    assert METHODS["polynomial"] == Polynomial()  # the registered default was not changed
