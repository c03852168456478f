"""A GPT over bytes, from scratch: autocast, learning rate schedule, evaluation, checkpoints, resume.

    python examples/nano_gpt.py --steps 200 --out runs/nano
    python examples/nano_gpt.py --steps 200 --out runs/nano --resume
    python examples/nano_gpt.py --text my.txt --layers 6 --width 384 --heads 6 --context 256 --batch 64 --steps 5000

Without --text it learns from the State of the Union addresses inside the package. Whole documents are held out of the
training. The defaults are small enough for a laptop's CPU; the sizes of the last line are for a GPU. It needs torch
alone.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import htmuon
from htmuon.data.text import TextConfig
from htmuon.data.text.corpus import read_files, split_documents

BYTES = 256


class Block(nn.Module):
    """Causal attention and an MLP, each on normalized input beside the residual stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.RMSNorm(width)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, time, width]` to the same."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        )
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


class GPT(nn.Module):
    """A decoder over bytes with learned positions and a head of its own."""

    def __init__(self, layers: int, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.bytes = nn.Embedding(BYTES, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, BYTES, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """`[batch, time]` bytes to the mean loss of predicting each from those before it."""
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        x = self.bytes(inputs) + self.positions(torch.arange(inputs.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The settings of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="", help="a text file, or a folder of *.txt files")
    parser.add_argument("--out", type=Path, default=Path("runs/nano"))
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    for name, default in (("layers", 4), ("width", 128), ("heads", 4), ("context", 128), ("batch", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--eval-every", type=int, default=50)
    parser.add_argument("--checkpoint-every", type=int, default=50)
    parser.add_argument("--stop-after", type=int, help="end the process after this step, as a kill would")
    parser.add_argument("--power", type=float, default=0.125, help="0 is Muon, 0.125 is HTMuon")
    parser.add_argument("--lr", type=float, default=0.02, help="of the hidden matrices")
    parser.add_argument("--adamw-lr", type=float, default=3e-3, help="of embeddings, head and norms")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def as_bytes(documents: list[str]) -> Tensor:
    """Documents in a row, `[bytes]`."""
    return torch.frombuffer(bytearray("\n\n".join(documents), "utf-8"), dtype=torch.uint8)


def windows(data: Tensor, starts: Tensor, context: int, device: str) -> Tensor:
    """`[batch, context + 1]` bytes from each start on."""
    return data[starts[:, None] + torch.arange(context + 1)].long().to(device)


def rate(step: int, steps: int) -> float:
    """The share of the peak learning rate: a linear rise over a tenth of the steps, then a cosine to a tenth."""
    warmup = max(1, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return 0.55 + 0.45 * math.cos(math.pi * (step - warmup) / max(1, steps - warmup))


def main(arguments: Sequence[str] | None = None) -> float:
    """Train, and return the loss on the validation documents."""
    given = parsed(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = TextConfig(path=given.text)
    documents = split_documents(read_files(given.text), config)
    training, held_out = as_bytes(documents.training), as_bytes(documents.validation)

    torch.manual_seed(given.seed)
    model = GPT(given.layers, given.width, given.heads, given.context).to(device)
    # The query, key and value of a block are stored as one weight; each is a matrix of its own.
    groups = htmuon.param_groups(model, split={"*.qkv.weight": 3})
    optimizer = htmuon.HTMuon(groups, lr=given.lr, adamw_lr=given.adamw_lr, power=given.power)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, given.steps))
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}

    given.out.mkdir(parents=True, exist_ok=True)
    checkpoint, first = given.out / "checkpoint.pt", 0
    if given.resume:
        stored = torch.load(checkpoint, map_location=device, weights_only=True)
        first = stored.pop("step")
        for name, part in parts.items():
            part.load_state_dict(stored[name])
        print(f"resumed at step {first}")

    @torch.no_grad()
    def validation_loss() -> float:
        starts = torch.arange(0, len(held_out) - given.context - 1, given.context)[:64]
        with torch.autocast(device, torch.bfloat16):
            return model(windows(held_out, starts, given.context, device)).item()

    loss = validation_loss()
    for step in range(first + 1, given.steps + 1):
        # The batch depends on seed and step alone, so that a resumed run sees the same ones. A generator of a CPU reads
        # the lower 32 bits of its seed alone.
        generator = torch.Generator().manual_seed(1_000_003 * given.seed + step)
        starts = torch.randint(len(training) - given.context, (given.batch,), generator=generator)
        with torch.autocast(device, torch.bfloat16):
            batch_loss = model(windows(training, starts, given.context, device))
        optimizer.zero_grad()
        batch_loss.backward()
        optimizer.step()
        scheduler.step()
        if step % given.eval_every == 0 or step == given.steps:
            loss = validation_loss()
            print(f"step {step:5d}  training loss {batch_loss.item():.4f}  validation loss {loss:.4f}")
        if step % given.checkpoint_every == 0 or step == given.steps:
            new = checkpoint.with_suffix(".new")
            torch.save({"step": step, **{name: part.state_dict() for name, part in parts.items()}}, new)
            new.replace(checkpoint)  # a kill while it is written leaves the last one
        if step == given.stop_after:
            break
    return loss


if __name__ == "__main__":
    main()
