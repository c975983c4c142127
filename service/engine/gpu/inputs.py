"""What the draft's passes read."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from service.engine.constraint import TrieIndex
from service.engine.drafter import Placed, TokenInputs
from service.engine.gpu.extensions import Candidates
from service.engine.gpu.layout import list_of
from service.engine.gpu.sizes import PLACES_AT_ONCE, lists_at_once
from service.engine.states import ListStates
from service.model.kernels import Spans


@dataclass(frozen=True, slots=True)
class NewTokens:
    """Which tokens are new to the draft: t of them, those of all lists side by side.

    Attributes:
        spans: whose tokens are whose.
        column: int64 [t], which of its list's each one is.
        last: int64 [batch, 1], of them each list's last.
        mask: bool [batch, 1, places], the places of the draft's cache that hold a list's tokens, these included.
    """

    spans: Spans
    column: torch.Tensor
    last: torch.Tensor
    mask: torch.Tensor

    @classmethod
    def of(cls, num_lists: torch.Tensor, states: ListStates, num_tokens: int, num_places: int) -> "NewTokens":
        """Those of the first lists, int64 [1] of them, given for how many there is room, and of places."""
        batch, device = len(states.length), num_lists.device
        begin = torch.empty(batch + 1, dtype=torch.int64, device=device)
        ends, last = (torch.empty(batch, dtype=torch.int64, device=device) for _ in range(2))
        mask = torch.empty(batch, 1, num_places, dtype=torch.bool, device=device)
        _news_spans[(batch,)](
            num_lists, states.length, states.start, states.num_read, states.num_pending,
            begin, ends, last, mask, num_tokens, num_places, lists_at_once(batch), PLACES_AT_ONCE,
        )  # fmt: skip
        row, column = torch.empty(2, num_tokens, dtype=torch.int64, device=device)
        _news_rows[(num_tokens,)](begin, row, column, batch, lists_at_once(batch))
        most = states.tokens.shape[1] + states.pending.shape[1]
        return cls(Spans(row, begin, ends, most, has_padding=True), column, last.unsqueeze(1), mask)


def news_features(
    features: torch.Tensor, states: ListStates, new: NewTokens, weight: torch.Tensor, eps: float
) -> torch.Tensor:
    """Of each token that is new to the draft the feature that goes before it, normed, [t, hidden].

    Args:
        features: of all rows, [rows, places, hidden].
        states: of the first rows.
        new: the tokens.
        weight: of the norm.
        eps: what is added to a variance.
    """
    width = features.shape[2]
    normed = features.new_empty(len(new.column), width)
    _news_features[(len(normed),)](
        features, new.spans.row, new.column, states.length, states.start, states.num_read, weight, normed,
        features.shape[1], width, eps, triton.next_power_of_2(width),
        num_warps=8,
    )  # fmt: skip
    return normed


@dataclass(frozen=True, slots=True)
class Position:
    """What a draft adds for where a token stands, as one tensor each; see `PositionModule`.

    Attributes:
        of_slots: [num_slots, hidden], scaled already; None: it does not know.
        of_step: [hidden], of the pass; None likewise.
        gate: its weight [hidden] and bias [1].
    """

    of_slots: torch.Tensor | None
    of_step: torch.Tensor | None
    gate: tuple[torch.Tensor, torch.Tensor] | None


def place_news(
    told: torch.Tensor,
    inputs: TokenInputs,
    position: Position,
    index: TrieIndex,
    states: ListStates,
    new: NewTokens,
) -> Placed:
    """What is new to the draft, as its inputs; of padding the positions are past the last place of the cache.

    Args:
        told: the features' part of the inputs, [t, hidden].
        inputs: the tokens' part.
        position: of the first pass.
        index: the trie.
        states: of the first rows.
        new: the tokens.
    """
    t, width = told.shape
    u = torch.empty_like(told)
    positions = torch.empty(t, dtype=torch.int64, device=told.device)
    slots, step, (weight, bias) = _parts_of(position, told)
    _place_news[(t,)](
        told, inputs.of_token, inputs.row, slots, step, weight, bias, new.spans.row, new.column,
        states.tokens, states.pending, states.num_pending, states.length, states.start, states.num_read, states.node,
        index.node_depth, u, positions,
        states.tokens.shape[1], states.pending.shape[1], new.mask.shape[2], width,
        triton.next_power_of_2(width), position.of_slots is not None, position.of_step is not None,
        num_warps=8,
    )  # fmt: skip
    return Placed(u, positions, new.last, new.mask, new.spans)


def place_branches(
    step: int,
    told: torch.Tensor,
    inputs: TokenInputs,
    position: Position,
    candidates: Candidates,
    width: int,
    context: torch.Tensor,
) -> Placed:
    """As `place_news`, of the tokens of the best candidates of pass `step - 1`, [batch, width * s].

    Args:
        step: of the pass that reads them, from 1.
        told: the features' part of the inputs, of each branch that they may have grown from, [batch, m, hidden].
        inputs: the tokens' part.
        position: of this pass.
        candidates: of all passes so far.
        width: branches of a pass that are read.
        context: bool [batch, 1, base], the places before scratch that hold the lists' own tokens.
    """
    branches = candidates.branches
    batch, num_passes, count, s = branches.tokens.shape
    m, hidden, base = told.shape[1], told.shape[2], context.shape[2]
    num_places = base + step * width * s
    u = told.new_empty(batch, width * s, hidden)
    positions = torch.empty(batch, width * s, dtype=torch.int64, device=told.device)
    last = torch.empty(batch, width, dtype=torch.int64, device=told.device)
    mask = torch.empty(batch, width, num_places, dtype=torch.bool, device=told.device)
    slots, of_step, (weight, bias) = _parts_of(position, told)
    _place_branches[(batch, width * s)](
        told, inputs.of_token, inputs.row, slots, of_step, weight, bias,
        branches.tokens, branches.parent, branches.length, branches.slot, branches.end,
        u, positions, last,
        step - 1, num_passes, count, m, width, hidden, s,
        triton.next_power_of_2(hidden), position.of_slots is not None, position.of_step is not None,
        num_warps=8,
    )  # fmt: skip
    _see_branches[(batch, width)](
        branches.parent, branches.length, context, mask,
        num_passes, count, width, base, num_places, s, step, PLACES_AT_ONCE,
    )  # fmt: skip
    return Placed(u, positions, last, mask)


def _parts_of(
    position: Position, stand_in: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Its tensors; what is absent is not read, whatever stands in its place."""
    slots = stand_in if position.of_slots is None else position.of_slots
    step = stand_in if position.of_step is None else position.of_step
    return slots, step, position.gate or (stand_in, stand_in)


@triton.jit
def _news_spans(
    num_lists, length, start, num_read, num_pending, begin, ends, last, mask, num_tokens, num_places,
    LISTS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """One list; what is nobody's has no tokens, whatever it says."""
    row, every = tl.program_id(0), tl.arange(0, LISTS)
    is_list = every < tl.load(num_lists)
    count = tl.load(length + every, mask=is_list, other=0) - tl.load(start + every, mask=is_list, other=0)
    count -= tl.load(num_read + every, mask=is_list, other=0)
    count += tl.load(num_pending + every, mask=is_list, other=0)
    own = tl.sum(tl.where(every == row, count, 0))
    until = tl.sum(tl.where(every <= row, count, 0))
    if row == 0:
        tl.store(begin, until - own)
    tl.store(begin + row + 1, until)
    tl.store(last + row, tl.minimum(tl.maximum(until - 1, 0), num_tokens - 1))
    end = tl.load(start + row) + tl.load(num_read + row) + own
    tl.store(ends + row, end)
    for first in range(0, num_places, PLACES):
        place = first + tl.arange(0, PLACES)
        tl.store(mask + row * num_places + place, place < end, mask=place < num_places)


@triton.jit(do_not_specialize=["batch"])
def _news_rows(begin, rows, columns, batch, LISTS: tl.constexpr):
    """One token."""
    at = tl.program_id(0).to(tl.int64)
    row, column, is_padding = list_of(at, begin, batch, LISTS)
    tl.store(rows + at, tl.where(is_padding, -1, row))
    tl.store(columns + at, column)


@triton.jit
def _news_features(
    features, rows, columns, length, start, num_read, weight, normed, places, width, eps, WIDTH: tl.constexpr
):  # fmt: skip
    """One token; whatever is read for padding, it exists."""
    at = tl.program_id(0).to(tl.int64)
    row, column = tl.maximum(tl.load(rows + at), 0), tl.load(columns + at)
    read = tl.load(num_read + row)
    num_verified = tl.load(length + row) - tl.load(start + row) - read
    place = tl.minimum(tl.maximum(read + tl.minimum(num_verified, column), 0), places - 1)
    lane = tl.arange(0, WIDTH)
    inside = lane < width
    value = tl.load(features + (row * places + place) * width + lane, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value) / width + eps)
    result = value * scale * tl.load(weight + lane, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + at * width + lane, result, mask=inside)


@triton.jit
def _placed(
    told, of_token, token_row, of_slots, of_step, weight, bias, token, slot, is_guess, width,
    WIDTH: tl.constexpr, HAS_SLOTS: tl.constexpr, HAS_STEP: tl.constexpr,
):  # fmt: skip
    """An input of the draft, position and all; `told` points to its own row."""
    lane = tl.arange(0, WIDTH)
    inside = lane < width
    u = tl.load(told + lane, mask=inside, other=0.0).to(tl.float32)
    own = tl.load(token_row + token) * width
    u += tl.load(of_token + own + lane, mask=inside, other=0.0).to(tl.float32)
    placed = u
    if HAS_SLOTS:
        placed += tl.load(of_slots + slot * width + lane, mask=inside, other=0.0).to(tl.float32)
    if HAS_STEP:
        score = tl.sum(u * tl.load(weight + lane, mask=inside, other=0.0).to(tl.float32))
        gate = tl.sigmoid(score + tl.load(bias).to(tl.float32))
        gate = tl.where(is_guess, gate, 0.0)
        placed += gate * tl.load(of_step + lane, mask=inside, other=0.0).to(tl.float32)
    return placed


@triton.jit
def _place_news(
    told, of_token, token_row, of_slots, of_step, weight, bias, rows, columns,
    tokens, pending, num_pending, length, start, num_read, node, node_depth,
    u, positions,
    most_tokens, most_pending, num_places, width,
    WIDTH: tl.constexpr, HAS_SLOTS: tl.constexpr, HAS_STEP: tl.constexpr,
):  # fmt: skip
    """One token."""
    at = tl.program_id(0).to(tl.int64)
    of_list, column = tl.load(rows + at), tl.load(columns + at)
    row = tl.maximum(of_list, 0)
    read, begin = tl.load(num_read + row), tl.load(start + row)
    num_verified = tl.load(length + row) - begin - read
    last = num_verified + tl.load(num_pending + row) - 1
    is_guess = column >= num_verified
    verified = tl.minimum(tl.maximum(read + column, 0), most_tokens - 1)
    waiting = tl.minimum(tl.maximum(column - num_verified, 0), most_pending - 1)
    token = tl.where(
        is_guess,
        tl.load(pending + row * most_pending + waiting),
        tl.load(tokens + row * most_tokens + verified),
    )
    # L + 1 slots; the remainder of what is negative is negative.
    slot = (tl.load(node_depth + tl.load(node + row)) - (last - column)) % most_pending
    slot = tl.where(slot < 0, slot + most_pending, slot)
    placed = _placed(
        told + at * width, of_token, token_row, of_slots, of_step, weight, bias, token, slot, is_guess, width,
        WIDTH, HAS_SLOTS, HAS_STEP,
    )  # fmt: skip
    lane = tl.arange(0, WIDTH)
    tl.store(u + at * width + lane, placed, mask=lane < width)
    tl.store(positions + at, tl.where(of_list < 0, num_places, begin + read + column))


@triton.jit(do_not_specialize=["number", "num_passes", "m", "width"])
def _place_branches(
    told, of_token, token_row, of_slots, of_step, weight, bias,
    tokens, parent, length, slots, end,
    u, positions, last_column,
    number, num_passes, count, m, width, hidden, s,
    WIDTH: tl.constexpr, HAS_SLOTS: tl.constexpr, HAS_STEP: tl.constexpr,
):  # fmt: skip
    """One token of one branch."""
    of_list, column = tl.program_id(0).to(tl.int64), tl.program_id(1)
    branch, place = column // s, column % s
    at = (of_list * num_passes + number) * count + branch
    last = tl.load(length + at) - 1
    after = last - place
    slot = (tl.load(slots + at) - after) % s
    slot = tl.where(slot < 0, slot + s, slot)
    token = tl.load(tokens + at * s + place)
    grew_from = tl.minimum(tl.load(parent + at), m - 1)
    placed = _placed(
        told + (of_list * m + grew_from) * hidden, of_token, token_row, of_slots, of_step, weight, bias, token, slot,
        place >= 0, hidden, WIDTH, HAS_SLOTS, HAS_STEP,
    )  # fmt: skip
    out = of_list * width * s + column
    lane = tl.arange(0, WIDTH)
    tl.store(u + out * hidden + lane, placed, mask=lane < hidden)
    tl.store(positions + out, tl.load(end + at) - 1 - after)
    if place == 0:
        tl.store(last_column + of_list * width + branch, column + tl.maximum(last, 0))


@triton.jit(do_not_specialize=["num_passes", "width", "num_places", "step"])
def _see_branches(
    parent, length, context, mask, num_passes, count, width, base, num_places, s, step, PLACES: tl.constexpr,
):  # fmt: skip
    """What the last token of a branch may look at: the list's own tokens, and those of it and its ancestors."""
    of_list, branch = tl.program_id(0).to(tl.int64), tl.program_id(1)
    for first in range(0, num_places, PLACES):
        place = first + tl.arange(0, PLACES)
        seen = tl.load(context + of_list * base + place, mask=place < base, other=0) != 0
        ancestor = branch.to(tl.int64)
        for back in range(step):
            number = step - 1 - back
            at = (of_list * num_passes + number) * count + ancestor
            begin = base + (number * width + ancestor) * s
            seen |= (place >= begin) & (place < begin + tl.load(length + at))
            ancestor = tl.load(parent + at)
        tl.store(mask + (of_list * width + branch) * num_places + place, seen, mask=place < num_places)
