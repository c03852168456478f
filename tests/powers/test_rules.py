"""Rules that look at spectra: against their formulas in float64, on spectra of all kinds."""

import dataclasses
import math

import pytest
import torch
from torch.linalg import matrix_norm, svdvals

from htmuon.analysis import eigenvalues
from htmuon.powers import RULES, Alpha, NuclearRank, Schatten
from htmuon.powers.controller import rule_of
from htmuon.powers.schatten import log_descent

SPECTRA = {
    "random": None,
    "low_rank": lambda i: (i < 5).double(),
    "flat": lambda i: torch.ones_like(i),
    "heavy": lambda i: (i + 1.0) ** -1.5,
    "light": lambda i: (-0.05 * i).exp(),
    "spiked": lambda i: torch.where(i == 0, 30.0, 1.0 - i / 100),
}


def drawn(kind, shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    matrix = torch.randn(shape, generator=draw, dtype=torch.float64)
    if SPECTRA[kind] is None:
        return matrix
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return (u * SPECTRA[kind](torch.arange(min(shape), dtype=torch.float64))) @ vh


def schatten_norm(matrix, q):
    sigma = svdvals(matrix)  # in units of the largest: q may be 510
    return sigma[0] * (1 if math.isinf(q) else ((sigma / sigma[0]) ** q).sum() ** (1 / q))


def norms(p):
    """The Schatten index of a step at a power, and that of the activations beside it."""
    return (math.inf if p == 0 else 1 + 1 / p), (math.inf if p == 1 else 2 * (1 + p) / (1 - p))


@pytest.mark.parametrize("kind", ["random", "heavy", "light", "spiked"])
def test_alpha_is_a_line_between_its_ends(kind):
    w = drawn(kind, (24, 40))
    values = svdvals(w).square().flip(0)
    upper = values[len(values) // 2 :]  # the published estimator: i = int(N / 2) of ascending eigenvalues
    alpha = float(1 + len(upper) / (upper / upper[0]).log().sum())
    expected = 0.05 + (0.3 - 0.05) * min(max((alpha - 1.5) / (5.0 - 1.5), 0), 1)
    rule = Alpha(lowest=0.05, highest=0.3, heavy=1.5, light=5.0)
    assert rule(eigenvalues(w)).item() == pytest.approx(expected, rel=1e-9)


def test_heavy_tails_get_the_lower_power_and_what_has_no_fit_none():
    heavy, light = (Alpha()(eigenvalues(drawn(kind, (24, 80)))).item() for kind in ("heavy", "random"))
    assert heavy == 0 < light < 0.25
    small, flat = eigenvalues(drawn("random", (9, 40))), eigenvalues(drawn("flat", (24, 40)))
    assert Alpha()(small).isnan()
    assert Alpha()(flat).isnan()


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_nuclear_rank_follows_the_norms(kind, sharpness):
    g, a = drawn(kind, (24, 40)), drawn("random", (200, 40), 1)
    nr = (matrix_norm(g, "nuc") / matrix_norm(g)) ** 2
    st = (matrix_norm(a) / matrix_norm(a, 2)) ** 2
    expected = 0.1 + (0.7 - 0.1) * st**sharpness / (st**sharpness + nr**sharpness)
    rule = NuclearRank(lowest=0.1, highest=0.7, sharpness=sharpness)
    assert rule(eigenvalues(g), eigenvalues(a)).item() == pytest.approx(expected.item(), rel=1e-9)


def test_the_threshold_of_nuclear_rank_is_the_published_one():
    squares = torch.ones(8, dtype=torch.float64)  # nr = st = 8
    assert NuclearRank()(squares, squares).item() == 0.5
    switch = NuclearRank(sharpness=1e4)
    assert switch(squares, squares[:7]).item() == pytest.approx(0, abs=1e-9)
    assert switch(squares[:7], squares).item() == pytest.approx(1)


@pytest.mark.parametrize("activations", SPECTRA)
@pytest.mark.parametrize("gradient", SPECTRA)
def test_schatten_finds_the_largest_ratio_of_norms(gradient, activations):
    g, a = drawn(gradient, (24, 40)), drawn(activations, (200, 40), 1)
    powers = [number / 128 for number in range(129)]
    ratios = torch.stack([schatten_norm(g, 1 + p) / schatten_norm(a, norms(p)[1]) for p in powers])
    spectra = eigenvalues(g), eigenvalues(a)
    torch.testing.assert_close(log_descent(*spectra, torch.tensor(powers).double()), ratios.log(), rtol=0, atol=1e-9)
    found = Schatten()(*spectra).item()
    assert ratios[powers.index(found)] >= ratios.max() * (1 - 1e-9)
    # The ends are the two steps that nuclear_rank compares.
    nr, st = (matrix_norm(g, "nuc") / matrix_norm(g)) ** 2, (matrix_norm(a) / matrix_norm(a, 2)) ** 2
    assert (ratios[0] / ratios[-1]).square().item() == pytest.approx((nr / st).item(), rel=1e-9)


@pytest.mark.parametrize("p", [0.0, 0.125, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("kind", SPECTRA)
def test_the_promise_of_a_power_is_kept(kind, p):
    # Hoelder's inequality, the dual norm, and the descent that follows, for the loss |W A^T - Y|^2 / (2n).
    q, k = norms(p)
    a, w, y = drawn(kind, (200, 40), 1), drawn("random", (24, 40), 2), drawn("random", (24, 200), 3)

    def loss(weights):
        return (weights @ a.mT - y).square().sum() / (2 * len(a))

    g = (w @ a.mT - y) @ a / len(a)
    for seed in range(5):
        d = drawn("random", (24, 40), 10 + seed)
        assert matrix_norm(d @ a.mT) <= schatten_norm(d, q) * schatten_norm(a, k) * (1 + 1e-12)
        assert (g * d).sum() <= schatten_norm(d, q) * schatten_norm(g, 1 + p) * (1 + 1e-12)
    u, s, vh = torch.linalg.svd(g, full_matrices=False)
    rank = int((s > 1e-9 * s[0]).sum())  # sigma^0 of rounding would be 1
    step = (u[:, :rank] * s[:rank] ** p) @ vh[:rank]
    assert (g * step).sum().item() == pytest.approx((schatten_norm(step, q) * schatten_norm(g, 1 + p)).item(), rel=1e-6)
    curvature = schatten_norm(a, k) ** 2 / len(a)
    length = schatten_norm(g, 1 + p) / curvature / schatten_norm(step, q)
    promised = log_descent(eigenvalues(g), eigenvalues(a), torch.tensor([p]).double()).exp().square() * len(a) / 2
    assert loss(w) - loss(w - length * step) >= promised.item() * (1 - 1e-6)


def spectra_of(rule, seed=0):
    of = {"weights": (24, 40), "gradients": (24, 40), "activations": (200, 40)}
    kinds = list(SPECTRA)
    drawn_for = {name: drawn(kinds[(seed + place) % 6], shape, seed) for place, (name, shape) in enumerate(of.items())}
    return [eigenvalues(drawn_for[name]) for name in rule.looks_at]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("seed", range(6))
def test_every_rule_keeps_its_bounds_knows_no_scale_and_takes_stacks(name, seed):
    rule = dataclasses.replace(RULES[name], lowest=0.1, highest=0.2)
    spectra = spectra_of(rule, seed)
    found = rule(*spectra)
    assert found.isnan() or 0.1 <= found <= 0.2
    for scale in (1e-12, 1e12):
        torch.testing.assert_close(rule(*(scale * of for of in spectra)), found, rtol=1e-9, atol=0, equal_nan=True)
    others = rule(*spectra_of(rule, seed + 1)[:1], *spectra[1:])
    stack = torch.stack([spectra[0], spectra_of(rule, seed + 1)[0]])[None]
    expected = torch.stack([found, others])[None]
    torch.testing.assert_close(rule(stack, *spectra[1:]), expected, rtol=1e-12, atol=0, equal_nan=True)


@pytest.mark.parametrize("rule", [NuclearRank(), Schatten()])
def test_nothing_to_see_is_no_power(rule):
    squares, zero = torch.ones(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    assert rule(zero, squares).isnan()
    assert rule(squares, zero).isnan()
    assert rule(torch.stack([squares, zero]), squares).isnan().tolist() == [False, True]


@pytest.mark.parametrize(
    ("choice", "error", "message"),
    [
        ("alpa", ValueError, r"rule must be one of alpha, nuclear_rank, schatten; got 'alpa'. Did you mean 'alpha'\?"),
        (3, TypeError, r"rule must be a name, a dict or an object; got 3 of type int. Pass 'alpha'"),
        (Alpha, TypeError, r"rule must be a name, a dict or an object of a class of htmuon.powers; .* Pass 'alpha'"),
        ({"name": "alpha", "hevy": 1}, ValueError, r"rule 'alpha' takes lowest, highest, .*; got hevy"),
        ({"name": "alpha", "light": 1.5}, ValueError, r"light must be a finite number greater than 2; got 1.5"),
        (
            {"name": "alpha", "highest": 2},
            ValueError,
            r"highest must be a finite number at least 0 and at most 1; got 2",
        ),
        ({"name": "nuclear_rank", "sharpness": 0}, ValueError, r"sharpness must be .* greater than 0; got 0"),
        ({"name": "nuclear_rank", "averaging": 1}, ValueError, r"averaging must be .* less than 1; got 1"),
        ({"name": "schatten", "lowest": -0.25}, ValueError, r"lowest must be at least 0, .*; got -0.25. Pass 0.0"),
    ],
)
def test_bad_rules_say_what_is_wrong(choice, error, message):
    with pytest.raises(error, match=message):
        rule_of(choice)
