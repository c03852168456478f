from collections.abc import Callable, Iterator

import pytest
from ranks import Ranks


@pytest.fixture(scope="session")
def world() -> Iterator[Callable[[int], Ranks]]:
    """A world of so many ranks, started when it is first asked for."""
    started: dict[int, Ranks] = {}

    def get(count: int) -> Ranks:
        if count not in started:
            started[count] = Ranks(count)
        return started[count]

    yield get
    for ranks in started.values():
        ranks.close()
