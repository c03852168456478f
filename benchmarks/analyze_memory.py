"""The highest memory of `htmuon analyze` on a synthetic checkpoint of a LLaMA, in bfloat16 and several shards.

    python benchmarks/analyze_memory.py --json benchmarks/results/analyze_memory.json

makes a checkpoint with the shapes of the 1B model (hidden 2048, feed-forward 5461, vocabulary 32000), analyzes it in a
process of its own and takes that process' peak resident memory from the system. Memory decides, so the entries are
noise. `--layers 1` is a quick look: the peak is that of the largest matrix, and the number of layers moves it little.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from timing import conditions, write

HIDDEN, FEED_FORWARD, VOCABULARY = 2048, 5461, 32000
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def shards(layers: int) -> list[dict[str, tuple[int, int]]]:
    """Shapes by name, shard by shard: embedding, four layers at a time, head."""
    blocks = []
    for first in range(0, layers, 4):
        shapes = {}
        for layer in range(first, min(layers, first + 4)):
            prefix = f"model.layers.{layer}"
            shapes |= {f"{prefix}.self_attn.{name}.weight": (HIDDEN, HIDDEN) for name in ATTENTION}
            shapes |= {f"{prefix}.mlp.{name}_proj.weight": (FEED_FORWARD, HIDDEN) for name in ("gate", "up")}
            shapes[f"{prefix}.mlp.down_proj.weight"] = (HIDDEN, FEED_FORWARD)
        blocks.append(shapes)
    table = (VOCABULARY, HIDDEN)
    return [{"model.embed_tokens.weight": table}, *blocks, {"lm_head.weight": table}]


def make(folder: Path, layers: int) -> int:
    """Write the checkpoint; returns its number of parameters."""
    parts, weight_map, parameters = shards(layers), {}, 0
    for i, shapes in enumerate(parts):
        name = f"model-{i + 1:05}-of-{len(parts):05}.safetensors"
        save_file({key: torch.randn(shape).bfloat16() for key, shape in shapes.items()}, folder / name)
        weight_map |= dict.fromkeys(shapes, name)
        parameters += sum(rows * columns for rows, columns in shapes.values())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return parameters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--layers", type=int, default=18, help="layers of the model (default 18: 1.04 billion parameters)"
    )
    parser.add_argument(
        "--folder", type=Path, help="where the checkpoint is made (default: the system's temporary folder)"
    )
    parser.add_argument("--json", type=Path, help="where to store the results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        parameters = make(Path(name), arguments.layers)
        command = [sys.executable, "-c", "import sys; from htmuon.cli import main; sys.exit(main(sys.argv[1:]))"]
        start = time.perf_counter()
        subprocess.run([*command, "analyze", name, "--csv", f"{name}/analysis.csv"], check=True)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"{parameters:,} parameters: peak memory {peak / 2**30:.2f} GiB, {seconds:.0f} s")
    result = {"parameters": parameters, "layers": arguments.layers, "peak_bytes": peak, "seconds": seconds}
    command = f"python benchmarks/analyze_memory.py --layers {arguments.layers}"
    write(arguments.json, {**conditions(command), **result})


if __name__ == "__main__":
    main()
