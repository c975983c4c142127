"""The rows that a request's list may hold."""

import numpy as np

from service.catalog.filters import unpacked
from service.catalog.trie import BoolArray
from service.types import DecodeRequest


def allowed_rows(request: DecodeRequest, num_items: int) -> BoolArray:
    """Those of its filter without those that it excludes, bool [num_items]."""
    allowed = (
        np.ones(num_items, dtype=bool) if request.allowed is None else unpacked(request.allowed, num_items)
    )
    allowed[list(request.excluded)] = False
    return allowed
