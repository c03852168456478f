"""Show the doctests of a docstring as code: Griffe expects them under `Examples:`, here they are under `Example:`."""

import re
from typing import Any

import griffe


class DoctestSections(griffe.Extension):
    """Name the section of doctests as Griffe's parser of Google's style does."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section in the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
