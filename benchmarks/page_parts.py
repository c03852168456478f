"""Measured parts of Markdown pages, between the markers `<!-- name -->` and `<!-- end of name -->`."""

import re


def markdown(rows: list[list[str]]) -> str:
    """A table; the first row is its head."""
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *body])


def fill(text: str, name: str, content: str) -> str:
    """Put `content` between the markers of a section."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
    return re.sub(pattern, lambda match: f"{match[1]}{content}\n{match[2]}", text, flags=re.DOTALL)
