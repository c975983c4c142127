"""The KV cache: one row a list, one owner; everyone else holds row numbers and positions."""

from typing import Any

import torch

from service.model.kernels import CachePart, copy_rows, enter

_GRAIN = 64  # positions are reserved in multiples of this


class KvCache:
    """Keys and values of all lists in flight, written in place.

    A pass names its rows and where its tokens go (`begin_pass`), then each layer of the model calls `update`, as the
    `transformers` models do with their own caches. Entries beyond what a list has committed are scratch: the next
    pass overwrites them. `keep` moves the accepted ones of them to where they belong, and nothing else. Rows that are
    nobody's may ask for places past those that the pass may look at; they get the last one.

    Args:
        num_layers: of the model.
        num_heads: key-value heads.
        head_dim: of each.
        device: where the model is.
        dtype: the model's.
    """

    def __init__(
        self, num_layers: int, num_heads: int, head_dim: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        # [key or value, layer, row, head, position, head_dim]
        self._data = torch.zeros(2, num_layers, 0, num_heads, 0, head_dim, device=device, dtype=dtype)
        # What the pass under way may look at, and where its tokens go; filled by `begin_pass`.
        self._view = self._data
        self._places = torch.empty(0)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self._data.device

    @property
    def dtype(self) -> torch.dtype:
        """Of its entries."""
        return self._data.dtype

    def like(self) -> "KvCache":
        """An empty one for the same model."""
        _, num_layers, _, num_heads, _, head_dim = self._data.shape
        return KvCache(num_layers, num_heads, head_dim, self.device, self.dtype)

    @property
    def data(self) -> torch.Tensor:
        """All there is, [key or value, layer, row, head, position, head_dim]."""
        return self._data

    @property
    def num_rows(self) -> int:
        """Rows there is memory for."""
        return self._data.shape[2]

    @property
    def num_positions(self) -> int:
        """Positions a row there is memory for."""
        return self._data.shape[4]

    def num_bytes(self, num_rows: int, num_positions: int) -> int:
        """What so many rows of so many positions take."""
        _, num_layers, _, num_heads, _, head_dim = self._data.shape
        places = num_rows * -(-num_positions // _GRAIN) * _GRAIN
        return 2 * num_layers * num_heads * head_dim * places * self._data.element_size()

    def reserve(self, num_rows: int, num_positions: int) -> bool:
        """Have memory for so much; what is there stays. Whether it had to move for that."""
        if num_rows <= self.num_rows and num_positions <= self.num_positions:
            return False
        rows = max(num_rows, self.num_rows)
        positions = max(-(-num_positions // _GRAIN) * _GRAIN, self.num_positions)
        old = self._data
        self._data = old.new_zeros(*old.shape[:2], rows, old.shape[3], positions, old.shape[5])
        self._data[:, :, : old.shape[2], :, : old.shape[4]] = old
        self._view = self._data  # what was there before is free
        return True

    def begin_pass(self, rows: slice, positions: torch.Tensor, length: int) -> None:
        """Say where the tokens of the next pass go.

        Args:
            rows: of the lists that take part.
            positions: int64 [num_rows, n], or [t] for tokens side by side, the place of each in its row.
            length: places that the pass may look at, from 0; all it writes is among them.
        """
        self._view = self._data[:, :, rows, :, :length]
        self._places = positions

    def part(self, layer: int) -> CachePart:
        """A layer's part of what the pass under way may look at, and where its tokens go."""
        keys, values = self._view[:, layer]
        return keys, values, self._places

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a layer's keys and values, [rows, heads, n, head_dim], and return all that the pass may look at."""
        part = self.part(layer)
        enter(part, keys.transpose(1, 2), values.transpose(1, 2))
        return part[:2]

    def keep(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Move entries of the first rows from `source` to `target` places, each int64 [num_rows, n].

        A place may be its own target. All entries are read before any is written.
        """
        row = torch.arange(len(source), device=source.device).unsqueeze(1)
        source, target = (places.clamp(max=self.num_positions - 1) for places in (source, target))
        self._data[:, :, row, :, target] = self._data[:, :, row, :, source]

    def copy_rows(
        self, other: "KvCache", source: torch.Tensor, target: torch.Tensor, num_positions: int
    ) -> None:
        """Copy the first entries of another cache's rows over those of this one's, rows int64 [n] each."""
        count = min(num_positions, self.num_positions, other.num_positions)
        copy_rows(other._data, self._data, source, target, count)
