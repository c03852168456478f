"""Other Muons beside the rows of `htmuon.like`: what is compared, how, and how close it must be."""

import importlib
import os
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import htmuon
from htmuon.optim.peers import OF_TIMM

SQUARE, TALL, WIDE, CONV = (24, 24), (48, 12), (12, 48), (16, 4, 3, 3)
MATRICES = (SQUARE, TALL, WIDE)
ALL = (*MATRICES, CONV)
STEPS = 3
# The same products in the same precision: float32 rounding of momentum and weights, of a few units.
SAME = 2e-6
# As below, where the other sums its coefficients times products in bfloat16: it is 0.04 to 0.06 from the same steps in
# float32, ours is 0.02 from them.
COARSE = 0.09
# The same steps in another order of sums, or in float32 or float16 where ours are in bfloat16, whose unit is 2^-8: five
# steps with slopes of 3 to 8 make 0.01 to 0.02 of it, and the last products a little more.
ROUNDED = 0.03


def tensors(seed, shapes):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for shape in shapes]


def moved(make, shapes, step=None):
    """How far each weight is after three steps of an optimizer, or of a function of weight, gradient and state."""
    parameters = [nn.Parameter(start / 10) for start in tensors(0, shapes)]
    optimizer = make(parameters)
    for seed in range(1, STEPS + 1):
        for p, gradient in zip(parameters, tensors(seed, shapes), strict=True):
            p.grad = gradient / 100
        optimizer.step()
    return [(p.detach() - start / 10) for p, start in zip(parameters, tensors(0, shapes), strict=True)]


class Reference:
    """A step that is written here from the formula of a package that cannot be installed, in float32.

    Args:
        direction: of a gradient, a dict that keeps the momentum, and the number of the step.
        rows: coefficients, a triple a step; `margin` multiplies the norm.
        scale: of an update `[out, in]`.
        decay: of which multiple of the rate.
    """

    def __init__(self, parameters, lr, direction, rows, scale, weight_decay=0.0, margin=1.0):
        self.parameters, self.lr, self.direction, self.rows = parameters, lr, direction, rows
        self.scale, self.weight_decay, self.margin = scale, weight_decay, margin
        self.state = [{} for _ in parameters]
        self.count = 0

    @torch.no_grad()
    def step(self):
        self.count += 1
        for p, state in zip(self.parameters, self.state, strict=True):
            x = self.direction(p.grad, state, self.count).flatten(1)
            transposed = len(x) > x.shape[1]
            x = x.mT if transposed else x
            x = x / (x.norm() * self.margin)
            for a, b, c in self.rows:
                gram = x @ x.mT
                x = a * x + (b * gram + c * gram @ gram) @ x
            x = x.mT if transposed else x
            p.mul_(1 - self.lr * self.weight_decay)
            p.sub_(self.lr * self.scale(*x.shape) * x.reshape(p.shape))


def averaged(beta, nesterov, gradient, state, count):
    del count
    state["m"] = beta * state.get("m", 0) + (1 - beta) * gradient
    return beta * state["m"] + (1 - beta) * gradient if nesterov else state["m"]


def summed(beta, nesterov, gradient, state, count):
    del count
    state["m"] = beta * state.get("m", 0) + gradient
    return beta * state["m"] + gradient if nesterov else state["m"]


def of_optax(beta, nesterov, gradient, state, count):
    state["m"] = beta * state.get("m", 0) + (1 - beta) * gradient
    if not nesterov:
        return state["m"] / (1 - beta**count)
    return beta * state["m"] / (1 - beta ** (count + 1)) + (1 - beta) * gradient / (1 - beta**count)


def jordan(rows, columns):
    return max(1.0, rows / columns) ** 0.5


def moonlight(rows, columns):
    return 0.2 * max(rows, columns) ** 0.5


def bernstein(rows, columns):
    return (rows / columns) ** 0.5


JORDAN, YOU = OF_TIMM["original"] * 5, OF_TIMM["quintic"]


def of_package(module, name, **fixed):
    """Its optimizer, made from the parameters of the row."""

    def make(parameters, **arguments):
        return getattr(importlib.import_module(module), name)(parameters, **arguments, **fixed)

    make.module, make.name = module, name
    return make


def with_flag(module, name, key="use_muon", value=True):
    make = of_package(module, name)

    def flagged(parameters, **arguments):
        return make([{"params": parameters, key: value}], **arguments)

    flagged.module, flagged.name = module, name
    return flagged


def of_gram(parameters, **arguments):
    return importlib.import_module("gram_newton_schulz").Muon(parameters, ns_use_kernels=False, **arguments)


of_gram.module, of_gram.name = "gram_newton_schulz", "Muon"


def of_muonium(parameters, **arguments):
    # It takes kernels of triton wherever triton is installed, on a CPU too; its own loops are beside them.
    loops = importlib.import_module("muonium.orthogonalize.orthogonalize")
    plain = {"newton_schulz": loops.ns_loop, "polar_express": loops.pe_loop}
    loops._get_orthogonalization_fn = lambda strategy, use_triton: plain[strategy]
    return importlib.import_module("muonium").Muon([{"params": parameters, "flatten": True}], **arguments)


of_muonium.module, of_muonium.name = "muonium", "Muon"


class Elsewhere:
    """An optimizer of arrays that are not torch's: its weights are copied into ours after every step."""

    def __init__(self, parameters, lr=None, **arguments):
        self.parameters = parameters
        arguments = arguments if lr is None else {"learning_rate": lr, **arguments}
        self.start([p.detach() for p in parameters], arguments)

    @torch.no_grad()
    def step(self):
        for p, weight in zip(self.parameters, self.advance([p.grad for p in self.parameters]), strict=True):
            p.copy_(weight)


class Optax(Elsewhere):
    """Its kernels are [in, out]."""

    module, name = "optax.contrib", "muon"

    def start(self, weights, arguments):
        self.array = importlib.import_module("jax.numpy").asarray
        self.optimizer = importlib.import_module(self.module).muon(**arguments)
        self.weights = [self.array(weight.mT.numpy()) for weight in weights]
        self.state = self.optimizer.init(self.weights)

    def advance(self, gradients):
        theirs = [self.array(gradient.mT.numpy()) for gradient in gradients]
        updates, self.state = self.optimizer.update(theirs, self.state, self.weights)
        self.weights = [weight + update for weight, update in zip(self.weights, updates, strict=True)]
        return [torch.tensor(weight.tolist()).mT for weight in self.weights]


class Keras(Elsewhere):
    """Its kernels are [in, out]; runs on torch."""

    module, name = "keras.optimizers", "Muon"

    def start(self, weights, arguments):
        os.environ.setdefault("KERAS_BACKEND", "torch")
        self.weights = [importlib.import_module("keras").Variable(weight.mT.numpy()) for weight in weights]
        self.optimizer = importlib.import_module(self.module).Muon(**arguments)
        self.optimizer.build(self.weights)

    def advance(self, gradients):
        self.optimizer.apply([gradient.mT.contiguous() for gradient in gradients], self.weights)
        return [weight.value.detach().mT for weight in self.weights]


class Mlx(Elsewhere):
    module, name = "mlx.optimizers", "Muon"

    def start(self, weights, arguments):
        self.array = importlib.import_module("mlx.core").array
        self.optimizer = importlib.import_module(self.module).Muon(**arguments)
        self.weights = {str(i): self.array(weight.tolist()) for i, weight in enumerate(weights)}

    def advance(self, gradients):
        theirs = {str(i): self.array(gradient.tolist()) for i, gradient in enumerate(gradients)}
        self.weights = self.optimizer.apply_gradients(theirs, self.weights)
        return [torch.tensor(weight.tolist()) for weight in self.weights.values()]


@dataclass(frozen=True)
class Case:
    """One comparison of a row.

    Attributes:
        row: its name.
        make: the other optimizer, from parameters and arguments; a `Reference` where it cannot be installed.
        arguments: of both.
        shapes: of the weights.
        tolerance: of the difference, relative to what the three steps moved.
    """

    row: str
    make: Any
    arguments: dict[str, Any] = field(default_factory=dict)
    shapes: tuple[tuple[int, ...], ...] = ALL
    tolerance: float = ROUNDED

    @property
    def name(self):
        return "-".join([self.row, *(f"{k}={v}" for k, v in self.arguments.items())]).replace(" ", "")[:90]


TORCH = of_package("torch.optim", "Muon")
TIMM = with_flag("timm.optim", "Muon")
OPTIMIZER = with_flag("pytorch_optimizer", "Muon")
NORMUON = with_flag("pytorch_optimizer", "NorMuon")
ADAMUON = with_flag("pytorch_optimizer", "AdaMuon")
HEAVYBALL = of_package("heavyball", "Muon")
OPTIMUON = of_package("optimuon", "Muon")
OMNIMUON = of_package("omnimuon", "Muon")
EMERGING = of_package("emerging_optimizers.orthogonalized_optimizers", "Muon")


def reference(direction, rows, scale, **fixed):
    """A stand-in for an optimizer that takes `lr` and, by default, `weight_decay`."""

    def make(parameters, lr=None, learning_rate=None, weight_decay=0.0, **others):
        rate = learning_rate if lr is None else lr
        return Reference(parameters, rate, direction, rows, scale, weight_decay=weight_decay, **fixed)

    make.module = None
    return make


CASES = [
    Case("torch", TORCH, {}, MATRICES, SAME),
    Case("torch", TORCH, {"lr": 0.02, "adjust_lr_fn": "match_rms_adamw", "nesterov": False}, MATRICES, SAME),
    Case("torch", TORCH, {"lr": 0.02, "adjust_lr_fn": "spectral_unclamped", "weight_decay": 0.3}, MATRICES, SAME),
    Case("torch", TORCH, {"lr": 0.02, "ns_coefficients": (3.0, -3.5, 1.5), "ns_steps": 7}, MATRICES, SAME),
    Case("keller", reference(partial(averaged, 0.95, True), JORDAN, jordan), {"lr": 0.02, "weight_decay": 0.1}),
    Case("timm", TIMM, {}, ALL, SAME),
    Case("timm", TIMM, {"lr": 0.01, "nesterov": True, "adjust_lr_fn": "original", "weight_decay": 0.1}, ALL, SAME),
    Case("timm", TIMM, {"ns_coefficients": "original", "adjust_lr_fn": "rms_to_rms"}, ALL, SAME),
    Case("timm", TIMM, {"ns_coefficients": "polar_express", "ns_steps": 8, "adjust_lr_fn": None}, ALL, SAME),
    Case("timm", TIMM, {"ns_coefficients": "polar_express_safer", "safety_factor": 1.02}),
    Case("timm", TIMM, {"algo": "adamuon", "betas": (0.9, 0.9), "nesterov": True}),
    Case("pytorch_optimizer", OPTIMIZER, {}, ALL, SAME),
    Case("pytorch_optimizer", OPTIMIZER, {"use_adjusted_lr": True, "weight_decay": 0.1}, ALL, SAME),
    Case("pytorch_optimizer", OPTIMIZER, {"nesterov": False, "ns_coeffs": "quintic"}, ALL, SAME),
    Case("pytorch_optimizer", OPTIMIZER, {"ns_method": "gram_newton_schulz", "ns_coeffs": "quintic"}),
    Case("pytorch_optimizer.NorMuon", NORMUON, {}, ALL, SAME),
    Case("pytorch_optimizer.NorMuon", NORMUON, {"update_scale": "match_rms", "beta2": 0.8}),
    Case("pytorch_optimizer.AdaMuon", ADAMUON, {}),
    Case("pytorch_optimizer.AdaMuon", ADAMUON, {"use_adjusted_lr": False, "weight_decay": 0.1, "betas": (0.8, 0.9)}),
    Case(
        "optax",
        reference(partial(of_optax, 0.95, False), JORDAN, jordan),
        {"learning_rate": 0.02, "nesterov": False, "weight_decay": 0.1},
        MATRICES,
    ),
    Case(
        "optax",
        reference(partial(of_optax, 0.95, False), YOU, lambda m, n: 2 * moonlight(m, n)),
        {"learning_rate": 0.02, "nesterov": False, "ns_coeffs": "dion", "consistent_rms": 0.4, "weight_decay": 0.1},
        MATRICES,
    ),
    Case(
        "keras",
        reference(partial(summed, 0.95, True), JORDAN, moonlight),
        {"learning_rate": 0.02, "weight_decay": 0.1},
        MATRICES,
    ),
    Case(
        "keras",
        reference(partial(summed, 0.95, True), JORDAN, lambda m, n: 1.0),
        {"learning_rate": 0.02, "weight_decay": 0.1, "rms_rate": None},
        MATRICES,
    ),
    Case(
        "mlx",
        reference(partial(averaged, 0.95, True), JORDAN, jordan),
        {"learning_rate": 0.02, "weight_decay": 0},
        MATRICES,
    ),
    Case("gram-newton-schulz", of_gram, {}, MATRICES),
    Case(
        "gram-newton-schulz",
        of_gram,
        {
            "ns_algorithm": "standard_newton_schulz",
            "ns_coefficients_preset": "YOU_COEFFICIENTS",
            "adjust_lr": "spectral_norm",
        },
        MATRICES,
    ),
    Case(
        "gram-newton-schulz", of_gram, {"ns_coefficients": [(3.4445, -4.775, 2.0315)] * 5, "adjust_lr": None}, MATRICES
    ),
    Case(
        "emerging-optimizers",
        reference(partial(averaged, 0.95, False), YOU, lambda m, n: max(m, n) ** 0.5),
        {"lr": 0.02, "weight_decay": 0.1},
        MATRICES,
    ),
    Case(
        "emerging-optimizers",
        reference(partial(averaged, 0.95, True), JORDAN, lambda m, n: 0.5 * bernstein(m, n)),
        {
            "lr": 0.02,
            "nesterov": True,
            "coefficient_type": "simple",
            "scale_mode": "unit_rms_norm",
            "extra_scale_factor": 0.5,
            "weight_decay": 0.1,
        },
        MATRICES,
    ),
    Case("heavyball", HEAVYBALL, {"lr": 0.02, "heavyball_momentum": True, "weight_decay": 0.1}),
    Case("heavyball", HEAVYBALL, {"lr": 0.02, "nesterov": False}),
    Case("heavyball", HEAVYBALL, {"lr": 0.02, "nesterov": False, "heavyball_momentum": True}),
    Case("optimuon", OPTIMUON, {"normuon": False}),
    Case("optimuon", OPTIMUON, {"normuon": False, "adjust_lr": "match_rms_adamw", "nesterov": False}),
    Case(
        "optimuon",
        OPTIMUON,
        {
            "normuon": False,
            "gram_ns": False,
            "ns_coefficients": (3.4445, -4.775, 2.0315),
            "ns_norm_scale": 1.0,
            "weight_decay": 0.1,
            "cautious_wd": False,
            "adjust_lr": "none",
        },
    ),
    Case("muonium", of_muonium, {"wd": 0.0}, ALL, COARSE),
    Case("muonium", of_muonium, {"wd": 0.0, "orthogonalization_strategy": "newton_schulz", "nesterov": False}),
    Case("omnimuon", OMNIMUON, {"nesterov": False, "lr": 0.01, "weight_decay": 0.5}, MATRICES),
    Case("optax", Optax, {"learning_rate": 0.02, "nesterov": False, "weight_decay": 0.1}, MATRICES),
    Case(
        "optax", Optax, {"learning_rate": 0.02, "nesterov": False, "ns_coeffs": "dion", "consistent_rms": 0.4}, MATRICES
    ),
    Case("keras", Keras, {}, MATRICES),
    Case("keras", Keras, {"learning_rate": 0.02, "rms_rate": None, "weight_decay": 0.1, "nesterov": False}, MATRICES),
    Case("mlx", Mlx, {"learning_rate": 0.02, "weight_decay": 0}, MATRICES),
    Case("mlx", Mlx, {"learning_rate": 0.02, "weight_decay": 0, "nesterov": False, "ns_steps": 6}, MATRICES),
    Case("emerging-optimizers", EMERGING, {}, MATRICES),
    Case("emerging-optimizers", EMERGING, {"coefficient_type": "simple", "scale_mode": "unit_rms_norm"}, MATRICES),
    Case("emerging-optimizers", EMERGING, {"coefficient_type": "polar_express", "nesterov": True}, MATRICES),
    Case("dion", reference(partial(summed, 0.95, False), YOU, bernstein), {"lr": 0.02, "weight_decay": 0.1}),
    Case(
        "dion",
        reference(partial(summed, 0.95, True), YOU, moonlight),
        {"lr": 0.02, "weight_decay": 0.1, "nesterov": True, "adjust_lr": "rms_norm"},
    ),
]


def difference(case):
    """Of all weights, relative to what the other optimizer moved them by."""
    if case.make.module is not None:
        os.environ.setdefault("KERAS_BACKEND", "torch")
        pytest.importorskip(case.make.module, exc_type=ImportError)  # some need a Python newer than ours
    torch.compiler.set_stance("force_eager")  # some compile their steps, which takes minutes and changes none
    try:
        theirs = moved(lambda parameters: case.make(parameters, **case.arguments), case.shapes)
    finally:
        torch.compiler.set_stance("default")
    ours = moved(htmuon.like(case.row, **case.arguments).make, case.shapes)
    return max(float((a - b).norm() / b.norm()) for a, b in zip(ours, theirs, strict=True))
