"""What a layer does between its matrix products, each as one kernel where the device has one.

`torch` takes some thirty kernels for the rest of a layer, and for a few tokens a kernel's start is most of its time. On
a GPU these are Triton's (`service.model.triton_kernels`); elsewhere what `torch` has, which says what they compute.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn import functional as F

from service.model.attention import grouped_attention, mask_of_groups, rotated

try:
    from service.model import triton_kernels

    HAS_TRITON = True
except ImportError:  # torch comes without it where it comes without CUDA
    HAS_TRITON = False

# Weights of queries and keys, each [head_dim], and what is added to a variance.
HeadNorms = tuple[torch.Tensor, torch.Tensor, float]
# Keys and values of a batch's lists, [batch, kv_heads, m, head_dim] each and laid out alike, and where the pass's
# tokens go, int64 [...]; what would go past the last place goes there.
CachePart = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Spans:
    """Whose tokens are whose where those of many lists stand side by side, each list's together: [t] for [batch, n].

    FlashAttention calls such batches packed, or of variable length.

    Attributes:
        row: int64 [t], each token's list; -1 on padding, which goes nowhere.
        begin: int64 [batch + 1], where each list's tokens begin, and where the last one's end.
        ends: int64 [batch], no token of a list may look at this place of the cache or past it.
        most: tokens of a list, at most.
        has_padding: whether there may be any.
    """

    row: torch.Tensor
    begin: torch.Tensor
    ends: torch.Tensor
    most: int
    has_padding: bool

    def apart(self, values: torch.Tensor) -> torch.Tensor:
        """Values of tokens, [t, ...], list by list, [batch, most, ...]; after a list's last one, it again and again."""
        if self._is_even:
            return values.view(-1, self.most, *values.shape[1:])
        return values.index_select(0, self._index).view(-1, self.most, *values.shape[1:])

    def together(self, values: torch.Tensor) -> torch.Tensor:
        """Values list by list, [batch, most, ...], side by side again, [t, ...]; padding gets any."""
        flat = values.reshape(-1, *values.shape[2:])
        return flat if self._is_even else flat.index_select(0, self._place)

    @property
    def _is_even(self) -> bool:
        """Whether all lists are known to have as many tokens."""
        return not self.has_padding and len(self.row) == self.most * len(self.ends)

    @cached_property
    def _index(self) -> torch.Tensor:
        begin, end = self.begin[:-1, None], self.begin[1:, None]
        column = torch.arange(self.most, device=self.begin.device)
        return torch.minimum(begin + column, end - 1).clamp(0, len(self.row) - 1).flatten()

    @cached_property
    def _place(self) -> torch.Tensor:
        row = self.row.clamp(min=0)
        column = torch.arange(len(row), device=row.device) - self.begin[row]
        return row * self.most + column.clamp(0, self.most - 1)


def runs_triton(where: torch.Tensor) -> bool:
    """Whether kernels of ours are there for tensors of this one's device."""
    return HAS_TRITON and where.is_cuda


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMSNorm over the last dimension, rounded once."""
    if runs_triton(x):
        return triton_kernels.rms_norm(x, weight, eps)
    return F.rms_norm(x, weight.shape, weight, eps)


def silu_times(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up, [..., width], of both side by side, [..., 2 * width]."""
    if runs_triton(gate_up):
        return triton_kernels.silu_times(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def rotate(
    joined: torch.Tensor,
    positions: torch.Tensor,
    frequencies: torch.Tensor,
    scaling: float,
    num_heads: int,
    norms: HeadNorms | None,
    cache: CachePart | None,
    spans: Spans | None = None,
) -> torch.Tensor:
    """Rotated queries, [..., num_heads, head_dim]; rotated keys, and values, go into the cache.

    Args:
        joined: queries, keys and values of each token, [..., num_heads + 2 * kv_heads, head_dim].
        positions: int64 [batch, n], or [t] with spans.
        frequencies: of the rotary embedding, float32 [head_dim / 2].
        scaling: of what is rotated.
        num_heads: of queries, which may be 0.
        norms: of each head before it is rotated, where a family has them.
        cache: None where there are queries alone.
        spans: whose tokens are whose; None: row i is list i's.
    """
    if runs_triton(joined):
        row = None if spans is None else spans.row
        return triton_kernels.rotate(joined, positions, frequencies, scaling, num_heads, norms, cache, row)
    queries = joined[..., :num_heads, :]
    keys, values = joined[..., num_heads:, :].chunk(2, dim=-2)
    if norms is not None:
        queries = F.rms_norm(queries, norms[0].shape, norms[0], norms[2])
        keys = F.rms_norm(keys, norms[1].shape, norms[1], norms[2])
    angles = (positions.unsqueeze(-1) * frequencies).unsqueeze(-2)
    cos, sin = (angles.cos() * scaling).to(joined.dtype), (angles.sin() * scaling).to(joined.dtype)
    if cache is not None:
        enter(cache, rotated(keys, cos, sin), values, spans)
    return rotated(queries, cos, sin)


def enter(cache: CachePart, keys: torch.Tensor, values: torch.Tensor, spans: Spans | None = None) -> None:
    """Write the keys and values, each [..., kv_heads, head_dim], of a pass's tokens into the cache."""
    all_keys, all_values, places = cache
    if spans is not None:
        # A list's last token is entered as often as it takes, in the same place.
        keys, values, places = spans.apart(keys), spans.apart(values), spans.apart(places)
    keys, values = keys.transpose(1, 2), values.transpose(1, 2)
    index = places.clamp(max=all_keys.shape[2] - 1)[:, None, :, None].expand_as(keys)
    all_keys.scatter_(2, index, keys)
    all_values.scatter_(2, index, values)


def mask_for(
    mask: torch.Tensor, num_heads: int, kv_heads: int, dtype: torch.dtype, spans: Spans | None = None
) -> torch.Tensor:
    """A mask, bool [batch, n, m], or [t, m] with spans, as `attend` wants it there: made once, for all layers."""
    if runs_triton(mask):
        return mask
    return mask_of_groups(mask if spans is None else spans.apart(mask), num_heads, kv_heads, dtype)


def attend(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    scale: float,
    spans: Spans | None = None,
) -> torch.Tensor:
    """What each head finds, laid out as the queries; padding finds anything.

    Args:
        queries: [batch, n, heads, head_dim], or [t, heads, head_dim] with spans; heads that share keys stand together.
        keys: [batch, kv_heads, m, head_dim].
        values: likewise, and laid out alike.
        mask: from `mask_for`.
        scale: of the scores.
        spans: whose tokens are whose; None: row i is list i's.
    """
    if runs_triton(queries):
        of_lists = None if spans is None else (spans.begin, spans.ends, spans.most)
        return triton_kernels.attend(queries, keys, values, mask, scale, of_lists)
    apart = queries if spans is None else spans.apart(queries)
    found = grouped_attention(apart.transpose(1, 2), keys, values, mask, scale).transpose(1, 2)
    return found if spans is None else spans.together(found)


def move_rows(parts: Iterable[torch.Tensor], source: Sequence[int], target: Sequence[int]) -> None:
    """Copy some rows of each of many tensors over others of the same, which are none of the first.

    By index it would be two kernels for each of them; here those of a type are one.
    """
    by_type: defaultdict[torch.dtype, list[tuple[torch.Tensor, torch.Tensor]]] = defaultdict(list)
    for part in parts:
        by_type[part.dtype] += [(part[to], part[of]) for of, to in zip(source, target, strict=True)]
    for pairs in by_type.values():
        to, of = zip(*pairs, strict=True)
        torch._foreach_copy_(to, of)


def copy_rows(
    source: torch.Tensor,
    target: torch.Tensor,
    source_rows: torch.Tensor,
    target_rows: torch.Tensor,
    count: int,
) -> None:
    """Copy the first places of some rows of one cache over those of rows of another, or of others of the same.

    Args:
        source: all of a cache, [key or value, layer, row, head, place, head_dim].
        target: likewise, of the same model.
        source_rows: int64 [n].
        target_rows: int64 [n].
        count: of places.
    """
    if runs_triton(source):
        triton_kernels.copy_rows(source, target, source_rows, target_rows, count)
    else:
        target[:, :, target_rows, :, :count] = source[:, :, source_rows, :, :count]
