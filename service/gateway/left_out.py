"""What withdrawn items mean for requests on one catalogue."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

# Up to here each is named; beyond, a bit for every row of the catalogue is less.
_FEW = 1_000


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Rows that no list may hold: either named, so that few cost nothing that grows with the catalogue, or in bits.

    Attributes:
        rows: to be excluded.
        allowed: a bit for each row that may be listed, the first row's the lowest; None: `rows` says all.
    """

    rows: tuple[int, ...] = ()
    allowed: bytes | None = None

    @classmethod
    def of(cls, rows: Sequence[int], num_items: int) -> Self:
        """Without these rows of a catalogue."""
        if len(rows) <= _FEW:
            return cls(rows=tuple(rows))
        allowed = np.ones(num_items, dtype=bool)
        allowed[rows] = False
        return cls(allowed=np.packbits(allowed, bitorder="little").tobytes())

    def within(self, bits: bytes) -> bytes:
        """Those of these rows, a bit for each, that may be listed, but for `rows`."""
        if self.allowed is None:
            return bits
        both = np.frombuffer(bits, dtype=np.uint8) & np.frombuffer(self.allowed, dtype=np.uint8)
        return both.tobytes()
