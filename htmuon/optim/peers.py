"""Rows of `htmuon.like`: Muons that are installed wherever this library is developed, and the first one.

What was read in them, and measured by `tests/optim/test_like.py`: which momentum they take, which steps, what scale,
and of what the decay is a multiple. A new peer is one more function.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from htmuon.optim.adamuon import AdaMuon
from htmuon.optim.htmuon import Muon
from htmuon.optim.normuon import NorMuon
from htmuon.optim.peer_coefficients import (
    OF_MUON,
    POLAR_EXPRESS_1,
    POLAR_EXPRESS_2,
    YOU,
    Row,
)
from htmuon.optim.translation import Like, chosen, newton_schulz, peer, require

Rate = float | Tensor
JORDAN: tuple[Row, ...] = OF_MUON[:1]
OF_TIMM = {
    "original": JORDAN,
    "quintic": YOU,
    "polar_express": POLAR_EXPRESS_1,
    "polar_express_safer": POLAR_EXPRESS_2,
}
DESCEND = "here is no switch for that; negate the loss"


@peer("torch", version="2.14.1", convolutions="refused there")
def of_torch(
    *,
    lr: Rate = 1e-3,
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_coefficients: Sequence[float] = OF_MUON[0],
    eps: float = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: str | None = None,
) -> Like:
    """`torch.optim.Muon`."""
    return Like(
        Muon,
        lr=lr,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        adjust_lr_fn=adjust_lr_fn or "original",
        method=newton_schulz(ns_coefficients, ns_steps, {}),
        eps=eps,
    )


@peer("keller", version="00ba60d", convolutions="the same where out <= in kh kw: the scale there is max(1, kh/kw)^0.5")
def of_keller(*, lr: Rate = 0.02, weight_decay: float = 0.0, momentum: float = 0.95) -> Like:
    """Keller Jordan's own `Muon` and `MuonWithAuxAdam`, in one process or in many."""
    return Like(Muon, lr=lr, momentum=momentum, nesterov=True, weight_decay=weight_decay, method="newton_schulz")


@peer("timm", version="1.0.31")
def of_timm(
    *,
    lr: Rate = 0.02,
    weight_decay: float = 0,
    momentum: float = 0.95,
    nesterov: bool = False,
    ns_steps: int = 5,
    ns_coefficients: str | Sequence[Any] = "quintic",
    eps: float = 1e-7,
    safety_factor: float = 1.0,
    adjust_lr_fn: str | None = "match_rms_adamw",
    conv_mode: str = "flatten",
    normalize_spatial: bool = True,
    fallback_lr_scale: float = 1.0,
    betas: tuple[float, float] = (0.9, 0.95),
    algo: str = "muon",
    scale_eps: bool = False,
) -> Like:
    """`timm.optim.Muon`, with `algo` also its AdaMuon; the other parameters take NAdamW there if `nesterov`."""
    del normalize_spatial  # of conv_mode="batched" alone
    require("here a kernel is one matrix [out, in * kernel]", conv_mode=(conv_mode, "flatten"))
    require("here no floor depends on the shape", scale_eps=(scale_eps, False))
    arguments: dict[str, Any] = {
        "lr": lr,
        "momentum": momentum,
        "nesterov": nesterov,
        "weight_decay": weight_decay,
        "adjust_lr_fn": adjust_lr_fn or "none",
        "method": newton_schulz(ns_coefficients, ns_steps, OF_TIMM, margin=safety_factor),
        "eps": eps,
        "adamw_lr": lr * fallback_lr_scale,
        "adamw_betas": betas,
        "adamw_eps": eps,
        "adamw_weight_decay": weight_decay,
    }
    if chosen("algo", algo, {"muon": False, "adamuon": True}):
        require("without it no norm is fixed there, as it is here", adjust_lr_fn=(adjust_lr_fn, "match_rms_adamw"))
        return Like(AdaMuon, **arguments, beta2=betas[1], sign=False)
    return Like(Muon, **arguments)


def _of_pytorch_optimizer(
    lr: Rate, weight_decay: float, weight_decouple: bool, maximize: bool, adamw: tuple[Any, Any, Any, Any]
) -> dict[str, Any]:
    """What its variants have in common."""
    require(DESCEND, maximize=(maximize, False))
    if weight_decay:
        require("decay goes through the orthogonalization there", weight_decouple=(weight_decouple, True))
    names = ("adamw_lr", "adamw_betas", "adamw_weight_decay", "adamw_eps")
    return {"lr": lr, "weight_decay": weight_decay, **dict(zip(names, adamw, strict=True))}


@peer("pytorch_optimizer", version="4.1.0")
def of_pytorch_optimizer(
    *,
    lr: Rate = 2e-2,
    momentum: float = 0.95,
    weight_decay: float = 0.0,
    weight_decouple: bool = True,
    nesterov: bool = True,
    ns_steps: int = 5,
    ns_coeffs: str | Sequence[Any] = "original",
    use_adjusted_lr: bool = False,
    adamw_lr: Rate = 3e-4,
    adamw_betas: tuple[float, float] = (0.9, 0.95),
    adamw_wd: float = 0.0,
    adamw_eps: float = 1e-10,
    maximize: bool = False,
    ns_method: str = "newton_schulz",
    ns_reset_steps: tuple[int, ...] = (2,),
) -> Like:
    """`pytorch_optimizer.Muon`."""
    del ns_reset_steps  # another order of the same products
    chosen("ns_method", ns_method, {"newton_schulz": 0, "gram_newton_schulz": 1})
    adamw = (adamw_lr, adamw_betas, adamw_wd, adamw_eps)
    return Like(
        Muon,
        **_of_pytorch_optimizer(lr, weight_decay, weight_decouple, maximize, adamw),
        momentum=momentum,
        nesterov=nesterov,
        adjust_lr_fn="match_rms_adamw" if use_adjusted_lr else "original",
        method=newton_schulz(ns_coeffs, ns_steps, OF_TIMM, name="ns_coeffs"),
    )


@peer("pytorch_optimizer.NorMuon", version="4.1.0")
def of_pytorch_optimizer_normuon(
    *,
    lr: Rate = 2e-2,
    momentum: float = 0.95,
    beta2: float = 0.95,
    weight_decay: float = 0.0,
    weight_decouple: bool = True,
    nesterov: bool = True,
    ns_steps: int = 5,
    ns_coeffs: str | Sequence[Any] = "original",
    update_scale: str = "preserve_norm",
    use_adjusted_lr: bool = False,
    adamw_lr: Rate = 3e-4,
    adamw_betas: tuple[float, float] = (0.9, 0.95),
    adamw_wd: float = 0.0,
    adamw_eps: float = 1e-10,
    maximize: bool = False,
) -> Like:
    """`pytorch_optimizer.NorMuon`."""
    matched = chosen("update_scale", update_scale, {"preserve_norm": False, "match_rms": True})
    adamw = (adamw_lr, adamw_betas, adamw_wd, adamw_eps)
    return Like(
        NorMuon,
        **_of_pytorch_optimizer(lr, weight_decay, weight_decouple, maximize, adamw),
        momentum=momentum,
        nesterov=nesterov,
        beta2=beta2,
        adjust_lr_fn="match_rms_adamw" if use_adjusted_lr or matched else "original",
        normalization="rms" if matched else "auto",
        method=newton_schulz(ns_coeffs, ns_steps, OF_TIMM, name="ns_coeffs"),
    )


@peer("pytorch_optimizer.AdaMuon", version="4.1.0")
def of_pytorch_optimizer_adamuon(
    *,
    lr: Rate = 2e-2,
    betas: tuple[float, float] = (0.9, 0.95),
    weight_decay: float = 0.0,
    weight_decouple: bool = True,
    ns_steps: int = 5,
    ns_coeffs: str | Sequence[Any] = "original",
    use_adjusted_lr: bool = True,
    adamw_lr: Rate = 3e-4,
    adamw_betas: tuple[float, float] = (0.9, 0.999),
    adamw_wd: float = 0.0,
    eps: float = 1e-10,
    maximize: bool = False,
) -> Like:
    """`pytorch_optimizer.AdaMuon`."""
    adamw = (adamw_lr, adamw_betas, adamw_wd, eps)
    return Like(
        AdaMuon,
        **_of_pytorch_optimizer(lr, weight_decay, weight_decouple, maximize, adamw),
        momentum=betas[0],
        nesterov=False,
        beta2=betas[1],
        sign=False,
        adjust_lr_fn="match_rms_adamw" if use_adjusted_lr else "original",
        method=newton_schulz(ns_coeffs, ns_steps, OF_TIMM, name="ns_coeffs"),
    )
