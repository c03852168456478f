"""The time of `import htmuon` against that of `import torch`, in fresh processes.

python benchmarks/import_time.py --json benchmarks/results/import_time.json
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

from timing import conditions, ratios, side_by_side, write


def importing(module: str) -> None:
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds (default 7)")
    parser.add_argument("--json", type=Path, help="where to store the results")
    arguments = parser.parse_args()
    candidates = {f"import {name}": lambda name=name: importing(name) for name in ("torch", "htmuon")}
    seconds = side_by_side(candidates, arguments.rounds)
    ratio = ratios(seconds, "import torch")
    for name, values in seconds.items():
        print(f"{name:16}{statistics.median(values):7.2f} s  ratio {ratio[name]:.2f}")
    write(arguments.json, {**conditions(), "seconds": seconds, "ratio": ratio})


if __name__ == "__main__":
    main()
