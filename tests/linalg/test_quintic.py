"""What the quintic method promises beyond the contract of every method."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import SPECTRA, mapped_by_svd, matrix_with, relative_error, zoo_matrix
from torch.optim._muon import _zeropower_via_newtonschulz
from torch.utils.flop_counter import FlopCounterMode, addmm_flop, baddbmm_flop

import htmuon
from htmuon.kernels import gram
from htmuon.linalg import METHODS, Quintic
from htmuon.linalg.quintic import ROUNDING, Coefficients
from htmuon.linalg.quintic_steps import bound_of, short_steps, stepped
from htmuon.linalg.quintics import STEPS, recipes
from htmuon.spectral import Clip, Function, Knee, Power, RankPower

# Largest relative error on [3.2e-3, 1]: the promise of the library for five steps.
PROMISES = {0.0: 0.02, 0.125: 0.03, 0.25: 0.03, 0.5: 0.03, 1.0: 1e-6}
# Not the spacing of the table.
BETWEEN = torch.linspace(-1, 1, 137, dtype=torch.float64).tolist()


def levels(recipe, x):
    """`X_0 ... X_{L-1}` of numbers."""
    found = [x]
    for a, b, c in recipe.steps:
        found.append(found[-1] * (a + b * found[-1] ** 2 + c * found[-1] ** 4))
    return found


def computed(recipe, x):
    """What the steps make of numbers, in exact arithmetic."""
    *others, last = levels(recipe, x)
    a, b, c = recipe.last
    total = last * (a + b * last**2 + c * last**4)
    return total + sum(weight * level for weight, level in zip(recipe.weights, others, strict=True))


def recipe_of(power, steps=5):
    return recipes(steps).at(power, torch.device("cpu"))


@pytest.mark.parametrize("steps", STEPS)
def test_every_power_is_within_its_declared_error_between_those_of_the_table_too(steps):
    for power in BETWEEN:
        smallest, error = recipes(steps).range_of(power)
        x = torch.logspace(torch.tensor(smallest).log10().item(), 0, 4000, dtype=torch.float64)
        # 5e-4: the table's coefficients are rounded, and interpolated in float32.
        assert (computed(recipe_of(power, steps), x) / x**power - 1).abs().max() <= error + 5e-4, power


@pytest.mark.parametrize(("power", "promised"), PROMISES.items())
def test_the_promise_of_five_steps(power, promised):
    x = torch.logspace(-2.5, 0, 5000, dtype=torch.float64)  # [3.2e-3, 1]
    assert (computed(recipe_of(power), x) / x**power - 1).abs().max() <= promised


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("power", [-1.0, -0.4, 0.0, 0.125, 0.5])
def test_below_the_range_weights_go_smoothly_to_zero(steps, power):
    smallest, _ = recipes(steps).range_of(power)
    below = torch.logspace(-12, torch.tensor(smallest).log10().item(), 3000, dtype=torch.float64)
    values = computed(recipe_of(power, steps), below)
    assert values.min() > 0
    # A curve that has just reached its largest error turns there; the steepest powers overshoot.
    assert values.max() <= smallest**power * (1.1 if power > -0.5 else 2.5)
    torch.testing.assert_close(values[1] / values[0], below[1] / below[0])  # linear near zero


@pytest.mark.parametrize("steps", STEPS)
def test_levels_stay_between_zero_and_one(steps):
    x = torch.cat([torch.logspace(-9, -1, 2000), torch.linspace(0.1, 1.01, 4000)]).to(torch.float64)
    for power in BETWEEN:
        for level in levels(recipe_of(power, steps), x)[1:]:
            assert level.min() > 0
            assert level.max() <= 1.06, power


@pytest.mark.parametrize("steps", STEPS)
def test_as_squares_the_steps_are_the_same(steps):
    x = torch.logspace(-3, 0, 500, dtype=torch.float64)
    for power in BETWEEN:
        recipe = recipe_of(power, steps)
        (a, b, c), squares, weights = recipe.as_squares()
        found, last = [x, x * (a + b * x**2 + c * x**4)], recipe.last
        for shift, rest in squares:
            found.append(found[-1] * ((found[-1] ** 2 + shift) ** 2 + rest))
        *others, top = found
        total = top * (last[0] + last[1] * top**2 + last[2] * top**4)
        total = total + sum(weight * level for weight, level in zip(weights, others, strict=True))
        torch.testing.assert_close(total, computed(recipe, x), rtol=1e-9, atol=1e-12)  # float64, L - 1 fifth roots


def flops(matrices, precision):
    in_place = {torch.ops.aten.addmm_: addmm_flop.__wrapped__, torch.ops.aten.baddbmm_: baddbmm_flop.__wrapped__}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        htmuon.spectral_power(matrices, 0.125, method=Quintic(precision=precision))
    return counter.get_total_flops()


@pytest.mark.parametrize("shape", [(64, 64), (40, 96), (96, 40), (3, 32, 48)], ids=str)
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_it_takes_the_products_of_muon(shape, precision):
    # Any power, at what torch.optim.Muon takes for the polar factor: nothing else multiplies, not even for the size.
    matrices = torch.randn(shape)
    with FlopCounterMode(display=False) as theirs:
        for matrix in matrices.reshape(-1, *shape[-2:]):
            _zeropower_via_newtonschulz(matrix, (3.4445, -4.7750, 2.0315), 5, 1e-7)
    assert flops(matrices, precision) == theirs.get_total_flops() > 0


@pytest.mark.parametrize("shape", [(40, 100), (120, 40), (3, 16, 48)], ids=str)
@pytest.mark.parametrize(("precision", "whole", "short"), [("bfloat16", 6, 11), ("float32", 4, 14)])
def test_long_matrices_take_fewer_on_their_short_side(shape, precision, whole, short):
    m, n = sorted(shape[-2:])
    expected = 2 * (whole * m * m * n + short * m**3) * torch.Size(shape[:-2]).numel()
    assert flops(torch.randn(shape), precision) == expected


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("spectrum", ["equal", "condition 1e2", "condition 1e3", "one over i"])
@pytest.mark.parametrize("power", [-0.5, 0.0, 0.125])
def test_the_short_side_rounds_little_more(steps, dtype, spectrum, power):
    sigma = {**SPECTRA, "equal": torch.ones, "condition 1e3": lambda r: torch.logspace(0, -3, r)}[spectrum](64)
    x = matrix_with(sigma.to(torch.float64), (64, 200)).to(dtype)
    outer = gram(x)
    square = gram(outer)
    bound, recipe = bound_of(square), recipe_of(power, steps)
    exact = mapped_by_svd(x.to(torch.float64), lambda sigma: computed(recipe, sigma / float(bound)))
    whole, short = (
        relative_error(stepped(x.clone(), outer, square.clone(), bound, recipe, count)[0].to(torch.float64), exact)
        for count in (0, short_steps(dtype, steps))
    )
    # Three times that of the products on the whole matrix, and a fifth of what the method allows for rounding.
    assert short <= 3 * whole + ROUNDING[dtype] / 5


@pytest.mark.parametrize("shape", [(96, 96), (64, 172), (172, 64)], ids=str)
@pytest.mark.parametrize(
    ("spectrum", "allowed"), [("condition 1e2", 0.04), ("one over i", 0.04), ("condition 1e3", 0.13)]
)
@pytest.mark.parametrize("power", [0.0, 0.125, 0.25])
def test_it_is_several_times_closer_than_muon(shape, spectrum, allowed, power):
    # In bfloat16. At condition 1e3 a seventh of the directions is below the range.
    sigma = {**SPECTRA, "condition 1e3": lambda r: torch.logspace(0, -3, r)}[spectrum](min(shape))
    matrix = matrix_with(sigma, shape).to(torch.float32)
    exact = mapped_by_svd(matrix, lambda sigma: sigma**power)
    error = relative_error(htmuon.spectral_power(matrix, power, method=Quintic(precision="bfloat16")), exact)
    assert error < allowed * (1.5 if power == 0 else 1)
    if power == 0:
        muon = _zeropower_via_newtonschulz(matrix, (3.4445, -4.7750, 2.0315), 5, 1e-7)
        assert error < relative_error(muon.to(torch.float32), exact) / 1.7


spectra = st.one_of(
    st.sampled_from(list(SPECTRA)).map(lambda name: SPECTRA[name]),
    st.floats(0, 3).map(lambda decay: lambda r: torch.arange(1, r + 1, dtype=torch.float64) ** -decay),
)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 60),
    columns=st.integers(1, 60),
    spectrum=spectra,
    power=st.floats(-1, 1),
    exponent=st.integers(-25, 25),
    precision=st.sampled_from(["float32", "float16", "bfloat16"]),
    seed=st.integers(0, 10**6),
)
def test_every_singular_value_within_the_range_of_any_matrix(rows, columns, spectrum, power, exponent, precision, seed):
    matrix = (matrix_with(spectrum(min(rows, columns)), (rows, columns), seed) * 10.0**exponent).to(torch.float32)
    method = Quintic(precision=precision)
    # For p < 0 half precision rounds relative to the weights at the end of the range, more than some weights.
    power = power if precision == "float32" else abs(power)
    mapped = method(matrix, Power(power))
    u, sigma, vh = torch.linalg.svd(matrix.to(torch.float64), full_matrices=False)
    got = (u.mT @ mapped.matrix.to(torch.float64) @ vh.mT).diagonal(dim1=-2, dim2=-1)
    wanted = (sigma / mapped.reference.squeeze(-1).to(torch.float64)) ** power
    inside = sigma >= method.accuracy(matrix, power).smallest * sigma[0]
    # Of the weight the error of the coefficients; rounding is relative to the largest weight.
    fitted, rounding = method.fit_error(Power(power)), ROUNDING[getattr(torch, precision)]
    assert ((got - wanted).abs() <= fitted * wanted + rounding * wanted[inside].max())[inside].all()


@pytest.mark.parametrize("power", [-0.7, 0.0, 0.125, 0.33, 1.0])
def test_a_power_that_the_host_does_not_know_has_the_same_coefficients(power):
    stack = torch.stack([zoo_matrix(name, (24, 40)).to(torch.float32) for name in ("condition 1e2", "one over i")])
    table = recipes(5)
    flat = table.coefficients.weights(table.coefficients.table, torch.tensor(power)).reshape(-1)
    unknown = Coefficients(Power(power), table.recipe(flat.unbind()))
    method = Quintic(precision="float32")
    for matrices in (stack, stack[0]):
        expected = method(matrices, Power(power)).matrix
        # 1e-4: coefficients in float32, of polynomials that cancel to a tenth of their terms.
        torch.testing.assert_close(method(matrices, unknown).matrix, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(128, 128), (2, 128, 128)], ids=str)
def test_the_first_power_is_the_matrix(precision, shape):
    matrix = torch.randn(shape)
    # The roundings of a narrow dtype, three of them, relative to each entry.
    torch.testing.assert_close(
        htmuon.spectral_power(matrix, 1.0, method=Quintic(precision=precision)), matrix, rtol=1.5e-2, atol=1e-3
    )


@pytest.mark.parametrize("power", [-0.25, 0.0, 0.125])
@pytest.mark.parametrize("rank", [3, 17, 40])
def test_the_rank_is_counted(rank, power):
    sigma = torch.zeros(40, dtype=torch.float64)
    sigma[:rank] = 0.02 ** torch.linspace(0, 1, rank, dtype=torch.float64)
    matrix = matrix_with(sigma, (40, 64)).to(torch.float32)
    found = Quintic(precision="float32")(matrix, Power(power)).rank.item()
    assert found == pytest.approx(rank, abs=0.5 + 0.1 * rank)


@pytest.mark.parametrize("normalization", ["none", "spectral", "rms", "lmo"])
@pytest.mark.parametrize("power", [0.0, 0.125, 0.5])
def test_sizes_are_those_of_an_exact_method(normalization, power):
    matrix = zoo_matrix("condition 1e2", (40, 64)).to(torch.float32) * 3
    exact, ours = (
        htmuon.spectral_power(matrix, power, method=method, normalization=normalization)
        for method in ("svd", Quintic(precision="float32"))
    )
    assert relative_error(ours, exact.to(torch.float64)) < 0.04


@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (3, 24, 40)], ids=str)
@pytest.mark.parametrize(
    ("function", "allowed"),
    [
        (Function(lambda x: x / (x + 0.05)), 0.06),
        (Function(lambda x: -torch.log1p(10 * x)), 0.06),
        (Knee(0.125, tau=0.05), 0.06),
        (Clip(), 0.15),
    ],
    ids=["soft sign", "negative", "knee", "clip"],
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_any_smooth_function(function, allowed, shape, precision):
    # Relative to each matrix's own largest singular value, at any scale; a clip has a corner.
    scales = torch.tensor([1e-6, 1.0, 1e6]).reshape(3, 1, 1) if len(shape) == 3 else torch.tensor(50.0)
    matrix = (zoo_matrix("condition 1e2", shape) * scales).to(torch.float32)
    exact = htmuon.spectral_map(matrix.to(torch.float64), function, method="svd")
    ours = htmuon.spectral_map(matrix, function, method=Quintic(precision=precision))
    for one, expected in zip(ours.reshape(-1, *shape[-2:]), exact.reshape(-1, *shape[-2:]), strict=True):
        assert relative_error(one, expected) < allowed


def test_a_gradient_passes_through_it():
    found = []
    for method in ("svd", Quintic(precision="float32")):
        matrix = matrix_with(torch.logspace(0, -1, 8), (8, 12)).to(torch.float32).requires_grad_()
        (htmuon.spectral_power(matrix, 0.5, method=method) * torch.arange(96.0).reshape(8, 12)).sum().backward()
        found.append(matrix.grad)
    assert relative_error(found[1], found[0].to(torch.float64)) < 0.1


@pytest.mark.parametrize("shape", [(8, 12), (8, 8), (3, 8, 12)], ids=str)
def test_a_gradient_passes_to_the_power(shape):
    found = []
    for method in ("svd", Quintic(precision="float32")):
        power = torch.tensor(0.5, requires_grad=True)
        matrix = matrix_with(torch.logspace(0, -1, 8), shape).to(torch.float32)
        htmuon.spectral_power(matrix, power, method=method).square().sum().backward()
        found.append(power.grad.item())
    assert found[1] == pytest.approx(found[0], rel=0.1)


def test_float64_stays_float64():
    matrix = zoo_matrix("condition 1e2", (12, 20))
    for_float64 = htmuon.spectral_power(matrix, 0.125, method="quintic")
    exact = mapped_by_svd(matrix, lambda sigma: sigma**0.125)
    assert relative_error(for_float64, exact) < PROMISES[0.125]


@pytest.mark.parametrize("scale", [1e-40, 1e-38, 1e38])
def test_subnormal_and_huge_matrices(scale):
    matrix = (torch.eye(6, 9) * scale).to(torch.float32)
    found = htmuon.spectral_power(matrix, 0.0, method=Quintic(precision="bfloat16"))
    # Of equal singular values the weights are those of the largest; subnormal numbers have few digits.
    torch.testing.assert_close(found, torch.eye(6, 9), rtol=0, atol=0.03)


def test_it_names_what_it_needs():
    with pytest.raises(ValueError, match=r"needs a power.*this map is neither.*eigh"):
        Quintic().require(RankPower(0.5))
    with pytest.raises(ValueError, match=r"steps must be one of .*got 3"):
        Quintic(steps=3)
    with pytest.raises(ValueError, match=r"precision must be one of .*got 'half'"):
        Quintic(precision="half")


def test_a_step_is_that_of_the_functions():
    weight = torch.nn.Parameter(torch.zeros(24, 16))
    weight.grad = zoo_matrix("one over i", (24, 16)).to(torch.float32)
    method = Quintic(precision="float32")
    htmuon.HTMuon([weight], lr=1.0, weight_decay=0.0, momentum=0.0, method=method).step()
    expected = htmuon.spectral_power(weight.grad, 0.125, method=method) * 1.5**0.5
    torch.testing.assert_close(-weight.detach(), expected)
    assert METHODS["quintic"] == Quintic()
