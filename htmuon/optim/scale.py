"""The update scale: how large an update is for its shape."""

from htmuon._typing import AdjustLrFn


def update_scale(shape: tuple[int, ...], adjust_lr_fn: AdjustLrFn | None) -> float:
    """The factor on the update of matrices `[*batch, out, in]`; names and formulas are those of `torch.optim.Muon`.

    - `original`, or None: `max(1, out / in)^0.5` (Keller Jordan)
    - `spectral_unclamped`: `(out / in)^0.5` (Bernstein)
    - `match_rms_adamw`: `0.2 max(out, in)^0.5`, which gives a matrix of Frobenius norm `min(out, in)^0.5` the root mean
      square 0.2 of an AdamW update, so that AdamW's learning rates carry over (Moonlight, arXiv 2502.16982)

    Example:
        >>> update_scale((64, 16), "original"), update_scale((16, 64), "original")
        (2.0, 1.0)
    """
    rows, columns = shape[-2:]
    if adjust_lr_fn is None or adjust_lr_fn == "original":
        return float(max(1.0, rows / columns) ** 0.5)
    if adjust_lr_fn == "spectral_unclamped":
        return float((rows / columns) ** 0.5)
    assert adjust_lr_fn == "match_rms_adamw"
    return float(0.2 * max(rows, columns) ** 0.5)
