"""Work in stages, of which several pieces are under way at once."""

from collections.abc import Generator, Iterable


def run_staggered(pieces: Iterable[Generator[None, None, None]]) -> None:
    """Start each piece before the one before it goes on, so that what one waits for travels while another computes.

    A piece stops (yields) where it has asked others for something, and goes on when its turn comes again. The order is
    the same on every rank as long as all pieces stop equally often there.

    Example:
        >>> def piece(name):
        ...     print(name, "sends")
        ...     yield
        ...     print(name, "computes")
        >>> run_staggered(piece(name) for name in "ab")
        a sends
        b sends
        a computes
        b computes
    """
    under_way: list[Generator[None, None, None]] = []
    for piece in pieces:
        under_way = [*_advanced([piece]), *_advanced(under_way)]
    while under_way:
        under_way = _advanced(under_way)


def _advanced(pieces: list[Generator[None, None, None]]) -> list[Generator[None, None, None]]:
    """Take every piece to its next stop; those that have not ended."""
    ended = object()
    return [piece for piece in pieces if next(piece, ended) is not ended]
