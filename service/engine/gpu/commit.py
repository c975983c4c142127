"""How a prefill and a round are kept: `ListStates.after`, and what moves in the caches."""

import torch
import triton
import triton.language as tl

from service.engine.incoming import Arrivals
from service.engine.states import NUM_ROUND_TOKENS, ListStates
from service.engine.tree import Trees
from service.engine.verify import Accepted


def begin(states: ListStates, incoming: Arrivals, done: Accepted) -> None:
    """See `Steps.begin`."""
    power, levels = triton.next_power_of_2, states.by_slot.shape[1]
    _begin[(len(incoming.row),)](
        states.free, states.limit, states.items, states.log_scores, states.num_items, states.node, states.pending,
        states.num_pending, states.length, states.start, states.tokens, states.num_read, states.counts,
        states.by_step, states.by_slot,
        incoming.row, incoming.free, incoming.limit, incoming.spans.ends,
        done.rows, done.log_scores, done.num_rows, done.pending, done.num_pending, done.node, done.num_forced,
        states.free.shape[1], states.items.shape[1], states.tokens.shape[1], states.by_step.shape[1],
        states.counts.shape[1], levels, done.rows.shape[1], power(levels + 1), power(states.items.shape[1]),
        power(states.tokens.shape[1]), power(max(1, states.by_step.shape[1])),
        min(4096, power(states.free.shape[1])),
    )  # fmt: skip


def commit(states: ListStates, trees: Trees, done: Accepted, *, is_drafted: bool) -> None:
    """See `ListStates.after`, of a round; the states change in their place."""
    batch, most = done.path.shape
    n, columns, levels = trees.num_places, done.rows.shape[1], states.by_slot.shape[1]
    power = triton.next_power_of_2
    _commit[(batch,)](
        states.free, states.items, states.log_scores, states.num_items, states.node, states.pending,
        states.num_pending, states.length, states.start, states.tokens, states.num_read, states.counts,
        states.by_step, states.by_slot,
        trees.token, trees.is_guess, trees.step, trees.slot, trees.is_real,
        done.path, done.num_path, done.pending, done.num_pending, done.node, done.rows, done.log_scores,
        done.num_rows, done.num_tokens, done.num_forced,
        n, most, columns, states.free.shape[1], states.items.shape[1], states.tokens.shape[1],
        states.by_step.shape[1], states.counts.shape[1],
        levels, power(levels + 1), power(columns), power(max(1, most)), power(n),
        power(max(1, states.by_step.shape[1])), is_drafted,
    )  # fmt: skip


def keep(data: torch.Tensor, states: ListStates, done: Accepted) -> None:
    """Move the entries of accepted guesses to where they belong; before `commit`.

    Args:
        data: of a cache, [key or value, layer, row, head, position, head_dim].
        states: of the first rows.
        done: what the pass made certain.
    """
    batch, most = done.path.shape
    if not most:
        return
    kinds, layers, _, heads, positions, head_dim = data.shape
    _keep[(batch, kinds * layers * heads)](
        data, done.path, done.num_path, states.length, states.num_pending,
        most, layers, heads, positions - 1,
        data.stride(0), data.stride(1), data.stride(2), data.stride(3), data.stride(4),
        head_dim, triton.next_power_of_2(head_dim), triton.next_power_of_2(most),
    )  # fmt: skip


def remember(
    features: torch.Tensor, begin: torch.Tensor, states: ListStates, done: Accepted, hidden: torch.Tensor
) -> None:
    """Keep the features of the tokens that a pass verified; before `commit`.

    Args:
        features: of all rows, [rows, places, hidden].
        begin: int64 [batch + 1], where each list's tokens begin in the pass.
        states: of the first rows.
        done: what the pass made certain.
        hidden: of the pass, [t, hidden].
    """
    (batch, most), width = done.path.shape, hidden.shape[1]
    _remember[(batch, states.pending.shape[1] + most)](
        features, hidden, begin, done.path, done.num_path, states.num_pending, states.length, states.start,
        most, features.shape[1], width, triton.next_power_of_2(width),
    )  # fmt: skip


def summarize(states: ListStates, summary: torch.Tensor) -> None:
    """See `ListStates.summary`, into `summary`, which may be the host's pinned memory."""
    rows = summary.shape[1]
    _summarize[(triton.cdiv(rows, 128),)](
        states.num_items, states.limit, states.num_pending, states.length, states.start, states.num_read,
        states.counts, summary, rows, states.counts.shape[1], NUM_ROUND_TOKENS, 128,
    )  # fmt: skip


def pack(
    states: ListStates, packed: torch.Tensor, num_lists: torch.Tensor, rows: torch.Tensor | None
) -> None:
    """See `ListStates.packed`: of lists that are finished, into their rows of `packed`.

    Args:
        states: of all rows.
        packed: of all rows; may be the host's pinned memory.
        num_lists: int64 [1], in flight.
        rows: int64 [n], lists that may be finished; None: any in flight.
    """
    parts = states.items, states.log_scores, states.counts, states.by_step, states.by_slot
    widths = [part.shape[1] for part in parts]
    _pack[(len(packed) if rows is None else len(rows),)](
        states.num_items, states.limit, *parts, packed, num_lists, rows, *widths,
        triton.next_power_of_2(max(widths)), rows is not None,
    )  # fmt: skip


@triton.jit
def _begin(
    free, limit, items, log_scores, num_items, node, pending, num_pending, length, start, tokens, num_read, counts,
    by_step, by_slot,
    rows_to, free_now, limit_now, ends, rows, scores, num_rows, new_pending, num_new_pending, new_node, num_forced,
    free_width, items_width, tokens_width, num_steps, num_counts, levels,
    COLUMNS: tl.constexpr, TOKENS: tl.constexpr, ITEMS: tl.constexpr, ALL: tl.constexpr, STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One list."""
    number = tl.program_id(0).to(tl.int64)
    at = tl.load(rows_to + number)
    item, token = tl.arange(0, ITEMS), tl.arange(0, TOKENS)
    every, step, count = tl.arange(0, ALL), tl.arange(0, STEPS), tl.arange(0, 8)
    for first in range(0, free_width, BLOCK):
        row = first + tl.arange(0, BLOCK)
        is_free = tl.load(free_now + number * free_width + row, mask=row < free_width, other=0) != 0
        for i in tl.static_range(COLUMNS):
            is_free &= row != tl.load(rows + number * COLUMNS + i)
        tl.store(free + at * free_width + row, is_free, mask=row < free_width)
    done = tl.load(rows + number * COLUMNS + item, mask=item < COLUMNS, other=-1)
    score = tl.load(scores + number * COLUMNS + item, mask=item < COLUMNS, other=0.0)
    tl.store(items + at * items_width + item, done, mask=item < items_width)
    tl.store(log_scores + at * items_width + item, score, mask=item < items_width)
    waiting = tl.load(new_pending + number * (levels + 1) + token, mask=token <= levels, other=0)
    tl.store(pending + at * (levels + 1) + token, waiting, mask=token <= levels)
    tl.store(by_slot + at * levels + token, token.to(tl.int64) * 0, mask=token < levels)
    tl.store(tokens + at * tokens_width + every, every.to(tl.int64) * 0, mask=every < tokens_width)
    tl.store(by_step + at * num_steps + step, step.to(tl.int64) * 0, mask=step < num_steps)
    forced = tl.load(num_forced + number)
    tl.store(counts + at * num_counts + count, tl.where(count == 0, forced, 0), mask=count < num_counts)
    end = tl.load(ends + number)
    tl.store(limit + at, tl.load(limit_now + number))
    tl.store(num_items + at, tl.load(num_rows + number))
    tl.store(node + at, tl.load(new_node + number))
    tl.store(num_pending + at, tl.load(num_new_pending + number))
    tl.store(length + at, end)
    tl.store(start + at, end)
    tl.store(num_read + at, end * 0)


@triton.jit(do_not_specialize=["n", "most"])
def _commit(
    free, items, log_scores, num_items, node, pending, num_pending, length, start, tokens, num_read, counts,
    by_step, by_slot,
    tree_token, tree_guess, tree_step, tree_slot, tree_real,
    path, num_path, new_pending, num_new_pending, new_node, rows, scores, num_rows, num_tokens, num_forced,
    n, most, columns, free_width, items_width, tokens_width, num_steps, num_counts,
    LEVELS: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr, MOST: tl.constexpr, BLOCK: tl.constexpr,
    STEPS: tl.constexpr, IS_DRAFTED: tl.constexpr,
):  # fmt: skip
    """One list."""
    at = tl.program_id(0).to(tl.int64)
    item, token, place = tl.arange(0, COLUMNS), tl.arange(0, TOKENS), tl.arange(0, BLOCK)
    column, step, count = tl.arange(0, MOST), tl.arange(0, STEPS), tl.arange(0, 8)
    items_before = tl.load(num_items + at)
    pending_before, length_before = tl.load(num_pending + at), tl.load(length + at)
    begin, read = tl.load(start + at), tl.load(num_read + at)
    row = tl.load(rows + at * columns + item, mask=item < columns, other=-1)
    goes_to = items_before + item
    is_inside = (item < columns) & (goes_to < items_width - 1)
    score = tl.load(scores + at * columns + item, mask=is_inside, other=0.0)
    score += tl.load(log_scores + at * items_width + goes_to, mask=is_inside, other=0.0)
    of_pending = tl.load(pending + at * (LEVELS + 1) + token, mask=token <= LEVELS, other=0)
    steps_before = tl.load(by_step + at * num_steps + step, mask=step < num_steps, other=0)
    slots_before = tl.load(by_slot + at * LEVELS + token, mask=token < LEVELS, other=0)
    counts_before = tl.load(counts + at * num_counts + count, mask=count < num_counts, other=0)

    on_path = column < tl.load(num_path + at)
    of_path = at * n + tl.load(path + at * most + column, mask=on_path, other=0)
    path_token = tl.load(tree_token + of_path, mask=on_path, other=0)
    is_guess = on_path & (tl.load(tree_guess + of_path, mask=on_path, other=0) != 0)
    nth = tl.load(tree_step + of_path, mask=is_guess, other=0) - 1
    slot = tl.load(tree_slot + of_path, mask=is_guess, other=-1)
    more_steps = tl.sum((is_guess[None, :] & (nth[None, :] == step[:, None])).to(tl.int64), axis=1)
    more_slots = tl.sum((is_guess[None, :] & (slot[None, :] == token[:, None])).to(tl.int64), axis=1)
    is_place = (place > 0) & (place < n)
    is_real = tl.load(tree_real + at * n + place, mask=is_place, other=0) != 0
    guessed = is_real & (tl.load(tree_guess + at * n + place, mask=is_place, other=0) != 0)
    certain, forced = tl.load(num_tokens + at), tl.load(num_forced + at)
    more = tl.where(count == 0, forced, 0)
    more += tl.where(count == 1, 1, 0)
    more += tl.where(count == 2, certain, 0)
    more += tl.where(count == 3, forced, 0)
    more += tl.where(count == 4, tl.max(is_real.to(tl.int64)), 0)
    more += tl.where(count == 5, tl.sum(guessed.to(tl.int64)), 0)
    # All is read before any of it is written.
    tl.debug_barrier()

    is_item = is_inside & (row >= 0)
    tl.store(items + at * items_width + goes_to, row, mask=is_item)
    tl.store(free + at * free_width + row, row < 0, mask=is_item)
    tl.store(log_scores + at * items_width + goes_to, score, mask=is_inside)
    into = at * tokens_width + length_before - begin
    tl.store(tokens + into + token, of_pending, mask=token < pending_before)
    tl.store(tokens + into + pending_before + column, path_token, mask=on_path)
    tl.store(by_step + at * num_steps + step, steps_before + more_steps, mask=step < num_steps)
    tl.store(by_slot + at * LEVELS + token, slots_before + more_slots, mask=token < LEVELS)
    tl.store(counts + at * num_counts + count, counts_before + more, mask=count < num_counts)
    tl.store(
        pending + at * (LEVELS + 1) + token,
        tl.load(new_pending + at * (LEVELS + 1) + token, mask=token <= LEVELS, other=0),
        mask=token <= LEVELS,
    )
    tl.store(num_items + at, items_before + tl.load(num_rows + at))
    tl.store(node + at, tl.load(new_node + at))
    tl.store(num_pending + at, tl.load(num_new_pending + at))
    tl.store(length + at, length_before + pending_before + tl.load(num_path + at))
    tl.store(num_read + at, length_before - begin if IS_DRAFTED else read)


@triton.jit
def _keep(
    data, path, num_path, length, num_pending,
    most, layers, heads, last_position,
    kind_stride, layer_stride, row_stride, head_stride, position_stride,
    head_dim, WIDTH: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """One head of one list."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    head, layer, kind = part % heads, part // heads % layers, part // (heads * layers)
    column, lane = tl.arange(0, MOST), tl.arange(0, WIDTH)
    on_path = column < tl.load(num_path + row)
    begin = tl.load(length + row) + tl.load(num_pending + row)
    source = begin - 1 + tl.load(path + row * most + column, mask=on_path, other=0)
    target = begin + column
    base = data + kind * kind_stride + layer * layer_stride + row * row_stride + head * head_stride
    mask = on_path[:, None] & (lane < head_dim)[None, :]
    source = tl.minimum(source, last_position)[:, None] * position_stride + lane[None, :]
    target = tl.minimum(target, last_position)[:, None] * position_stride + lane[None, :]
    entries = tl.load(base + source, mask=mask)
    tl.debug_barrier()
    tl.store(base + target, entries, mask=mask)


@triton.jit(do_not_specialize=["most"])
def _remember(
    features, hidden, begin, path, num_path, num_pending, length, start,
    most, places, width, WIDTH: tl.constexpr,
):  # fmt: skip
    """One token of one list."""
    row, order = tl.program_id(0).to(tl.int64), tl.program_id(1)
    pending = tl.load(num_pending + row)
    is_verified = order < pending + tl.load(num_path + row)
    is_guess = is_verified & (order >= pending)
    guess = tl.load(path + row * most + order - pending, mask=is_guess, other=0)
    token = tl.load(begin + row) + tl.where(is_guess, pending - 1 + guess, order)
    place = 1 + tl.load(length + row) - tl.load(start + row) + order
    lane = tl.arange(0, WIDTH)
    # Rows that are nobody's have no tokens, whatever they say; those of padding were never computed.
    exists = token < tl.load(begin + row + 1)
    mask = lane < tl.where(is_verified & (place < places) & exists, width, 0)
    values = tl.load(hidden + token * width + lane, mask=mask)
    tl.store(features + (row * places + place) * width + lane, values, mask=mask)


@triton.jit
def _summarize(
    num_items, limit, num_pending, length, start, num_read, counts, summary,
    num_rows, num_counts, WHICH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Some rows."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = row < num_rows
    of_length = tl.load(length + row, mask=exists)
    unread = of_length - tl.load(start + row, mask=exists) - tl.load(num_read + row, mask=exists)
    tl.store(summary + row, tl.load(num_items + row, mask=exists), mask=exists)
    tl.store(summary + num_rows + row, tl.load(limit + row, mask=exists), mask=exists)
    tl.store(summary + 2 * num_rows + row, tl.load(num_pending + row, mask=exists), mask=exists)
    tl.store(summary + 3 * num_rows + row, unread, mask=exists)
    tl.store(summary + 4 * num_rows + row, of_length, mask=exists)
    of_counts = tl.load(counts + row.to(tl.int64) * num_counts + WHICH, mask=exists)
    tl.store(summary + 5 * num_rows + row, of_counts, mask=exists)


@triton.jit
def _pack(
    num_items, limit, items, log_scores, counts, by_step, by_slot, packed, num_lists, rows,
    num_rows, num_scores, num_counts, num_steps, num_slots, BLOCK: tl.constexpr, HAS_ROWS: tl.constexpr,
):  # fmt: skip
    """One list."""
    at = tl.program_id(0).to(tl.int64)
    if HAS_ROWS:
        at = tl.load(rows + at)
    count = tl.load(num_items + at)
    is_finished = count == tl.load(limit + at)
    if not HAS_ROWS:
        is_finished &= at < tl.load(num_lists)
    if is_finished:
        lane = tl.arange(0, BLOCK)
        to = packed + at * (1 + num_rows + num_scores + num_counts + num_steps + num_slots)
        tl.store(to, count)
        to += 1
        tl.store(to + lane, tl.load(items + at * num_rows + lane, mask=lane < num_rows), mask=lane < num_rows)
        to += num_rows
        score = tl.load(log_scores + at * num_scores + lane, mask=lane < num_scores).to(tl.float64)
        tl.store(to + lane, score.to(tl.int64, bitcast=True), mask=lane < num_scores)
        to += num_scores
        inside = lane < num_counts
        tl.store(to + lane, tl.load(counts + at * num_counts + lane, mask=inside), mask=inside)
        to += num_counts
        inside = lane < num_steps
        tl.store(to + lane, tl.load(by_step + at * num_steps + lane, mask=inside), mask=inside)
        to += num_steps
        inside = lane < num_slots
        tl.store(to + lane, tl.load(by_slot + at * num_slots + lane, mask=inside), mask=inside)
