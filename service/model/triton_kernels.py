"""The GPU's versions of `service.model.kernels`, in Triton: few and small, for what no library has as one kernel."""

import torch
import triton
import triton.language as tl

_PLACES = 64  # of the cache that attention reads at a time
_HEADS = 16  # of a token that are rotated at a time
_MANY_PROGRAMS = 264  # twice the multiprocessors of a large GPU


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """See `kernels`."""
    width = x.shape[-1]
    normed = torch.empty_like(x)
    block = triton.next_power_of_2(width)
    _rms_norm[(x.numel() // width,)](
        x, weight, normed, width, eps, block, num_warps=min(8, max(1, block // 256))
    )
    return normed


def silu_times(gate_up: torch.Tensor) -> torch.Tensor:
    """See `kernels`."""
    width = gate_up.shape[-1] // 2
    result = gate_up.new_empty(*gate_up.shape[:-1], width)
    block = min(1024, triton.next_power_of_2(width))
    _silu_times[(gate_up.numel() // (2 * width), triton.cdiv(width, block))](gate_up, result, width, block)
    return result


def rotate(
    joined: torch.Tensor,
    positions: torch.Tensor,
    frequencies: torch.Tensor,
    scaling: float,
    num_heads: int,
    norms: tuple[torch.Tensor, torch.Tensor, float] | None,
    cache: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None,
    rows: torch.Tensor | None,
) -> torch.Tensor:
    """See `kernels`; `rows` are the lists of tokens that stand side by side."""
    # Kernels read memory: an index that was expanded may be one number there.
    positions, rows = positions.contiguous(), None if rows is None else rows.contiguous()
    *shape, all_heads, head_dim = joined.shape
    queries = joined.new_empty(*shape, num_heads, head_dim)
    # Where there is no cache, or no norm, nothing is read or written there.
    keys, values, places = (queries, queries, positions) if cache is None else cache
    places = places.contiguous()
    of_queries, of_keys, eps = (frequencies, frequencies, 0.0) if norms is None else norms
    _rotate[(positions.numel(), triton.cdiv(all_heads, _HEADS))](
        joined,
        positions,
        places,
        positions if rows is None else rows,
        frequencies,
        of_queries,
        of_keys,
        queries,
        keys,
        values,
        shape[-1],
        num_heads,
        (all_heads - num_heads) // 2,
        keys.shape[2] - 1,
        keys.stride(0),
        keys.stride(1),
        keys.stride(2),
        scaling,
        eps,
        head_dim // 2,
        triton.next_power_of_2(head_dim // 2),
        _HEADS,
        norms is not None,
        rows is not None,
        num_warps=2,
    )
    return queries


def attend(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    scale: float,
    spans: tuple[torch.Tensor, torch.Tensor, int] | None,
) -> torch.Tensor:
    """See `kernels`; of spans where each begins, where it ends in the cache, and the most tokens of any."""
    num_heads, head_dim = queries.shape[-2:]
    batch, kv_heads, places = keys.shape[:3]
    queries, mask = queries.contiguous(), mask.contiguous()
    begins, ends, n = spans or (queries, queries, queries.shape[1])
    num_rows = n * (num_heads // kv_heads)
    rows = 64
    while rows > 16 and (
        rows >= 2 * num_rows or triton.cdiv(num_rows, rows) * batch * kv_heads < _MANY_PROGRAMS
    ):
        rows //= 2
    found = torch.empty_like(queries)
    _attend[(triton.cdiv(num_rows, rows), batch * kv_heads)](
        queries,
        keys,
        values,
        mask,
        found,
        begins,
        ends,
        n,
        places,
        kv_heads,
        keys.stride(0),
        keys.stride(1),
        keys.stride(2),
        scale,
        num_heads // kv_heads,
        head_dim,
        max(16, triton.next_power_of_2(head_dim)),
        rows,
        _PLACES,
        "ieee" if queries.dtype == torch.float32 else "tf32",
        spans is not None,
        num_warps=4,
    )
    return found


def copy_rows(
    source: torch.Tensor,
    target: torch.Tensor,
    source_rows: torch.Tensor,
    target_rows: torch.Tensor,
    count: int,
) -> None:
    """See `kernels`."""
    kinds, layers, _, heads, _, head_dim = source.shape
    width = count * head_dim  # places of a head lie one after another
    _copy_rows[(len(source_rows), kinds * layers, heads)](
        source, target, source_rows, target_rows, width, layers,
        *source.stride()[:4], *target.stride()[:4],
        min(4096, triton.next_power_of_2(width)),
    )  # fmt: skip


@triton.jit
def _rms_norm(x, weight, normed, width, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    inside = lane < width
    value = tl.load(x + row * width + lane, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value) / width + eps)
    result = value * scale * tl.load(weight + lane, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + row * width + lane, result, mask=inside)


@triton.jit
def _silu_times(gate_up, result, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    lane = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = lane < width
    gate = tl.load(gate_up + row * 2 * width + lane, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + lane, mask=inside, other=0.0).to(tl.float32)
    tl.store(result + row * width + lane, gate * tl.sigmoid(gate) * up, mask=inside)


@triton.jit
def _rotate(
    joined, positions, places, rows, frequencies, of_queries, of_keys, queries, keys, values,
    n, num_heads, kv_heads, last_place, row_stride, head_stride, place_stride, scaling, eps,
    HALF: tl.constexpr, BLOCK: tl.constexpr, HEADS: tl.constexpr, HAS_NORMS: tl.constexpr,
    HAS_ROWS: tl.constexpr,
):  # fmt: skip
    """Some heads of one token."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    lane = tl.arange(0, BLOCK)
    is_lane = lane < HALF
    num_all = num_heads + 2 * kv_heads
    inside = (head < num_all)[:, None] & is_lane[None, :]
    source = joined + (token * num_all + head)[:, None] * (2 * HALF) + lane[None, :]
    low = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(source + HALF, mask=inside, other=0.0).to(tl.float32)
    is_query = (head < num_heads)[:, None]
    is_value = (head >= num_heads + kv_heads)[:, None]
    turned_low, turned_high = low, high
    if HAS_NORMS:
        square = tl.sum(low * low, axis=1) + tl.sum(high * high, axis=1)
        scale = tl.rsqrt(square / (2 * HALF) + eps)[:, None]
        low_weight = tl.where(
            is_query,
            tl.load(of_queries + lane, mask=is_lane, other=0.0).to(tl.float32)[None, :],
            tl.load(of_keys + lane, mask=is_lane, other=0.0).to(tl.float32)[None, :],
        )
        high_weight = tl.where(
            is_query,
            tl.load(of_queries + HALF + lane, mask=is_lane, other=0.0).to(tl.float32)[None, :],
            tl.load(of_keys + HALF + lane, mask=is_lane, other=0.0).to(tl.float32)[None, :],
        )
        turned_low, turned_high = low * scale * low_weight, high * scale * high_weight
    angle = tl.load(positions + token).to(tl.float32) * tl.load(frequencies + lane, mask=is_lane, other=0.0)
    cos, sin = (tl.cos(angle) * scaling)[None, :], (tl.sin(angle) * scaling)[None, :]
    low = tl.where(is_value, low, turned_low * cos - turned_high * sin)
    high = tl.where(is_value, high, turned_high * cos + turned_low * sin)
    target = queries + (token * num_heads + head)[:, None] * (2 * HALF) + lane[None, :]
    tl.store(target, low, mask=inside & is_query)
    tl.store(target + HALF, high, mask=inside & is_query)
    place = tl.minimum(tl.load(places + token), last_place)
    kv_head = tl.where(is_value, head[:, None] - num_heads - kv_heads, head[:, None] - num_heads)
    row = tl.load(rows + token) if HAS_ROWS else token // n
    is_entry = (head < tl.where(row < 0, 0, num_all))[:, None] & is_lane[None, :]
    at = row * row_stride + kv_head.to(tl.int64) * head_stride + place * place_stride + lane[None, :]
    is_key = is_entry & (is_query == 0) & (is_value == 0)
    tl.store(keys + at, low, mask=is_key)
    tl.store(keys + at + HALF, high, mask=is_key)
    tl.store(values + at, low, mask=is_entry & is_value)
    tl.store(values + at + HALF, high, mask=is_entry & is_value)


@triton.jit
def _attend(
    queries, keys, values, mask, found, begins, ends,
    n, places, kv_heads, row_stride, head_stride, place_stride, scale,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr, PLACES: tl.constexpr, PRECISION: tl.constexpr, HAS_SPANS: tl.constexpr,
):  # fmt: skip
    """Some queries of all heads that share keys, with the softmax taken as they come (FlashAttention)."""
    list_number = (tl.program_id(1) // kv_heads).to(tl.int64)
    kv_head = tl.program_id(1) % kv_heads
    first_token, end = list_number * n, places
    if HAS_SPANS:
        first_token = tl.load(begins + list_number)
        n = (tl.load(begins + list_number + 1) - first_token).to(tl.int32)
        end = tl.minimum(tl.load(ends + list_number), places).to(tl.int32)
        end = tl.where(tl.program_id(0) * ROWS < n * GROUP, end, 0)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_row = row < n * GROUP
    token, head = row // GROUP, kv_head * GROUP + row % GROUP
    lane = tl.arange(0, BLOCK)
    inside = lane < HEAD_DIM
    of_query = ((first_token + token) * (kv_heads * GROUP) + head) * HEAD_DIM
    query = tl.load(
        queries + of_query[:, None] + lane[None, :], mask=is_row[:, None] & inside[None, :], other=0.0
    )
    begin = list_number * row_stride + kv_head.to(tl.int64) * head_stride
    largest = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    result = tl.zeros([ROWS, BLOCK], tl.float32)
    for first in range(0, end, PLACES):
        place = first + tl.arange(0, PLACES)
        is_place = place < places
        sees = tl.load(
            mask + (first_token + token)[:, None] * places + place[None, :],
            mask=is_row[:, None] & is_place[None, :],
            other=0,
        )
        at = begin + place[:, None] * place_stride + lane[None, :]
        exists = is_place[:, None] & inside[None, :]
        key = tl.load(keys + at, mask=exists, other=0.0)
        scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale
        scores = tl.where(sees != 0, scores, -float("inf"))
        larger = tl.maximum(largest, tl.max(scores, axis=1))
        # Where nothing was seen yet there is nothing to rescale, and -inf less -inf is no number.
        base = tl.where(larger == -float("inf"), 0.0, larger)
        weight = tl.exp(scores - base[:, None])
        shrink = tl.exp(largest - base)
        total = total * shrink + tl.sum(weight, axis=1)
        value = tl.load(values + at, mask=exists, other=0.0)
        result = result * shrink[:, None] + tl.dot(weight.to(value.dtype), value, input_precision=PRECISION)
        largest = larger
    result /= tl.where(total > 0, total, 1.0)[:, None]
    tl.store(found + of_query[:, None] + lane[None, :], result, mask=is_row[:, None] & inside[None, :])


@triton.jit
def _copy_rows(
    source, target, source_rows, target_rows, width, layers,
    source_kind, source_layer, source_row, source_head, target_kind, target_layer, target_row, target_head,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One head of one layer, keys or values, of one row."""
    number, part, head = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    kind, layer = part // layers, part % layers
    begin = source + kind * source_kind + layer * source_layer + head * source_head
    begin += tl.load(source_rows + number) * source_row
    goes_to = target + kind * target_kind + layer * target_layer + head * target_head
    goes_to += tl.load(target_rows + number) * target_row
    for first in range(0, width, BLOCK):
        place = first + tl.arange(0, BLOCK)
        tl.store(goes_to + place, tl.load(begin + place, mask=place < width), mask=place < width)
