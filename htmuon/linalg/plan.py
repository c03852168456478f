"""Where the polynomial method forms its matrices: a cost model, and the cheapest form that is stable.

On the short side everything is a product of symmetric n x n matrices, of which half is computed. But rounding of a Gram
matrix hides what is smaller than its `eps`; a *restart* multiplies the levels so far into the matrix itself and takes
the Gram matrix of that, where small values have grown. Restarts cost rectangular products. Every possible choice of
restarts, from none (all on the Gram side) to one at every level (direct levels), is a set of level numbers.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, combinations, pairwise


@dataclass(frozen=True)
class Plan:
    """The segments of levels between restarts, and what they cost.

    Attributes:
        levels: L.
        restarts: the levels k in 1 ... L - 1 at which `X_k` itself is formed.
        folded: whether what follows a restart is multiplied back on the short side, rather than into `X_k`.
        symmetric: n x n products of which half is computed, without the Gram matrices.
        grams: Gram matrices of the rectangular matrix, of which half is computed.
        rectangular: products of an n x n and an n x m matrix.
    """

    levels: int
    restarts: tuple[int, ...]
    folded: bool
    symmetric: int
    grams: int
    rectangular: int

    @property
    def segments(self) -> list[tuple[int, int]]:
        """First level and end of every segment."""
        starts = (0, *self.restarts)
        return list(zip(starts, (*self.restarts, self.levels), strict=True))

    def cost(self, aspect: float, *, halved: bool = True) -> float:
        """The cost in units of one whole n x n x n product, for an n x (aspect n) matrix.

        Args:
            aspect: long side by short side.
            halved: whether the kernels compute half of a symmetric product only.
        """
        half = 0.5 if halved else 1.0
        return half * self.symmetric + aspect * (half * self.grams + self.rectangular)

    def __str__(self) -> str:
        where = "no restart" if not self.restarts else f"X formed again at level {', '.join(map(str, self.restarts))}"
        return (
            f"{self.levels} levels, {where}: {self.symmetric} symmetric and {self.rectangular} rectangular products, "
            f"{self.grams} Gram matrices"
        )


def count(levels: int, restarts: tuple[int, ...], folded: bool) -> Plan:
    """Count the products of a choice of restarts."""
    # A square for q, a product for R and two for the next Gram matrix at every level, and the square of the last one;
    # at a restart these two fall away, and q ... q has to be multiplied out.
    lengths = [end - first for first, end in pairwise((0, *restarts))]
    symmetric = 4 * levels + 1 - 2 * len(restarts) + sum(length - 1 for length in lengths)
    rectangular = 1 + (1 if folded else 2) * len(restarts)
    return Plan(levels, restarts, folded, symmetric, 1 + len(restarts), rectangular)


@lru_cache(maxsize=1024)
def cheapest(levels: int, longest: int, aspect: float, *, folded: bool, halved: bool = True) -> Plan:
    """The cheapest plan in which no segment has more than `longest` levels.

    Example:
        >>> print(cheapest(6, 6, 2.0, folded=True))
        6 levels, no restart: 25 symmetric and 1 rectangular products, 1 Gram matrices
        >>> plan = cheapest(6, 3, 1.0, folded=False)
        >>> plan.restarts, plan.cost(1.0)
        ((3,), 16.5)
    """
    choices = chain.from_iterable(combinations(range(1, levels), size) for size in range(levels))
    plans = [count(levels, restarts, folded) for restarts in choices]
    stable = [plan for plan in plans if all(end - first <= longest for first, end in plan.segments)]
    return min(stable, key=lambda plan: (plan.cost(aspect, halved=halved), plan.restarts))
