"""The quality of a classifier."""

from collections.abc import Iterable

import torch
from torch.nn.functional import cross_entropy

from htmuon.recipes.task import Batch, Evaluation


@torch.no_grad()
def classify(model: torch.nn.Module, batches: Iterable[Batch], device: torch.device) -> Evaluation:
    """Mean cross-entropy, without smoothing, and accuracy over the images of `batches`.

    Args:
        model: maps images `[batch, channels, height, width]` to logits `[batch, classes]`.
        batches: images and their class numbers `[batch]`.
        device: of the model and the batches.

    Raises:
        ValueError: there is no image.
    """
    loss = torch.zeros((), dtype=torch.float64, device=device)
    right = torch.zeros((), dtype=torch.int64, device=device)
    count = 0
    for images, labels in batches:
        logits = model(images)
        loss += cross_entropy(logits, labels, reduction="none").double().sum()
        right += (logits.argmax(-1) == labels).sum()
        count += len(labels)
    if not count:
        raise ValueError("at least one held-out image must be readable, and none is. Look at the files.")
    return Evaluation(loss=float(loss) / count, accuracy=int(right) / count)
