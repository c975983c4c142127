"""What the target reads in a round: `Steps.lay_out`."""

import torch
import triton
import triton.language as tl

from service.engine.gpu.sizes import PLACES_AT_ONCE, guesses_at_once, lists_at_once
from service.engine.states import ListStates
from service.engine.steps import Layout
from service.engine.target_pass import Reading
from service.engine.tree import Trees
from service.model.kernels import Spans

_MOST_AT_ONCE = 16384  # guesses of some lists


def lay_out(
    num_tokens: int, num_places: int, num_lists: torch.Tensor, states: ListStates, trees: Trees
) -> Layout:
    """See `Steps.lay_out`; guesses for which there is no room become padding where they are."""
    batch, n = trees.token.shape
    device, most_pending = trees.token.device, states.pending.shape[1]
    begin = torch.empty(batch + 1, dtype=torch.int64, device=device)
    ends = torch.empty(batch, dtype=torch.int64, device=device)
    asked = torch.empty(batch, n, dtype=torch.int64, device=device)
    guesses = guesses_at_once(n)
    lists = max(1, min(lists_at_once(batch), _MOST_AT_ONCE // guesses))
    _spans[(1,)](
        num_lists, states.num_pending, states.length, trees.probability, trees.is_real, begin, ends, asked,
        batch, n, num_tokens, lists, triton.cdiv(batch, lists), guesses,
        num_warps=8,
    )  # fmt: skip
    tokens, positions, places, row = torch.empty(4, num_tokens, dtype=torch.int64, device=device)
    mask = torch.empty(num_tokens, num_places, dtype=torch.bool, device=device)
    _lay_out[(num_tokens,)](
        states.pending, states.num_pending, states.length, trees.token, trees.depth, trees.sees, begin,
        tokens, positions, places, row, mask,
        batch, n, num_places, most_pending, lists_at_once(batch), PLACES_AT_ONCE,
    )  # fmt: skip
    read = Reading(
        tokens, positions, places, mask, Spans(row, begin, ends, most_pending + n - 1, has_padding=True)
    )
    return Layout(read, trees, asked)


@triton.jit
def list_of(at, begin, batch, LISTS: tl.constexpr):
    """Of a token that stands `at` among those of all lists: its list, which of the list's it is, whether it is padding.

    What is padding stands after the last list's.
    """
    every = tl.arange(0, LISTS)
    end = tl.load(begin + 1 + every, mask=every < batch, other=at + 1)
    row = tl.sum((end <= at).to(tl.int64))
    is_padding = row == batch
    row = tl.minimum(row, batch - 1)
    return row, at - tl.load(begin + row), is_padding


@triton.jit
def _probabilities(
    probability, is_real, num_lists, block, n, LISTS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """Of the guesses of some lists, as the bits of numbers that are not negative, which have their order."""
    row, place = block * LISTS + tl.arange(0, LISTS), tl.arange(0, PLACES)
    inside = (row < num_lists)[:, None] & ((place > 0) & (place < n))[None, :]
    at = row[:, None] * n + place[None, :]
    real = tl.load(is_real + at, mask=inside, other=0) != 0
    likely = tl.load(probability + at, mask=inside, other=0.0)
    return tl.where(real, likely, 0.0).to(tl.int32, bitcast=True)


@triton.jit(do_not_specialize=["batch", "n"])
def _spans(
    num_lists, num_pending, length, probability, is_real, begin, ends, asked, batch, n, num_tokens,
    LISTS: tl.constexpr, BLOCKS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """How many tokens each list has, and where; some lists at a time."""
    place = tl.arange(0, PLACES)
    num_lists = tl.load(num_lists)
    total = num_lists * 0
    room, num_guesses = total + num_tokens, total
    for block in range(BLOCKS):
        row = block * LISTS + tl.arange(0, LISTS)
        room -= tl.sum(tl.load(num_pending + row, mask=row < num_lists, other=0))
        likely = _probabilities(probability, is_real, num_lists, block, n, LISTS, PLACES)
        num_guesses += tl.sum((likely > 0).to(tl.int64))
    # The least number of which no more are larger than there is room for, bit by bit.
    least = tl.zeros([], tl.int32)
    if num_guesses > room:
        for bit in range(30):
            lower = least + (1 << (29 - bit))
            larger = total
            for block in range(BLOCKS):
                likely = _probabilities(probability, is_real, num_lists, block, n, LISTS, PLACES)
                larger += tl.sum((likely >= lower).to(tl.int64))
            least = tl.where(larger > room, lower, least)
    tl.store(begin, total)
    for block in range(BLOCKS):
        row = block * LISTS + tl.arange(0, LISTS)
        exists = row < batch
        kept = _probabilities(probability, is_real, num_lists, block, n, LISTS, PLACES) > least
        pending = tl.load(num_pending + row, mask=row < num_lists, other=0)
        count = pending + tl.sum(kept.to(tl.int64), axis=1)
        end = total + tl.cumsum(count, axis=0)
        tl.store(begin + row + 1, end, mask=exists)
        tl.store(ends + row, tl.load(length + row, mask=exists, other=0) + count, mask=exists)
        at = row[:, None] * n + place[None, :]
        inside = exists[:, None] & (place < n)[None, :]
        which = (end - count + pending - 1)[:, None] + place[None, :]
        tl.store(asked + at, tl.minimum(tl.maximum(which, 0), num_tokens - 1), mask=inside)
        tl.store(is_real + at, kept, mask=inside & (place > 0)[None, :])
        total += tl.sum(count)


@triton.jit(do_not_specialize=["batch", "n"])
def _lay_out(
    pending, num_pending, length, tree_token, tree_depth, sees, begin, tokens, positions, places, rows, mask,
    batch, n, num_places, most_pending, LISTS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """One token."""
    at = tl.program_id(0).to(tl.int64)
    row, column, is_padding = list_of(at, begin, batch, LISTS)
    of_length, own = tl.load(length + row), tl.load(num_pending + row)
    guess = column - own + 1  # its place in the tree; of pending tokens it is none
    is_guess = guess > 0
    guess = tl.minimum(tl.maximum(guess, 0), n - 1)
    of_tree = row * n + guess
    certain = row * most_pending + tl.minimum(column, most_pending - 1)
    token = tl.where(is_guess, tl.load(tree_token + of_tree), tl.load(pending + certain))
    ahead = tl.where(is_guess, own - 1 + tl.load(tree_depth + of_tree), column)
    tl.store(tokens + at, token)
    tl.store(positions + at, of_length + ahead)
    tl.store(places + at, tl.where(is_padding, num_places, of_length + column))
    tl.store(rows + at, tl.where(is_padding, -1, row))
    for first in range(0, num_places, PLACES):
        block = first + tl.arange(0, PLACES)
        place = block - of_length
        other = place - own + 1
        in_tree = (other > 0) & (other < tl.where(is_guess, n, 0)) & (block < num_places)
        sees_it = tl.load(sees + of_tree * n + other, mask=in_tree, other=0) != 0
        seen = (place < tl.minimum(own, column + 1)) | (in_tree & sees_it)
        tl.store(mask + at * num_places + block, seen, mask=block < num_places)
