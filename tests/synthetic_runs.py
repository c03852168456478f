"""Run folders with known numbers, in the format that the trainer writes."""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file

from htmuon._files import write_json
from htmuon.data.text.language_models import LlamaConfig
from htmuon.data.text.text_config import TextConfig
from htmuon.training.run_config import OptimizerConfig, RunConfig
from htmuon.training.run_result import RunResult

LAYER_TYPES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP_TYPES = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def write_run(
    folder: Path,
    *,
    optimizer: str,
    seed: int,
    final_loss: float,
    lr: float = 0.02,
    steps: int = 200,
    seconds: float = 0.1,
    optimizer_seconds: float = 0.02,
    exponent: float = 0.125,
    diverged: bool = False,
    monitored: bool = False,
) -> None:
    """A finished run whose loss falls like exp(-4 step / steps) to `final_loss`, and whose updates are i^-exponent."""
    folder.mkdir(parents=True)
    noise = torch.randn(steps + 1, generator=torch.Generator().manual_seed(seed))
    lines = []
    for step in range(1, steps + 1):
        loss = final_loss + 5 * (math.exp(-4 * step / steps) - math.exp(-4))
        entry = {"kind": "train", "step": step, "loss": loss + 0.05 * float(noise[step]), "lr": lr}
        lines.append(
            {
                **entry,
                "seconds_per_step": seconds,
                "optimizer_seconds": optimizer_seconds,
                "data_seconds": seconds / 100,
                "tokens": 100 * step,
            }
        )
        if step % (steps // 10) == 0:
            lines.append({"kind": "evaluation", "step": step, "loss": loss, "split": "test"})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = RunConfig(
        recipe="llama-tiny",
        data=TextConfig(sequence_length=100),
        model=LlamaConfig(),
        optimizer=OptimizerConfig(name=optimizer, lr=lr, adamw_lr=0.004),
        seed=seed,
        steps=steps,
        batch_size=1,
        eval_interval=steps // 10,
        log_interval=1,
        checkpoint_interval=steps,
    )
    write_json(folder / "config.json", config.to_dict())
    result = RunResult(
        final_loss=math.nan if diverged else final_loss,
        split="test",
        steps=steps,
        tokens=100 * steps,
        seconds_per_step=seconds,
        optimizer_seconds_per_step=optimizer_seconds,
        data_seconds_per_step=seconds / 100,
        peak_memory_bytes=10**9,
        optimizer_state_bytes=2 * 10**7,
        skipped_steps=0,
        parameters=10**6,
        hidden_parameters=8 * 10**5,
        versions={"python": "3.12", "torch": "2.9"},
        device="cpu",
        threads=1,
        precision="float32",
        optimizer=optimizer,
        lr=lr,
        adamw_lr=0.004,
        weight_decay=0.1,
        seed=seed,
        diverged=diverged,
        data_fingerprint="synthetic",
    )
    write_json(folder / "result.json", result.to_dict())
    if monitored:
        (folder / "spectra.jsonl").write_text("".join(json.dumps(line) + "\n" for line in _records(exponent, steps)))
    if not diverged:
        save_file(_spectra(exponent, seed), folder / "spectra.safetensors")


def _spectra(exponent: float, seed: int) -> dict[str, torch.Tensor]:
    index = torch.arange(1, 65, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    spectra = {}
    for layer in range(3):
        for layer_type in (*LAYER_TYPES, *MLP_TYPES):
            name = f"model.layers.{layer}.{layer_type}.weight"
            random = torch.linalg.svdvals(torch.randn(64, 96, generator=generator) / 10)
            spectra[f"initial_weights/{name}"] = random
            spectra[f"weights/{name}"] = random + 3 * (layer + 1) * index ** -(0.5 + exponent)
            spectra[f"updates/{name}"] = index**-exponent
    return spectra


def _records(exponent: float, steps: int) -> list[dict[str, object]]:
    """Two matrices whose exponent falls from 6 and 8 by `exponent` a record; of one the last record has no fit."""
    lines: list[dict[str, object]] = []
    for i, step in enumerate(range(0, steps + 1, steps // 4)):
        for kind in ("weights", "momentum", "updates") if step else ("weights",):
            for name, alpha in (("model.layers.0.a.weight", 6.0), ("model.layers.1.a.weight", 8.0)):
                fitted = None if step == steps and alpha == 8.0 else alpha - i * exponent
                lines.append(
                    {
                        "step": step,
                        "kind": kind,
                        "name": name,
                        "alpha_ks": fitted,
                        "alpha_hill": fitted and fitted / 2,
                        "stable_rank": 10.0 + i,
                        **({f"signal_{octile}": exponent * octile / 8 for octile in range(1, 9)} if step else {}),
                        **({"rate_factor": 1 + exponent * i, "power": exponent * i} if kind == "momentum" else {}),
                    }
                )
    return lines
