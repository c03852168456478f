"""Documents between separators, read in blocks so that neither time nor memory depends on their length."""

from collections.abc import Iterable, Iterator

LONGEST = 64 * 2**20


def separated(blocks: Iterable[bytes], separator: bytes, longest: int = LONGEST) -> Iterator[bytes | None]:
    r"""What stands between separators; None for a document that is too long.

    Args:
        blocks: the content of a file, cut anywhere.
        separator: what divides it.
        longest: bytes of a document, at most.

    Example:
        >>> list(separated([b"one\nt", b"wo\n", b"three"], b"\n", longest=4))
        [b'one', b'two', None]
    """
    overlap = len(separator) - 1
    document = bytearray()
    too_long = False
    for block in blocks:
        seen = max(0, len(document) - overlap)
        document += block
        begin = 0
        while (end := document.find(separator, max(seen, begin))) >= 0:
            yield None if too_long or end - begin > longest else bytes(document[begin:end])
            begin, too_long = end + len(separator), False
        del document[:begin]
        if len(document) > longest + overlap:
            too_long = True
            del document[: len(document) - overlap]
    yield None if too_long or len(document) > longest else bytes(document)


def with_plain_newlines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    r"""The same content with `\n` for each `\r\n`."""
    held = b""
    for block in blocks:
        content = held + block
        held = b"\r" if content.endswith(b"\r") else b""
        yield content[: len(content) - len(held)].replace(b"\r\n", b"\n")
    yield held
