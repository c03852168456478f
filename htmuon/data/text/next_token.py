"""Next-token prediction: training batches as a pure function of seed and position, evaluation windows, and the loss."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from htmuon.data.text.tokenizers import END_TOKEN
from htmuon.training.resumable import EpochDraws
from htmuon.training.task import NO_TARGET, Batch


class TrainingBatches:
    """Non-overlapping chunks of the training tokens, in a new random order each epoch.

    Sample i of a run is chunk `permutation(seed, i // chunks)[i % chunks]`, and batch k holds the samples from
    k * batch_size on. So the data has no state, and the samples of a step depend neither on where a run was resumed
    nor on how a step is divided into accumulated batches.

    Args:
        tokens: `[tokens]` integers.
        sequence_length: inputs of one sequence; it reads one token more, its last target.
        batch_size: sequences in a batch.
        seed: of the order.

    Raises:
        ValueError: the tokens do not fill one batch.

    Example:
        >>> batches = TrainingBatches(torch.arange(41), sequence_length=10, batch_size=2, seed=0)
        >>> inputs, targets = batches[0]
        >>> inputs.shape, bool((targets == inputs + 1).all())
        (torch.Size([2, 10]), True)
    """

    def __init__(self, tokens: Tensor, *, sequence_length: int, batch_size: int, seed: int) -> None:
        self.chunks = (len(tokens) - 1) // sequence_length
        if self.chunks < batch_size:
            raise ValueError(
                f"the training text must fill one batch of {batch_size} x {sequence_length} tokens; it has "
                f"{len(tokens)}. Give more text, or a smaller batch size or sequence length."
            )
        self.tokens = tokens
        self.sequence_length = sequence_length
        self.batch_size = batch_size
        self._order = EpochDraws(
            lambda generator: torch.randperm(self.chunks, generator=generator),
            self.chunks,
            seed=seed,
            device=tokens.device,
        )

    def __getitem__(self, batch: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets `[batch_size, sequence_length]` (int64) of batch number `batch`, from 0 without end."""
        starts = self._order(batch * self.batch_size, self.batch_size) * self.sequence_length
        offsets = torch.arange(self.sequence_length + 1, device=self.tokens.device)
        sequences = self.tokens[starts[:, None] + offsets].long()
        return sequences[:, :-1], sequences[:, 1:]


def evaluation_windows(documents: list[Tensor], sequence_length: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets `[windows, sequence_length]` (int64) in which every token of the documents is once a target.

    A window never crosses documents. The first token of a document is predicted from an end token, as in training;
    what a last window has too much is filled with inputs that no target depends on.

    Args:
        documents: each `[tokens]`, with its end token.
        sequence_length: inputs of one window.

    Example:
        >>> inputs, targets = evaluation_windows([torch.tensor([7, 8, 9, 0])], 3)
        >>> inputs.tolist(), targets.tolist()
        ([[0, 7, 8], [9, 0, 0]], [[7, 8, 9], [0, -100, -100]])
    """
    inputs, targets = [], []
    for document in documents:
        shifted = torch.cat([document.new_tensor([END_TOKEN]), document[:-1]])
        padding = -len(document) % sequence_length
        inputs.append(torch.nn.functional.pad(shifted.long(), (0, padding), value=END_TOKEN))
        targets.append(torch.nn.functional.pad(document.long(), (0, padding), value=NO_TARGET))
    return torch.cat(inputs).view(-1, sequence_length), torch.cat(targets).view(-1, sequence_length)


def training_loss(model: torch.nn.Module, batch: Batch) -> Tensor:
    """Mean loss in nats per target, 0-d, of a batch."""
    inputs, targets = batch
    return cross_entropy(model(input_ids=inputs).logits.flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET)


@torch.no_grad()
def held_out_loss(
    model: torch.nn.Module, inputs: Tensor, targets: Tensor, *, batch_size: int, device: torch.device
) -> float:
    """Mean loss in nats over all targets; each counts once and equally.

    Args:
        model: on `device`.
        inputs: tokens `[sequences, length]`, on any device.
        targets: `[sequences, length]`, `NO_TARGET` where there is none.
        batch_size: sequences in one forward pass.
        device: where the loss is computed.
    """
    total = torch.zeros((), dtype=torch.float64, device=device)
    for some, expected in zip(torch.split(inputs, batch_size), torch.split(targets, batch_size), strict=True):
        logits = model(input_ids=some.to(device).long()).logits.flatten(0, 1)
        losses = cross_entropy(logits, expected.to(device).long().flatten(), ignore_index=NO_TARGET, reduction="none")
        total += losses.double().sum()
    return float(total) / int((targets != NO_TARGET).sum())
