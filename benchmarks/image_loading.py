"""Whether decoding images keeps up with training on them.

    python benchmarks/image_loading.py

For the recipes whose images are decoded while the model trains: images per second that the loader makes, by the number
of its processes, and short real runs with their share of time spent waiting for images. The images are made up, in the
format and of the size of the real ones: pictures of Fashion-MNIST, enlarged, coloured and with noise, as JPEG files of
500x375 for ImageNet, as PNG files of 32x32 for CIFAR. The result goes to
benchmarks/results/image_loading.json.
"""

import argparse
import dataclasses
import io
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from timing import conditions, write

from htmuon.data.images.image_loader import worker_count
from htmuon.data.images.images import read_file, split_images
from htmuon.recipes import RECIPES
from htmuon.training.run_config import RunConfig
from htmuon.training.train import train

RESULT = Path(__file__).parent / "results" / "image_loading.json"
# For each recipe: size and format of an image, and the columns that the hub's files have.
FORMATS = {
    "vit-tiny-imagenet": ((500, 375), {"format": "JPEG", "quality": 92}, "image", "validation"),
    "vit-tiny-cifar10": ((32, 32), {"format": "PNG"}, "img", "test"),
}
CLASSES = 10


def encoded(pixels: np.ndarray, size: tuple[int, int], options: dict[str, Any], draw: np.random.Generator) -> bytes:
    image = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    coloured = image[..., None] * draw.uniform(0.3, 1.0, 3) + draw.normal(0, 17, (*image.shape, 3))
    stream = io.BytesIO()
    Image.fromarray(coloured.clip(0, 255).astype(np.uint8)).save(stream, **options)
    return stream.getvalue()


def make_images(recipe: str, root: Path, count: int) -> float:
    """Write parquet files and return the mean size of an image in bytes."""
    size, options, column, held_out = FORMATS[recipe]
    draw = np.random.default_rng(0)
    stored = split_images(read_file(""), "").training
    features = datasets.Features({column: datasets.Image(), "label": datasets.ClassLabel(num_classes=CLASSES)})
    sizes = []
    for part, images in (("train", count), (held_out, 2 * CLASSES)):
        contents = [encoded(stored.pixels[i, 0].numpy(), size, options, draw) for i in range(images)]
        sizes += map(len, contents)
        columns = {column: [{"bytes": content, "path": None} for content in contents]}
        table = datasets.Dataset.from_dict({**columns, "label": [i % CLASSES for i in range(images)]}, features)
        table.to_parquet(root / f"{part}-00000-of-00001.parquet")
    return statistics.mean(sizes)


def loading(config: RunConfig, batches: int) -> float:
    """Images per second of the loader: batches after those that its processes make ahead."""
    task = config.data.open(config).open(torch.device("cpu"), Path(), print)
    ahead = 3 * max(worker_count(config.workers), 1)
    for number in range(ahead):
        task.fetch(number)
    began = time.perf_counter()
    for number in range(ahead, ahead + batches):
        task.fetch(number)
    return batches * config.batch_size / (time.perf_counter() - began)


def training(config: RunConfig, folder: Path) -> dict[str, Any]:
    result = train(config, folder)
    return {
        "workers": worker_count(config.workers),
        "batch size": config.batch_size,
        "steps": config.steps,
        "seconds per step": result.seconds_per_step,
        "images per second": config.tokens_per_step / result.seconds_per_step,
        "share of waiting": result.data_seconds_per_step / result.seconds_per_step,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=320, help="training images (default 320)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="processes (default 0 1 2)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of the loader (default 3)")
    parser.add_argument("--steps", type=int, default=6, help="steps of the runs (default 6)")
    given = parser.parse_args()
    results = []
    for recipe in FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "images"
            root.mkdir()
            mean = make_images(recipe, root, given.images)
            config = RECIPES[recipe]()
            config = dataclasses.replace(
                config,
                data=dataclasses.replace(config.data, path=str(root)),
                batch_size=32,
                accumulation=1,
                steps=given.steps,
                eval_interval=given.steps,
                log_interval=1,
                checkpoint_interval=given.steps,
                monitor_every=None,
                device="cpu",
            )
            settings = [dataclasses.replace(config, workers=workers) for workers in given.workers]
            rounds = [[loading(setting, given.images // 32) for setting in settings] for _ in range(given.rounds)]
            entry = {
                "recipe": recipe,
                "bytes per image": mean,
                "loader, images per second": {
                    str(workers): [found[i] for found in rounds] for i, workers in enumerate(given.workers)
                },
                "runs": [training(setting, Path(folder) / f"run-{setting.workers}") for setting in settings],
            }
            print(entry)
            results.append(entry)
    write(RESULT, {**conditions(), "results": results})


if __name__ == "__main__":
    main()
