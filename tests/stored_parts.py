"""The rows of the parts of a split, from what the words say and not from the code under test."""


def rows_of_parts(split, rows):
    """For each part the numbers of its rows."""
    if split is None:
        return [tuple(range(rows))]
    if isinstance(split, int):
        split = [rows // split] * split
    if isinstance(split, list | tuple):
        ends = [sum(split[: i + 1]) for i in range(len(split))]
        return [tuple(range(end - size, end)) for end, size in zip(ends, split, strict=True)]
    runs = rows_of_parts(list(split.sizes) * split.heads, rows)
    return [sum(runs[k :: len(split.sizes)], ()) for k in range(len(split.sizes))]
