"""HTMuon in a plain training loop: a small transformer learns to repeat a sequence backwards.

    python examples/drop_in.py
    python examples/drop_in.py --steps 300 --optimizer Muon

It needs torch alone. Two lines differ from a loop with AdamW: those that make the groups and the optimizer.
"""

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import htmuon

SYMBOLS, LENGTH = 16, 12


class Reverser(nn.Module):
    """A transformer encoder that says for each position which symbol stands there in the reversed sequence."""

    def __init__(self, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.symbols = nn.Embedding(SYMBOLS, width)
        self.positions = nn.Embedding(LENGTH, width)
        block = nn.TransformerEncoderLayer(width, nhead=4, dim_feedforward=4 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, SYMBOLS)

    def forward(self, sequence: Tensor) -> Tensor:
        """`[batch, length]` symbols to `[batch, length, symbols]` logits."""
        places = torch.arange(sequence.shape[1], device=sequence.device)
        return self.head(self.encoder(self.symbols(sequence) + self.positions(places)))


def main(arguments: Sequence[str] | None = None) -> float:
    """Train, print the loss, and return the last one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--optimizer", default="HTMuon", choices=["HTMuon", "Muon", "HTNorMuon", "NorMuon"])
    parser.add_argument("--lr", type=float, default=0.02, help="of the hidden matrices")
    parser.add_argument("--adamw-lr", type=float, default=3e-3, help="of embeddings, head, norms and biases")
    given = parser.parse_args(arguments)

    torch.manual_seed(0)
    model = Reverser()
    print(htmuon.route(model))  # which parameters are matrices, and why
    groups = htmuon.param_groups(model)
    optimizer = getattr(htmuon, given.optimizer)(groups, lr=given.lr, adamw_lr=given.adamw_lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=given.steps)

    for step in range(1, given.steps + 1):
        sequence = torch.randint(0, SYMBOLS, (64, LENGTH))
        loss = F.cross_entropy(model(sequence).flatten(0, 1), sequence.flip(1).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if step % 20 == 0 or step == given.steps:
            print(f"step {step:4d}  loss {loss.item():.4f}")
    return loss.item()


if __name__ == "__main__":
    main()
