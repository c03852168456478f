"""What a look of each rule of `htmuon.powers` costs beside a step, and the powers it finds, on a narrow `llama-tiny`.

    python benchmarks/power_looks.py --json benchmarks/results/power_looks.json

One loop for each rule, with a look after every tenth step. The cost is the median processor time of the steps with a
look, passes that are listened to included, less that of the steps without; of one thread, so that processors that work
for others change it little.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timing import conditions, write

from htmuon.baselines.specs import build_optimizer
from htmuon.powers import RULES
from htmuon.recipes import RECIPES
from htmuon.routing import route
from htmuon.training.run_config import RunConfig

EVERY = 10


def narrow() -> RunConfig:
    """The network of docs/rates.md, `kinds`."""
    config = RECIPES["llama-tiny"]()
    model = replace(config.model, hidden_size=64, intermediate_size=176, num_layers=4)
    return replace(config, model=model, data=replace(config.data, vocab_size=1024), batch_size=16)


def measured(config: RunConfig, rule: str, steps: int, folder: Path) -> dict[str, Any]:
    source = config.data.open(config)
    model, task = source.build_model(), source.open(torch.device("cpu"), folder, print)
    spec = f"muon:power_by={rule},every={EVERY}"
    optimizer = build_optimizer(spec, model, lr=0.02, adamw_lr=0.004, weight_decay=0.1)
    seconds = []
    for step in range(steps):
        began = time.process_time()
        task.training_loss(model, task.fetch(step)).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.process_time() - began)
    looks = [spent for step, spent in enumerate(seconds, 1) if step % EVERY == 0]
    plain = statistics.median(spent for step, spent in enumerate(seconds, 1) if step % EVERY and step > EVERY)
    powers = defaultdict(list)
    for name, kind in route(model).kinds.items():
        powers[kind].append(optimizer.state[model.get_parameter(name)]["power"].item())
    return {
        "rule": rule,
        "step_seconds": plain,
        "look_seconds": statistics.median(looks) - plain,
        "powers": {kind: [min(of), statistics.fmean(of), max(of)] for kind, of in powers.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", nargs="+", default=list(RULES))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", type=Path, help="where to store the results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config, cases = narrow(), []
    with tempfile.TemporaryDirectory() as folder:
        for rule in arguments.rules:
            case = measured(config, rule, arguments.steps, Path(folder))
            cases.append(case)
            look, step = case["look_seconds"], case["step_seconds"]
            print(
                f"{rule}: a look {1e3 * look:.0f} ms beside a step of {1e3 * step:.0f} ms, {look / step:.2f} of it; "
                f"below 3 % from every={int(look / step / 0.03) + 1} on"
            )
            for kind, (low, mean, high) in case["powers"].items():
                print(f"  {kind}: {mean:.3f} ({low:.3f} to {high:.3f})")
    write(arguments.json, {**conditions(), "steps": arguments.steps, "every": EVERY, "cases": cases})


if __name__ == "__main__":
    main()
