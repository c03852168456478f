"""Work that is done before its result is needed."""

import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """The items of an endless iterator, made in one background thread before they are asked for.

    Args:
        items: the iterator; no other thread may use it.
        depth: how many items are made ahead, at most.

    Example:
        >>> import itertools
        >>> squares = Ahead((n * n for n in itertools.count()), depth=3)
        >>> next(squares), next(squares)
        (0, 1)
    """

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._items = items
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="htmuon-ahead")
        self._results: deque[Future[T]] = deque(self._pool.submit(next, items) for _ in range(depth))
        # What was not asked for is not made once nobody can ask.
        weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)

    def __next__(self) -> T:
        """The next item; an error in making it is raised here."""
        result = self._results.popleft()
        self._results.append(self._pool.submit(next, self._items))
        return result.result()
