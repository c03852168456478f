"""More rows of `htmuon.like`: Muons of packages that an environment of this library need not have."""

from collections.abc import Sequence
from typing import Any

from htmuon.optim.htmuon import Muon
from htmuon.optim.peer_coefficients import (
    OF_MUON,
    POLAR_EXPRESS_5,
    POLAR_EXPRESS_OF_FIVE,
    POLAR_EXPRESS_ROUNDED,
    YOU,
)
from htmuon.optim.peers import DESCEND, JORDAN, Rate
from htmuon.optim.translation import Like, chosen, newton_schulz, peer, refuse, require

OF_EMERGING = {"simple": JORDAN, "quintic": YOU, "polar_express": POLAR_EXPRESS_ROUNDED}
SCALES = {"original": "original", "match_rms_adamw": "match_rms_adamw", "none": "none"}
BY_NORM = {"rms_norm": "match_rms_adamw", "spectral_norm": "spectral_unclamped", None: "none"}


def _times(factor: float, lr: Rate, weight_decay: float) -> dict[str, Any]:
    """A rate that is larger by a factor, with the decay that then takes the same part of the weights."""
    if not factor > 0:
        raise refuse(f"a factor of the rate of {factor!r}", "the update would not descend", "Pass a positive number.")
    return {"lr": lr * factor, "weight_decay": weight_decay / factor}


def _plain_decay(name: str, cautious: bool, weight_decay: float) -> None:
    """Raise where weights are decayed only if the update has their sign."""
    if cautious and weight_decay:
        raise refuse(
            f"{name}=True", "its decay has not been compared with weight_update='cautious' here", f"Pass {name}=False."
        )


def _decay_of_the_scale(name: str, weight_decay: float, factor: str) -> None:
    """Raise where the decay is a multiple of the scale, another for each shape."""
    if weight_decay:
        raise refuse(
            f"{name}={weight_decay!r}",
            "there it is multiplied by the scale of the update, here by the learning rate alone",
            f"Pass {name}=0, and give each shape a group with weight_decay={weight_decay!r} times {factor}.",
        )


@peer("optax", version="0.2.8", convolutions="as their muon_weight_dimension_numbers say; here `matrix_view`")
def of_optax(
    *,
    learning_rate: Rate,
    ns_coeffs: str | Sequence[Any] = JORDAN[0],
    ns_steps: int = 5,
    beta: float = 0.95,
    weight_decay: float = 0.0,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    consistent_rms: float | None = None,
) -> Like:
    """`optax.contrib.muon`; its kernels are [in, out]."""
    require(
        "the momentum is corrected for its start there, and its Nesterov step differs from ours by a tenth at "
        "the second and the third step, and by rounding after fifty",
        nesterov=(nesterov, False),
    )
    require("the update there grows with the gradient", adaptive=(adaptive, False))
    require("another norm divides the momentum there", preconditioning=(preconditioning, "frobenius"))
    presets = {"standard": OF_MUON, "dion": YOU}
    rows: Any = presets.get(ns_coeffs, ()) if isinstance(ns_coeffs, str) else ns_coeffs
    steps = len(rows) if rows and isinstance(rows[0], Sequence) and ns_coeffs != "standard" else ns_steps
    factor = 1.0 if consistent_rms is None else 5 * consistent_rms
    return Like(
        Muon,
        **_times(factor, learning_rate, weight_decay),
        momentum=beta,
        nesterov=False,
        adjust_lr_fn="original" if consistent_rms is None else "match_rms_adamw",
        method=newton_schulz(ns_coeffs, steps, presets, name="ns_coeffs"),
    )


@peer("keras", version="3.15.1", convolutions="AdamW there")
def of_keras(
    *,
    learning_rate: Rate = 0.001,
    weight_decay: float | None = 0.004,
    clipnorm: float | None = None,
    clipvalue: float | None = None,
    global_clipnorm: float | None = None,
    use_ema: bool = False,
    muon_a: float = JORDAN[0][0],
    muon_b: float = JORDAN[0][1],
    muon_c: float = JORDAN[0][2],
    momentum: float = 0.95,
    ns_steps: int = 5,
    nesterov: bool = True,
    rms_rate: float | None = 0.2,
) -> Like:
    """`keras.optimizers.Muon`; its kernels are [in, out]."""
    clips = {"clipnorm": clipnorm, "clipvalue": clipvalue, "global_clipnorm": global_clipnorm}
    for name, value in clips.items():
        require("gradients are clipped in the loop here, by torch.nn.utils", **{name: (value, None)})
    require("weights are averaged by torch.optim.swa_utils here", use_ema=(use_ema, False))
    return Like(
        Muon,
        **_times(1.0 if rms_rate is None else 5 * rms_rate, learning_rate, weight_decay or 0.0),
        momentum=momentum,
        nesterov=nesterov,
        adjust_lr_fn="none" if rms_rate is None else "match_rms_adamw",
        method=newton_schulz((muon_a, muon_b, muon_c), ns_steps, {}, name="muon_a, muon_b, muon_c"),
    )


@peer("mlx", version="0.32.4", convolutions="[out, kh, kw, in] there, and scaled by max(1, kw/in)^0.5")
def of_mlx(
    *,
    learning_rate: Rate,
    momentum: float = 0.95,
    weight_decay: float = 0.01,
    nesterov: bool = True,
    ns_steps: int = 5,
) -> Like:
    """`mlx.optimizers.Muon`."""
    require("it is added to the gradient there and goes through the steps", weight_decay=(weight_decay, 0))
    return Like(
        Muon,
        lr=learning_rate,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=0.0,
        method=newton_schulz(JORDAN[0], ns_steps, {}),
    )


@peer("gram-newton-schulz", version="0.1.6", convolutions="stacks of kernels there: reshape them to [out, in kh kw]")
def of_gram_newton_schulz(
    *,
    lr: Rate = 1e-3,
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    nesterov: bool = True,
    adjust_lr: str | None = "rms_norm",
    ns_coefficients: Sequence[Any] | None = None,
    ns_coefficients_preset: str | None = None,
    ns_algorithm: str = "gram_newton_schulz",
) -> Like:
    """`gram_newton_schulz.Muon`."""
    chosen("ns_algorithm", ns_algorithm, {"gram_newton_schulz": 0, "standard_newton_schulz": 1})
    presets = {"POLAR_EXPRESS_COEFFICIENTS": POLAR_EXPRESS_5, "YOU_COEFFICIENTS": YOU}
    rows: Any = ns_coefficients_preset or ns_coefficients or POLAR_EXPRESS_5
    return Like(
        Muon,
        lr=lr,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        adjust_lr_fn=chosen("adjust_lr", adjust_lr, BY_NORM),
        method=newton_schulz(rows, 5 if isinstance(rows, str) else len(rows), presets),
    )


@peer("emerging-optimizers", version="0.3.0", convolutions="refused there")
def of_emerging_optimizers(
    *,
    lr: Rate = 3e-4,
    momentum: float = 0.95,
    weight_decay: float = 0.01,
    nesterov: bool = False,
    weight_decay_method: str = "decoupled",
    coefficient_type: str = "quintic",
    num_ns_steps: int = 5,
    scale_mode: str = "spectral",
    extra_scale_factor: float = 1.0,
) -> Like:
    """`emerging_optimizers.orthogonalized_optimizers.Muon`."""
    require(
        "only decay that follows the rate has been compared", weight_decay_method=(weight_decay_method, "decoupled")
    )
    if coefficient_type == "cans":
        raise refuse(
            "coefficient_type='cans'",
            "in bfloat16 its steps amplify rounding, to several times the update of a square matrix, so that no two "
            "computations agree",
            "Pass coefficient_type='quintic' or 'polar_express'.",
        )
    scales = {
        "shape_scaling": ("original", 1.0),
        "spectral": ("match_rms_adamw", 5.0),
        "unit_rms_norm": ("rms_to_rms", 1.0),
    }
    scale, factor = chosen("scale_mode", scale_mode, scales)
    return Like(
        Muon,
        **_times(factor * extra_scale_factor, lr, weight_decay),
        momentum=momentum,
        nesterov=nesterov,
        adjust_lr_fn=scale,
        method=newton_schulz(coefficient_type, num_ns_steps, OF_EMERGING, name="coefficient_type"),
    )


@peer("heavyball", version="3.2.1")
def of_heavyball(
    *,
    lr: Rate = 0.0025,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0,
    cautious_weight_decay: bool = False,
    warmup_steps: int = 0,
    mars: bool = False,
    caution: bool = False,
    nesterov: bool = True,
    heavyball_momentum: bool = False,
) -> Like:
    """`heavyball.Muon`."""
    _plain_decay("cautious_weight_decay", cautious_weight_decay, weight_decay)
    require("a rate is warmed up by a scheduler of torch here", warmup_steps=(warmup_steps, 0))
    require("here the gradient is taken as it is", mars=(mars, False))
    require("here no part of an update is masked", caution=(caution, False))
    if nesterov and not heavyball_momentum:
        raise refuse(
            "heavyball_momentum=False with nesterov=True",
            "it adds the average of gradients to the gradient itself, which is no Nesterov step of this average",
            "Pass heavyball_momentum=True or nesterov=False.",
        )
    return Like(
        Muon,
        lr=lr,
        momentum=betas[0],
        nesterov=nesterov,
        weight_decay=weight_decay,
        method=newton_schulz(YOU, 5, {}),
    )


@peer("optimuon", version="0.1.1")
def of_optimuon(
    *,
    lr: Rate = 0.02,
    momentum: float = 0.95,
    nesterov: bool = True,
    weight_decay: float = 0.0,
    ns_steps: int = 5,
    ns_coefficients: Sequence[Any] = POLAR_EXPRESS_OF_FIVE,
    ns_norm_scale: float = 1.02,
    gram_ns: bool = True,
    adjust_lr: str = "original",
    momentum_type: str = "ema",
    mars: bool = False,
    cautious: bool = False,
    cautious_wd: bool = True,
    normuon: bool = True,
    normuon_beta2: float = 0.95,
    weight_norm: bool = False,
    grad_clip: float | None = None,
    update_clip: float | None = None,
) -> Like:
    """`optimuon.Muon`."""
    del gram_ns, normuon_beta2  # the first is another order of the same products
    if normuon:
        raise refuse(
            "normuon=True",
            "the statistics of a wide matrix are those of its columns there, here those of its rows",
            "Pass normuon=False; where no matrix has more columns than rows, htmuon.NorMuon takes these settings.",
        )
    chosen("momentum_type", momentum_type, {"ema": 0, "classical": 1})  # of which the steps don't see the size
    require("here the gradient is taken as it is", mars=(mars, False))
    require("here no part of an update is masked", cautious=(cautious, False))
    require("its norms have not been compared with weight_update='hyperball' here", weight_norm=(weight_norm, False))
    require("gradients are clipped in the loop here, by torch.nn.utils", grad_clip=(grad_clip, None))
    require("updates are not clipped here: their size is known", update_clip=(update_clip, None))
    _plain_decay("cautious_wd", cautious_wd, weight_decay)
    scale = chosen("adjust_lr", adjust_lr, SCALES)
    if scale == "match_rms_adamw":
        _decay_of_the_scale("weight_decay", weight_decay, "0.2 max(out, in)^0.5")
    return Like(
        Muon,
        lr=lr,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        adjust_lr_fn=scale,
        method=newton_schulz(ns_coefficients, ns_steps, {}, margin=ns_norm_scale, repeat=False),
    )


@peer("muonium", version="0.2.0", convolutions="the same with flatten=True in its groups; else stacks of kernels there")
def of_muonium(
    *,
    lr: Rate = 1e-3,
    wd: float = 0.1,
    use_cautious_wd: bool = True,
    maximize: bool = False,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_steps: int = 5,
    orthogonalization_strategy: str = "polar_express",
    adam_betas: tuple[float, float] = (0.9, 0.95),
    adam_eps: float = 1e-8,
) -> Like:
    """`muonium.Muon`, its algorithm `muon`."""
    require(DESCEND, maximize=(maximize, False))
    _plain_decay("use_cautious_wd", use_cautious_wd, wd)
    _decay_of_the_scale("wd", wd, "max(1, out / in)^0.5")
    presets = {"newton_schulz": (JORDAN, 1.0), "polar_express": (POLAR_EXPRESS_OF_FIVE, 1.02)}
    rows, margin = chosen("orthogonalization_strategy", orthogonalization_strategy, presets)
    steps = ns_steps if rows is JORDAN else min(ns_steps, len(rows))
    return Like(
        Muon,
        lr=lr,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=0.0,
        method=newton_schulz(rows, steps, {}, margin=margin),
        adamw_betas=adam_betas,
        adamw_eps=adam_eps,
    )


@peer("omnimuon", version="0.1.2", convolutions="AdamW there")
def of_omnimuon(
    *,
    lr: Rate = 1e-3,
    matrix_lr: Rate = 2e-2,
    momentum: float = 0.95,
    nesterov: bool = True,
    weight_decay: float = 0.01,
    adam_betas: tuple[float, float] = (0.9, 0.95),
    adam_eps: float = 1e-8,
    ns_steps: int = 5,
) -> Like:
    """`omnimuon.Muon`, whose decay of matrices follows the rate of the others."""
    require("it adds beta times an average to the whole gradient there", nesterov=(nesterov, False))
    return Like(
        Muon,
        lr=matrix_lr,
        momentum=momentum,
        nesterov=False,
        weight_decay=weight_decay * lr / matrix_lr,
        adjust_lr_fn="none",
        method=newton_schulz(JORDAN[0], ns_steps, {}),
        adamw_lr=lr,
        adamw_betas=adam_betas,
        adamw_eps=adam_eps,
        adamw_weight_decay=weight_decay,
    )


@peer("dion", version="0c20549", convolutions="the same with flatten=True; else stacks of kernels there")
def of_dion(
    *,
    lr: Rate = 0.01,
    mu: float = 0.95,
    betas: tuple[float, float] = (0.9, 0.95),
    weight_decay: float = 0.01,
    epsilon: float = 1e-8,
    nesterov: bool = False,
    adjust_lr: str | None = "spectral_norm",
    flatten: bool = False,
) -> Like:
    """`dion.Muon`, its algorithms `muon` and `adamw`."""
    del flatten  # what it does to matrices of two dimensions is nothing
    return Like(
        Muon,
        lr=lr,
        momentum=mu,
        nesterov=nesterov,
        weight_decay=weight_decay,
        adjust_lr_fn=chosen("adjust_lr", adjust_lr, BY_NORM),
        method=newton_schulz(YOU, 5, {}),
        adamw_lr=lr,
        adamw_betas=betas,
        adamw_eps=epsilon,
        adamw_weight_decay=weight_decay,
    )
