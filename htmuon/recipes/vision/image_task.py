"""What the tasks on images share: images that cannot be read are left out, counted and told."""

from collections.abc import Callable, Sequence

from htmuon.recipes.task import IndexedTask

# Each of the first ones is told, then only the second, fourth, eighth ... of those that follow.
_TOLD = 5


class ImageTask(IndexedTask):
    """Keeps a list of what is wrong with images that a run met.

    Args:
        on_message: told of them.

    Example:
        >>> task = ImageTask(print)
        >>> task.leave_out(["a.png is empty"])
        left out: a.png is empty.
        >>> task.leave_out(["a.png is empty"])
        >>> task.unreadable_samples
        1
    """

    def __init__(self, on_message: Callable[[str], None]) -> None:
        self.unreadable: list[str] = []
        self._on_message = on_message

    def leave_out(self, problems: Sequence[str]) -> None:
        """Count and tell the problems that are new."""
        known = set(self.unreadable) if problems else set()
        for problem in problems:
            if problem in known:
                continue
            known.add(problem)
            self.unreadable.append(problem)
            count = len(self.unreadable)
            if count <= _TOLD:
                self._on_message(f"left out: {problem}.")
            elif count.bit_count() == 1:
                self._on_message(f"left out: {problem}; they are {count} by now.")
