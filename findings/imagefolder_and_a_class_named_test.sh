#!/usr/bin/env bash
# datasets 5.2.0: in a folder train/CLASS/*.png, test/CLASS/*.png, a class named "test" or "train" is in both splits.
#
# The "imagefolder" builder finds the files of a split by patterns over whole paths in which the split's name is a word,
# at any depth. Of train/test/0.png both "train" and "test" are words. So training images of a class called "test" are
# evaluated on as well, and test images of a class called "train" are trained on, without a warning.
#
# Seen, for two classes, 6 training and 3 test images of each:
#     classes car, boat:  train 12, test 6 images
#     classes car, test:  train 12, test 12 images, 6 of them training images
#     classes car, train: train 15, test 6 images, 3 of the former test images
#
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pillow==13.0.0 numpy==2.3.5
cd "$folder"
HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
from pathlib import Path

import datasets
from PIL import Image

print("datasets", datasets.__version__)
counts = {}
for other in ("boat", "test", "train"):
    root = Path("images_of_" + other)
    for part, number in (("train", 6), ("test", 3)):
        for name in ("car", other):
            (root / part / name).mkdir(parents=True)
            for i in range(number):
                Image.new("L", (4, 4), i).save(root / part / name / f"{i}.png")
    found = datasets.load_dataset("imagefolder", data_dir=str(root))
    counts[other] = {split: len(found[split]) for split in ("train", "test")}
    print(f"classes car, {other}: {counts[other]}")
assert counts["boat"] == {"train": 12, "test": 6}
assert counts["test"] == {"train": 12, "test": 12}
assert counts["train"] == {"train": 15, "test": 6}
PYTHON
