"""Float32 products inside of `full_float32`, and the settings of the process after it."""

import contextlib
import itertools
import warnings

import pytest
import torch

import htmuon
from htmuon.kernels import full_float32
from htmuon.kernels.precision import ABOVE, NARROW_SUMS, PRODUCTS

PLACES = [*ABOVE, ("generic", "all")]


def settings():
    """Everything that torch tells about the precision of products; it refuses to answer where settings disagree."""
    answers = [torch._C._get_fp32_precision_getter(*place) for place in PLACES]
    for ask in (torch.get_float32_matmul_precision, lambda: torch.backends.cuda.matmul.allow_tf32):
        try:
            answers.append(ask())
        except RuntimeError:
            answers.append("contradiction")
    return answers


def set_matmul(value):
    torch.backends.cuda.matmul.fp32_precision = value


def set_onednn(value):
    torch.backends.mkldnn.matmul.fp32_precision = value


def set_all(value):
    torch.backends.fp32_precision = value


def set_cudnn(value):
    torch.backends.cudnn.fp32_precision = value  # the parent of torch.backends.cuda.matmul


def set_legacy_flag(value):
    torch.backends.cuda.matmul.allow_tf32 = value


SETTERS = {
    "legacy medium": lambda: torch.set_float32_matmul_precision("medium"),
    "legacy high": lambda: torch.set_float32_matmul_precision("high"),
    "legacy flag on": lambda: set_legacy_flag(True),
    "legacy flag off": lambda: set_legacy_flag(False),
    "matmul tf32": lambda: set_matmul("tf32"),
    "matmul ieee": lambda: set_matmul("ieee"),
    "onednn bf16": lambda: set_onednn("bf16"),
    "onednn tf32": lambda: set_onednn("tf32"),
    "all tf32": lambda: set_all("tf32"),
    "all ieee": lambda: set_all("ieee"),
    "cudnn tf32": lambda: set_cudnn("tf32"),
}
ORDERS = [*itertools.permutations(SETTERS, 1), *itertools.permutations(SETTERS, 2)]


def reset():
    torch.set_float32_matmul_precision("highest")
    for place in PLACES:
        torch._C._set_fp32_precision_setter(*place, "none")


@pytest.fixture(autouse=True)
def _defaults_afterwards():
    yield
    reset()


@pytest.mark.parametrize("order", ORDERS, ids=" then ".join)
def test_whatever_was_set_is_exact_inside_and_as_before_afterwards(order):
    for name in order:
        SETTERS[name]()
    before = settings()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with full_float32():
            assert {torch._C._get_fp32_precision_getter(*place) for place in PRODUCTS} <= {"ieee", "none"}
    assert settings() == before


@pytest.mark.parametrize("order", ORDERS, ids=" then ".join)
def test_a_setting_that_follows_another_goes_on_following_it(order):
    answers = []
    for enter in (contextlib.nullcontext, full_float32):
        reset()
        for name in order:
            SETTERS[name]()
        with enter():
            pass
        for change in ("all tf32", "all ieee", "cudnn tf32"):
            SETTERS[change]()
            answers.append(settings())
    assert answers[:3] == answers[3:]


def test_nothing_that_asks_in_the_old_way_meets_a_contradiction():
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    assert settings()[-1] == "contradiction"
    with full_float32():
        assert settings()[-2:] == ["highest", False]


def test_an_exception_restores_the_settings():
    torch.set_float32_matmul_precision("medium")
    before = settings()
    with pytest.raises(KeyError), full_float32():
        raise KeyError
    assert settings() == before


def test_it_nests():
    torch.set_float32_matmul_precision("medium")
    before = settings()
    with full_float32():
        with full_float32():
            pass
        assert torch.get_float32_matmul_precision() == "highest"
    assert settings() == before


@pytest.mark.parametrize("setting", NARROW_SUMS)
def test_half_precision_sums_run_in_float32_inside(setting):
    matmul = torch.backends.cuda.matmul
    before = getattr(matmul, setting)
    for given in (True, False):
        try:
            setattr(matmul, setting, given)
            with full_float32():
                assert getattr(matmul, setting) is False
            assert getattr(matmul, setting) is given
        finally:
            setattr(matmul, setting, before)


def test_autocast_is_off_inside():
    a = torch.randn(64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with full_float32():
            assert (a @ a).dtype == torch.float32
        assert (a @ a).dtype == torch.bfloat16


def test_a_compiled_function_that_enters_it_is_one_graph():
    def doubled(x):
        with full_float32():
            return x @ x * 2

    x = torch.randn(4, 4)
    torch.testing.assert_close(torch.compile(doubled, fullgraph=True, backend="eager")(x), doubled(x))


def medium_differs():
    """Whether "medium" changes a product of this machine at all; on some it is another float32 algorithm, on some none.

    Where it is bfloat16, the difference is one of accuracy too; equal bits show the stronger claim in both cases.
    """
    a = torch.randn(512, 512)
    exact = a @ a
    torch.set_float32_matmul_precision("medium")
    differs = not torch.equal(a @ a, exact)
    torch.set_float32_matmul_precision("highest")
    return differs


def test_maps_and_steps_are_the_same_to_the_bit_under_every_setting():
    if not medium_differs():
        pytest.skip("this machine computes float32 products in the same way under all settings")
    matrix = torch.randn(512, 512)
    results = []
    for precision in ("highest", "medium"):
        torch.set_float32_matmul_precision(precision)
        mapped = htmuon.spectral_power(matrix, 0.125, method=htmuon.linalg.Polynomial(precision="float32"))
        weight = torch.nn.Parameter(torch.zeros(512, 512))
        weight.grad = matrix.clone()
        htmuon.HTMuon([weight], method=htmuon.linalg.Polynomial(precision="float32")).step()
        results.append((mapped, weight.detach()))
        assert torch.get_float32_matmul_precision() == precision
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
