"""Turn a file of CIFAR-10 as JPEG bytes into parquet files in the layout of the Hugging Face hub.

    python benchmarks/cifar10_folder.py cifar10_jpeg.npz runs/cifar10
    htmuon train resnet18-cifar10 --data runs/cifar10 --out runs/resnet18

The file has, for `train` and for `test`, the JPEG files in a row (`train_jpeg`, uint8), where each begins and the last
one ends (`train_off`), and the class numbers (`train_y`); and the names of the `classes`.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import datasets
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with np.load(given.file) as stored:
        features = datasets.Features(
            {"img": datasets.Image(), "label": datasets.ClassLabel(names=[str(name) for name in stored["classes"]])}
        )
        for part in ("train", "test"):
            content, offsets = stored[f"{part}_jpeg"].tobytes(), stored[f"{part}_off"].tolist()
            images = [{"bytes": content[first:end], "path": None} for first, end in pairwise(offsets)]
            columns = {"img": images, "label": stored[f"{part}_y"].tolist()}
            path = given.out / f"{part}-00000-of-00001.parquet"
            print(f"{path}: {datasets.Dataset.from_dict(columns, features=features).to_parquet(path):,} bytes")


if __name__ == "__main__":
    main()
