"""Items that stand at ranks of the caller's choice, among those that the model writes."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from service.gateway.query import Promotion


@dataclass(frozen=True, slots=True)
class Placed:
    """An item at its place in a list, by its row.

    Attributes:
        rank: from 1.
        score: of a written one.
    """

    rank: int
    row: int
    score: float | None = None
    promoted: bool = False


class Places:
    """Gives the items of one list their places, as they are written.

    Args:
        promoted: rows by rank, from 1; none of them is written.

    Attributes:
        num_placed: how many have one.
    """

    def __init__(self, promoted: Mapping[int, int]) -> None:
        self._waiting = dict(sorted(promoted.items()))
        self.num_placed = 0

    def written(self, row: int, score: float | None) -> Iterator[Placed]:
        """The next written item, and the promoted ones that stand right before and after it."""
        yield from self._due()
        yield self._next(row, score)
        yield from self._due()

    def rest(self) -> Iterator[Placed]:
        """The promoted items that are left, when all is written: they move up."""
        for row in self._waiting.values():
            yield self._next(row, promoted=True)

    def _due(self) -> Iterator[Placed]:
        while (row := self._waiting.pop(self.num_placed + 1, None)) is not None:
            yield self._next(row, promoted=True)

    def _next(self, row: int, score: float | None = None, *, promoted: bool = False) -> Placed:
        self.num_placed += 1
        return Placed(self.num_placed, row, score, promoted)


def promoted_rows(
    promotions: Iterable[Promotion], row_of: Callable[[str], int | None], allows: Callable[[int], bool]
) -> dict[int, int]:
    """By rank, the rows of the promoted items that exist and that may be listed."""
    rows = ((promotion.rank, row_of(promotion.item_id)) for promotion in promotions)
    return {rank: row for rank, row in rows if row is not None and allows(row)}


def placed(written: Iterable[tuple[int, float | None]], promoted: Mapping[int, int]) -> Iterator[Placed]:
    """A list from its first rank on: promoted items at their ranks, and at the others what was written, in its order.

    Where that is too little, promoted items move up.

    Args:
        written: rows with their scores, best first.
        promoted: rows by rank, from 1; none of them is written.
    """
    places = Places(promoted)
    for row, score in written:
        yield from places.written(row, score)
    yield from places.rest()
