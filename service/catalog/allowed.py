"""The rows that a request's list may hold: those of its filter without those that it excludes."""

from collections.abc import Callable

import numpy as np

from service.catalog.filters import is_set, unpacked
from service.catalog.trie import BoolArray
from service.types import DecodeRequest


def allowed_rows(request: DecodeRequest, num_items: int) -> BoolArray:
    """Which these are of all, bool [num_items]."""
    allowed = np.ones(num_items, dtype=bool)
    forbid(request, allowed)
    return allowed


def forbid(request: DecodeRequest, allowed: BoolArray) -> None:
    """Clear the others in `allowed` [num_items], where all are set."""
    if request.allowed is not None:
        allowed[:] = unpacked(request.allowed, len(allowed))
    allowed[list(request.excluded)] = False


def allows(request: DecodeRequest) -> Callable[[int], bool]:
    """Whether a row is one of these; for a few rows, as what it takes does not grow with the catalogue."""
    excluded, bits = set(request.excluded), request.allowed
    return lambda row: row not in excluded and (bits is None or is_set(bits, row))
