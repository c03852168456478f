"""What a run learns; data and model of a run are of the same kind."""

from typing import Literal

TaskKind = Literal["language", "images"]
