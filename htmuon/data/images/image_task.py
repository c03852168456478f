"""What the tasks on images share: how a classifier is evaluated, and what becomes of images that cannot be read."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch.nn.functional import cross_entropy

from htmuon.training.task import Batch, Evaluation, IndexedTask

# So many problems are reported one by one; of later ones only the 8th, 16th, 32nd and so on.
_SHOWN = 5


class ImageTask(IndexedTask):
    """Keeps a list of what is wrong with images that a run met.

    Args:
        on_message: called with a sentence for each that is reported.

    Example:
        >>> task = ImageTask(print)
        >>> task.leave_out(["a.png is empty"])
        left out: a.png is empty.
        >>> task.leave_out(["a.png is empty"])
        >>> task.unreadable_samples
        1
    """

    def __init__(self, on_message: Callable[[str], None]) -> None:
        self.unreadable: list[str] = []
        self._on_message = on_message

    def leave_out(self, problems: Sequence[str]) -> None:
        """Count and report the problems that are new."""
        known = set(self.unreadable) if problems else set()
        for problem in problems:
            if problem in known:
                continue
            known.add(problem)
            self.unreadable.append(problem)
            count = len(self.unreadable)
            if count <= _SHOWN:
                self._on_message(f"left out: {problem}.")
            elif count.bit_count() == 1:
                self._on_message(f"left out: {problem}; they are {count} by now.")


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
