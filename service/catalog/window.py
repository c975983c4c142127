"""Which part of a long history the target reads."""

from collections.abc import Sequence

# A window begins later than it would have to by at most this share of it.
_MOST_LATER = 0.2


def window(history: Sequence[int], at_most: int) -> tuple[int, ...]:
    """The latest items, at most so many; of a history with more, at least four fifths of that.

    Of the places where it might begin it takes the one with the smallest hash (winnowing, Schleimer et al. 2003). So
    when a user comes back with a few more items it mostly begins where it did before, and what was made of it then can
    be used again, with no need to know how the history was cut the last time.

    Args:
        history: rows, oldest first.
        at_most: items.
    """
    first = max(0, len(history) - at_most)
    if first:
        first = min(range(first, first + int(at_most * _MOST_LATER) + 1), key=lambda i: _hash(history[i]))
    return tuple(history[first:])


def _hash(row: int) -> int:
    """Fibonacci hashing: rows are in the order of the trie, so neighbours are alike."""
    return row * 2_654_435_769 & 0xFFFF_FFFF
