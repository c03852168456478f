"""Products that keep float32: no TF32 and no half-precision sums inside, whatever the process asks for outside."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from warnings import catch_warnings, simplefilter

import torch

# A place where torch keeps a precision, and the one above it that counts where this one says "none".
Place = tuple[str, str]
ABOVE: dict[Place, Place] = {
    ("cuda", "matmul"): ("cuda", "all"),
    ("cuda", "all"): ("generic", "all"),
    ("mkldnn", "matmul"): ("mkldnn", "all"),
    ("mkldnn", "all"): ("generic", "all"),
}
PRODUCTS: tuple[Place, ...] = (("cuda", "matmul"), ("mkldnn", "matmul"))
EXACT = ("ieee", "none")
AUTOCAST_DEVICES = ("cuda", "cpu")
# Settings of `torch.backends.cuda.matmul` that let cuBLAS add up half-precision products in half precision.
NARROW_SUMS = (
    "allow_fp16_accumulation",
    "allow_fp16_reduced_precision_reduction",
    "allow_bf16_reduced_precision_reduction",
)


@contextmanager
def full_float32() -> Iterator[None]:
    """Inside, products of float32 matrices are IEEE float32 on every device; afterwards all is as it was before.

    Neither TF32 nor bfloat16 stands in for float32, half-precision products sum in float32 throughout, and autocast is
    off. For the whole process, like the settings that it changes. Enter it outside of a compiled region: inside of one
    torch has decided already, and this does nothing.

    Example:
        >>> import torch
        >>> torch.set_float32_matmul_precision("medium")
        >>> with full_float32():
        ...     torch.get_float32_matmul_precision()
        'highest'
        >>> torch.get_float32_matmul_precision()
        'medium'
        >>> torch.set_float32_matmul_precision("highest")
    """
    if torch.compiler.is_compiling():
        yield
        return
    with ExitStack() as entered:
        for device in AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(device):
                entered.enter_context(torch.autocast(device, enabled=False))
        if any(_effective(place) not in EXACT for place in PRODUCTS):
            entered.enter_context(_ieee_products())
        for setting in NARROW_SUMS:
            if getattr(torch.backends.cuda.matmul, setting) is True:
                setattr(torch.backends.cuda.matmul, setting, False)
                entered.callback(setattr, torch.backends.cuda.matmul, setting, True)
        yield


@lru_cache(maxsize=1)
def multiplies_float16() -> bool:
    """Whether the processor has instructions for products of float16; without them torch widens number by number."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", None)
    return supported is not None and bool(supported())


@lru_cache(maxsize=1)
def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for products of bfloat16; without them float32 is faster."""
    if not hasattr(torch.cpu, "get_capabilities"):  # before torch 2.10
        return bool(torch.cpu._is_avx512_bf16_supported())
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


@contextmanager
def _ieee_products() -> Iterator[None]:
    """Set every precision of products, and restore it.

    torch keeps what its older functions were told beside the newer settings, compares the two when asked for either,
    and refuses to go on where they contradict each other: so both have to change. With the newer settings exact,
    nothing contradicts, and the older one can be read.
    """
    stored = {place: _stored(place) for place in PRODUCTS}
    _store_all(dict.fromkeys(PRODUCTS, "ieee"))
    _hear_the_warning_once()
    legacy = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    _store_all(dict.fromkeys(PRODUCTS, "ieee"))
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(legacy)
        _store_all(stored)


@lru_cache(maxsize=1)
def _hear_the_warning_once() -> None:
    """Some versions of torch say, once, that the function is older; that is no business of whoever takes a step."""
    with catch_warnings():
        simplefilter("ignore")
        torch.get_float32_matmul_precision()


def _effective(place: Place) -> str:
    """The precision that counts at a place."""
    precision: str = torch._C._get_fp32_precision_getter(*place)
    return precision


def _store(place: Place, precision: str) -> None:
    torch._C._set_fp32_precision_setter(*place, precision)


def _store_all(precisions: dict[Place, str]) -> None:
    for place, precision in precisions.items():
        _store(place, precision)


def _stored(place: Place) -> str:
    """What a place itself says, "none" where it follows the one above: torch tells only what counts, so try it."""
    effective = _effective(place)
    if place not in ABOVE:
        return effective
    above = ABOVE[place]
    before = _stored(above)
    _store(above, "tf32" if effective == "ieee" else "ieee")
    follows = _effective(place) != effective
    _store(above, before)
    return "none" if follows else effective
