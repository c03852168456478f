"""The contract of every method in the registry, against a float64 SVD."""

import dataclasses

import pytest
import torch
from matrices import SHAPES, SPECTRA, mapped_by_svd, matrix_with, relative_error, zoo_matrix

import htmuon
from htmuon.linalg import METHODS, Quintic, check_method, method_of, method_setting, select_method
from htmuon.linalg.newton_schulz import NewtonSchulz, spectral_norm_of_gram
from htmuon.linalg.parts import as_dict
from htmuon.linalg.select import OF_STEPS
from htmuon.spectral import Clip, Function, Knee, Power, RankPower

POWERS = [-0.5, -0.25, 0.0, 0.125, 0.5, 1.0]
# Of every field that a method has, a value that is not its default.
OTHER_SETTINGS = {"levels": 8, "steps": 6, "precision": "bfloat16", "eps": 1e-3, "coefficients": ((2.0, -1.5, 0.5),)}


CASES = [(name, power) for name in METHODS for power in POWERS if METHODS[name].can(Power(power))]


def direction_errors(name, power, spectrum, shape):
    """Relative error of the weight of every direction: the diagonal of U^T O V against the power of its sigma.

    The rounding of a float32 result is relative to its largest weight, so that much is granted to every direction.
    """
    matrix = matrix_with(spectrum, shape).to(torch.float32)
    u, sigma, vh = torch.linalg.svd(matrix.to(torch.float64), full_matrices=False)
    mapped = METHODS[name](matrix, Power(power))
    got = (u.mT @ mapped.matrix.to(torch.float64) @ vh.mT).diagonal(dim1=-2, dim2=-1)
    # Relative to the method's own reference: sigma_1, which is tested by itself, or a bound of it.
    weights = (sigma / mapped.reference.squeeze(-1)) ** power if power else torch.ones_like(sigma)
    relative = sigma / sigma[..., :1]
    rounding = 10 * torch.finfo(torch.float32).eps * weights.amax(-1, keepdim=True)
    return matrix, relative, ((got - weights).abs() - rounding).clamp(min=0) / weights


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize(("name", "power"), CASES)
def test_within_its_declared_range_a_method_meets_its_tolerance(name, power, spectrum, shape):
    values = SPECTRA[spectrum](min(shape[-2:]))
    matrix, relative, error = direction_errors(name, power, values[values > 0], shape_for(values, shape))
    tolerance, smallest = METHODS[name].accuracy(matrix, power)
    inside = relative >= smallest
    assert inside[..., 0].all()
    assert error[inside].max() <= tolerance


def shape_for(values, shape):
    """The shape whose short side holds the positive values only, so that every direction has an oracle."""
    short = int((values > 0).sum())
    rows, columns = shape[-2:]
    return (*shape[:-2], rows if rows > columns else short, short if rows > columns else columns)


@pytest.mark.parametrize(("name", "power"), [case for case in CASES if case[1] > 0])
@pytest.mark.parametrize("spectrum", ["condition 1e6", "condition 1e8", "half rank"])
def test_below_its_range_a_method_never_weighs_more_than_at_its_edge(name, power, spectrum):
    matrix = zoo_matrix(spectrum, (40, 65)).to(torch.float32)
    mapped = METHODS[name](matrix, Power(power)).matrix
    assert mapped.isfinite().all()
    tolerance, smallest = METHODS[name].accuracy(matrix, power)
    u, sigma, vh = torch.linalg.svd(matrix.to(torch.float64), full_matrices=False)
    below = sigma < smallest * sigma[0]
    weights = (u.mT @ mapped.to(torch.float64) @ vh.mT).diagonal().abs()
    # 1e-6: the rounding of a float32 result whose largest weight is 1.
    assert (weights[below] <= smallest**power * (1 + tolerance) + 1e-6).all()


@pytest.mark.parametrize("shape", [(64, 64), (120, 80), (80, 200)], ids=str)
@pytest.mark.parametrize("condition", [0, 2, 4, 6])
@pytest.mark.parametrize("power", POWERS)
def test_eigh_is_exact_to_1e_4_up_to_condition_1e6(shape, condition, power):
    # The promise of the library for float32 storage; measured errors are below 2e-5.
    matrix = matrix_with(torch.logspace(0, -condition, min(shape)), shape).to(torch.float32)
    expected = mapped_by_svd(matrix, lambda sigma: (sigma / sigma.max()) ** power)
    assert relative_error(METHODS["eigh"](matrix, Power(power)).matrix, expected) < 1e-4


@pytest.mark.parametrize("power", [-0.25, 0.0, 0.125])
def test_eigh_leaves_out_what_rounding_made(power):
    # A gradient of 8 tokens: rank 8, but in float32 rounding fills the other 248 directions at 1e-8.
    exact = torch.randn(256, 8, dtype=torch.float64) @ torch.randn(8, 256, dtype=torch.float64)
    mapped = METHODS["eigh"](exact.to(torch.float32), Power(power))
    expected = mapped_by_svd(exact, lambda sigma: (sigma / sigma.max()) ** power)
    assert mapped.rank.item() == 8
    assert relative_error(mapped.matrix, expected) < 1e-5


@pytest.mark.parametrize("name", ["svd", "eigh"])
@pytest.mark.parametrize("shape", [(40, 25), (25, 40)], ids=str)
def test_rank_power_sees_the_order_of_the_singular_values(name, shape):
    matrix = zoo_matrix("condition 1e4", shape).to(torch.float32)
    position = torch.arange(1, 26, dtype=torch.float64)
    expected = mapped_by_svd(matrix, lambda sigma: position**-0.5)
    # 1e-5: float32 rounding over sums of 25 terms, with a margin of ten.
    assert relative_error(METHODS[name](matrix, RankPower(0.5)).matrix, expected) < 1e-5


@pytest.mark.parametrize(("name", "power"), CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_narrow_inputs_are_worked_on_in_float32(name, power, dtype):
    matrix = zoo_matrix("one over i", (12, 20)).to(dtype)
    mapped = METHODS[name](matrix, Power(power)).matrix
    assert mapped.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = mapped_by_svd(matrix, lambda sigma: (sigma / sigma.max()) ** power)
    tolerance, _ = METHODS[name].accuracy(matrix, power)
    # The spectrum 1/i of 12 values lies inside the range of every method.
    assert relative_error(mapped, expected) <= max(tolerance, 1e-6)


@pytest.mark.parametrize(("name", "power"), CASES)
def test_a_zero_matrix_maps_to_zero_and_leaves_its_batch_alone(name, power):
    filled = zoo_matrix("condition 1e2", (6, 9)).to(torch.float32)
    mapped = METHODS[name](torch.stack([filled, torch.zeros(6, 9)]), Power(power))
    alone = METHODS[name](filled, Power(power)).matrix
    assert (mapped.matrix[1] == 0).all()
    assert mapped.rank.flatten().tolist() == [6, 0]
    # Batched products may sum in another order; in bfloat16, relative to the largest weight, in the quintic recipes.
    narrow = name == "quintic" or (name, power) == ("newton_schulz", 0.0)
    rounding = 4e-2 * 100 ** max(-power, 0) if narrow else 1e-5
    torch.testing.assert_close(mapped.matrix[0], alone, rtol=0, atol=rounding)


@pytest.mark.parametrize(("name", "power"), CASES)
def test_transposing_the_matrix_transposes_the_result(name, power):
    matrix = zoo_matrix("one over i", (11, 30)).to(torch.float32)
    torch.testing.assert_close(
        METHODS[name](matrix.mT, Power(power)).matrix.mT, METHODS[name](matrix, Power(power)).matrix, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("name", METHODS)
def test_sigma_1_is_found(name, spectrum):
    matrix = zoo_matrix(spectrum, (30, 50)).to(torch.float32) * 7
    sigma_1 = torch.linalg.matrix_norm(matrix.to(torch.float64), ord=2)
    estimate = METHODS[name](matrix, Power(0.5)).sigma_1.squeeze()
    # Power iteration stays below by a few percent where the leading values are close (the docstring's promise); a
    # matrix that is rounded to bfloat16 may be larger by a fraction of that rounding.
    assert 0.95 * sigma_1 <= estimate <= (1 + (2e-3 if name == "quintic" else 1e-6)) * sigma_1


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_sigma_1_of_the_polar_recipe_is_an_upper_bound(spectrum):
    matrix = zoo_matrix(spectrum, (30, 50)).to(torch.float32) * 7
    sigma_1 = torch.linalg.matrix_norm(matrix.to(torch.float64), ord=2)
    assert METHODS["newton_schulz"](matrix, Power(0.0)).sigma_1 >= sigma_1 * (1 - 1e-6)


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_the_spectral_norm_bound_is_never_below(spectrum):
    matrix = zoo_matrix(spectrum, (3, 30, 30))
    gram = matrix @ matrix.mT
    largest = torch.linalg.eigvalsh(gram)[:, -1]
    estimate, bound = (value.flatten() for value in spectral_norm_of_gram(gram))
    assert (bound >= largest * (1 - 1e-12)).all()
    assert (bound <= largest * 30 ** (1 / 16)).all()
    assert (estimate <= largest * (1 + 1e-12)).all()


def test_newton_schulz_at_zero_is_the_recipe_of_torch():
    from torch.optim._muon import _zeropower_via_newtonschulz

    matrix = zoo_matrix("one over i", (40, 24)).to(torch.float32)
    expected = _zeropower_via_newtonschulz(matrix, (3.4445, -4.7750, 2.0315), 5, 1e-7).to(torch.float32)
    # Five bfloat16 steps on slightly different roundings of the normalized input: a few units of 2^-8.
    assert relative_error(METHODS["newton_schulz"](matrix, Power(0.0)).matrix, expected.to(torch.float64)) < 0.02


def test_newton_schulz_takes_the_coefficients_of_others():
    matrix = zoo_matrix("one over i", (40, 24)).to(torch.float32)
    rows = ((4.0848, -6.8946, 2.9270), (2.8769, -3.1427, 1.2046), (2.0, -1.5, 0.5))
    x = matrix.to(torch.float64).mT / matrix.norm()
    for a, b, c in rows:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    # Three bfloat16 steps: a few units of 2^-8, of which the first step makes four times as many.
    assert relative_error(NewtonSchulz(coefficients=rows)(matrix, Power(0.0)).matrix, x.mT) < 0.03
    given = [list(row) for row in rows]  # as a file of JSON has them
    assert method_of({"name": "newton_schulz", "coefficients": given}) == NewtonSchulz(coefficients=rows)
    torch.testing.assert_close(
        NewtonSchulz(coefficients=((3.4445, -4.7750, 2.0315),) * 5)(matrix, Power(0.0)).matrix,
        NewtonSchulz()(matrix, Power(0.0)).matrix,
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ((), ValueError, r"at least one triple; got \(\)"),
        ((3.4, -4.7, 2.0), TypeError, r"a sequence of triples \(a, b, c\), one a step; got \(3.4"),
        (((3.4, -4.7),), TypeError, "a sequence of triples"),
        (((3.4, -4.7, float("nan")),), ValueError, "must be a finite number"),
        ((("3.4", 1.0, 1.0),), TypeError, "must be a number; got '3.4'"),
    ],
)
def test_coefficients_are_checked(rows, error, message):
    with pytest.raises(error, match=message):
        NewtonSchulz(coefficients=rows)


def test_methods_name_what_they_need():
    with pytest.raises(ValueError, match=r"needs power 0 or 2\^-k.*got power=0\.3.*eigh"):
        check_method("newton_schulz", Power(0.3))
    with pytest.raises(ValueError, match="not a power"):
        check_method("newton_schulz", RankPower(0.5))
    with pytest.raises(ValueError, match=r"one of auto, .*got 'eig'.*Did you mean 'eigh'"):
        check_method("eig", Power(0.125))


def test_auto_can_be_asked():
    accelerator = torch.ones(3, 4, device="meta")
    assert select_method(torch.ones(3, 4), Power(0.125)).name == "eigh"
    assert select_method(torch.ones(3, 4, dtype=torch.float64), Power(0.125)).name == "svd"
    assert select_method(accelerator, Power(0.125)).name == "polynomial"
    assert select_method(accelerator, Power(-0.5)).name == "eigh"
    assert select_method(accelerator, RankPower(0.125)).name == "eigh"
    assert select_method(accelerator, Power(0.125), "exact").name == "eigh"


def test_auto_allows_a_step_more_than_a_function():
    matrix, narrow, accelerator = torch.ones(3, 4), torch.ones(3, 4, dtype=torch.bfloat16), torch.ones(1, device="meta")
    for one in (matrix, narrow, accelerator):
        for function in (Power(0.0), Power(0.125), Power(torch.tensor(0.5)), Knee(0.125), Function(lambda x: x + 0.1)):
            assert select_method(one, function, tolerance=OF_STEPS).name == "quintic"
    assert select_method(matrix, Power(-0.125), tolerance=OF_STEPS).name == "eigh"
    assert select_method(accelerator, Power(-0.125), tolerance=OF_STEPS).name == "polynomial"
    assert select_method(matrix, RankPower(0.125), tolerance=OF_STEPS).name == "eigh"
    assert select_method(matrix, Clip(0.01), tolerance=OF_STEPS).name == "eigh"  # a corner, which no polynomial follows
    assert select_method(matrix.to(torch.float64), Power(0.125), tolerance=OF_STEPS).name == "svd"


@pytest.mark.parametrize(
    ("shape", "steps"), [((127, 512), 7), ((512, 64), 7), ((3, 64, 512), 7), ((128, 128), 5), ((256, 4, 128, 200), 5)]
)
def test_auto_takes_more_steps_where_they_cost_little(shape, steps):
    assert select_method(torch.empty(()).expand(shape), Power(0.125), tolerance=OF_STEPS) == Quintic(steps=steps)


@pytest.mark.parametrize(("shape", "steps"), [((64, 256, 3, 3), 7), ((256, 128, 3, 3), 5), ((4, 256, 128), 5)])
def test_a_step_asks_for_the_matrices_of_a_parameter(shape, steps):
    weight = torch.nn.Parameter(torch.zeros(shape))
    optimizer = htmuon.HTMuon([weight])
    assert optimizer._rules(optimizer.param_groups[0])._method(weight) == Quintic(steps=steps)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_becomes_a_setting_and_itself_again(name):
    method = METHODS[name]
    assert method_setting(method) == name
    assert method_of(name) is method_of(method) is method
    assert method_of(as_dict(name, method)) == method
    for field in dataclasses.fields(method):
        other = dataclasses.replace(method, **{field.name: OTHER_SETTINGS[field.name]})
        setting = method_setting(other)
        assert setting == {"name": name, **dataclasses.asdict(other)}
        assert method_of(setting) == other


def test_methods_say_what_a_compiler_may_do():
    assert {name for name, method in METHODS.items() if not method.compiles} == {"eigh", "svd"}
    assert {name for name, method in METHODS.items() if method.reads_power} == {"newton_schulz"}
