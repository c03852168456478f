"""Whether fused weights are better updated whole or part by part: a small LLaMA with fused q, k, v and gate, up.

    python benchmarks/fused_split.py --out runs/fused_split --json benchmarks/results/fused_split.json

The network is `llama-tiny`'s with its projections stored as Phi-3 stores them: `qkv_proj` and `gate_up_proj`. Data,
schedule, rate of the other parameters and weight decay are those of `llama-tiny`; the rates of the matrices are its
stored ones, and their double and half. At equal rates both ways move a weight equally far: the Frobenius norm of the
update is the same. Runs are paired by seed; interrupted ones resume.
"""

import argparse
import json
import math
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar

import torch
from timing import conditions, write

from htmuon._extras import require
from htmuon.compare.interval import mean_interval
from htmuon.recipes import RECIPES
from htmuon.training import RunConfig, train
from htmuon.training.run_config import MODELS, register_kind

OPTIMIZERS = {"htmuon": 0.02, "muon:method=newton_schulz": 0.01}
FACTORS = (1.0, 2.0, 0.5)
SPLITS = {"whole": "none", "parts": "auto"}


@register_kind(MODELS)
@dataclass(frozen=True, kw_only=True)
class FusedConfig:
    """The shape of llama-tiny's network, as Phi-3 stores it."""

    kind: ClassVar[str] = "phi3"
    task: ClassVar[str] = "language"
    noun: ClassVar[str] = "Phi-3 language model"

    hidden_size: int = 128
    intermediate_size: int = 352
    num_layers: int = 6
    num_heads: int = 4

    def build_model(self, *, vocab_size: int, sequence_length: int, seed: int) -> torch.nn.Module:
        transformers = require("transformers")
        config = transformers.Phi3Config(
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_heads,
            max_position_embeddings=sequence_length,
            original_max_position_embeddings=sequence_length,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
            use_cache=False,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return transformers.Phi3ForCausalLM(config).float()


def config_of(optimizer: str, lr: float, seed: int, steps: int | None) -> RunConfig:
    run = replace(
        RECIPES["llama-tiny"](), recipe="llama-tiny-fused", model=FusedConfig(), seed=seed, monitor_every=None
    )
    run = run if steps is None else replace(run, steps=steps)
    return replace(run, optimizer=replace(run.optimizer, name=optimizer, lr=lr))


def trained(job: tuple[str, float, str, int, int | None, Path]) -> float:
    optimizer, lr, split, seed, steps, out = job
    torch.set_num_threads(1)
    spec = f"{optimizer}{',' if ':' in optimizer else ':'}split={SPLITS[split]}"
    folder = out / f"{optimizer.partition(':')[0]}-lr{lr:g}-{split}-seed{seed}"
    return train(config_of(spec, lr, seed, steps), folder, cache=out).final_loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS), choices=list(OPTIMIZERS))
    parser.add_argument("--factors", type=float, nargs="+", default=list(FACTORS), help="of the stored rates")
    parser.add_argument("--steps", type=int, help="of each run; the recipe's if not given")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, of one thread each")
    parser.add_argument("--json", type=Path, help="where the results go")
    given = parser.parse_args()
    rates = [(name, OPTIMIZERS[name] * factor) for name in given.optimizers for factor in given.factors]
    jobs = [(name, lr, split, s, given.steps, given.out) for name, lr in rates for s in given.seeds for split in SPLITS]
    with ProcessPoolExecutor(given.processes, get_context("spawn")) as pool:
        losses = dict(zip(jobs, pool.map(trained, jobs), strict=True))
    rows = []
    for name, lr in rates:
        by_split = {
            split: [losses[name, lr, split, seed, given.steps, given.out] for seed in given.seeds] for split in SPLITS
        }
        differences = [parts - whole for parts, whole in zip(by_split["parts"], by_split["whole"], strict=True)]
        interval = mean_interval(differences)
        row = {"optimizer": name, "lr": lr, **by_split, "parts_minus_whole": statistics.fmean(differences)}
        row |= {"low": interval.low, "high": interval.high, "judgement": interval.judgement} if interval else {}
        rows.append(row)
        bounds = f" ({interval.low:+.4f} to {interval.high:+.4f}), {interval.judgement}" if interval else ""
        print(f"{name} lr {lr:g}: parts minus whole {row['parts_minus_whole']:+.4f}{bounds}")
    best = {
        (name, split): min((statistics.fmean(row[split]) for row in rows if row["optimizer"] == name), default=math.nan)
        for name in given.optimizers
        for split in SPLITS
    }
    print(*(f"{name}, {split}: {loss:.4f} at its best rate" for (name, split), loss in best.items()), sep="\n")
    write(given.json, {"conditions": conditions(), "seeds": given.seeds, "rows": json.loads(json.dumps(rows))})


if __name__ == "__main__":
    main()
