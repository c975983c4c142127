"""How much a program looks at in one go: a power of two, and few of them, as kernels are compiled for each.

What is past the end costs a program next to nothing.
"""

import triton

PLACES_AT_ONCE = 512  # of a cache


def lists_at_once(batch: int) -> int:
    """Lists, of `batch`."""
    return 8 if batch <= 8 else _at_least(64, batch)


def guesses_at_once(num_places: int) -> int:
    """Guesses of a list, of a tree with so many places."""
    return _at_least(32, num_places)


def items_at_once(num_written: int) -> int:
    """Items that are on the way to a place, of at most `num_written`."""
    return _at_least(4, num_written)


def tree_places_at_once(num_places: int) -> int:
    """Places of a tree."""
    return _at_least(128, num_places)


def _at_least(least: int, count: int) -> int:
    power: int = triton.next_power_of_2(count)
    return max(least, power)
