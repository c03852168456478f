"""Who computes a matrix: the rank that has had the least to do in this step."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Ledger:
    """The work given to each rank of each group in one step.

    Every rank keeps the same ledger without asking the others, for all give out the same matrices in the same order.
    """

    def __init__(self) -> None:
        self._loads: dict[ProcessGroup, list[float]] = {}
        self._inner: dict[ProcessGroup, Ledger] = {}

    def owners(self, group: "ProcessGroup", count: int, cost: float) -> list[int]:
        """The owner in a group of each of `count` matrices of equal cost: always who has the least work by then.

        Given the dearest first, nobody gets more than 4/3 of the work of the best division (Graham 1969).
        """
        loads = self._loads.setdefault(group, [0.0] * group.size())
        chosen = []
        for _ in range(count):
            owner = min(range(len(loads)), key=loads.__getitem__)
            loads[owner] += cost
            chosen.append(owner)
        return chosen

    def inside(self, group: "ProcessGroup") -> "Ledger":
        """The ledger for what is divided further within the share of one rank of a group.

        Not the same one: ranks with other shares divide other matrices, and would no longer agree on what comes next.
        """
        return self._inner.setdefault(group, Ledger())
