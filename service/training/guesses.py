"""What a draft has to guess along a list that is known: the codes that were allowed, the decisions, the segments.

A *decision* is a code position at which more than one code is allowed. A *segment* is what one guess of the draft
reads: a decision and the tokens forced after it or, for a draft that guesses items, the rest of an item.
"""

from dataclasses import dataclass

import torch


def allowed_codes(
    free_until: torch.Tensor, rows: torch.Tensor, codes: torch.Tensor, one_hot: torch.Tensor
) -> torch.Tensor:
    """The codes that were allowed at every place of every list, bool [batch, K, L, C].

    Args:
        free_until: [batch, num_items], the last place of the list at which each row may be written; -1 for none.
        rows: int64 [batch, K], the lists.
        codes: int64 [num_items, L].
        one_hot: float [L, num_items, C], of `codes`.
    """
    num_places, num_levels = rows.shape[1], len(one_hot)
    by_place = []
    # Place by place, as a mask of all items for all places would be large.
    for place in range(num_places):
        matches = free_until >= place
        by_level = []
        for level in range(num_levels):
            by_level.append(matches.to(one_hot.dtype) @ one_hot[level] > 0)
            written = codes[rows[:, place], level]
            matches = matches & (codes[:, level] == written.unsqueeze(1))
        by_place.append(torch.stack(by_level, dim=1))
    return torch.stack(by_place, dim=1)


def decisions(allowed: torch.Tensor) -> torch.Tensor:
    """Which tokens of the lists were a choice, bool [batch, K * (L + 1)]; separators never are."""
    is_choice = allowed.sum(dim=-1) > 1
    return torch.nn.functional.pad(is_choice, (0, 1)).flatten(1)


def pick_anchors(is_decision: torch.Tensor, draws: torch.Tensor, count: int) -> torch.Tensor:
    """Decisions to guess from, int64 [batch, count], as indices into the list's tokens.

    A list's last decision has nothing after it to guess, and is not among them. Lists with fewer than `count` others
    repeat them; where there is none, the index is that of any token.

    Args:
        is_decision: bool [batch, tokens].
        draws: uniform in (0, 1), [batch, tokens].
        count: anchors per list.
    """
    after = is_decision.flip(1).cumsum(dim=1).flip(1)
    candidates = is_decision & (after > 1)
    order = torch.where(candidates, draws, -1.0).argsort(dim=1, descending=True, stable=True)
    num_candidates = candidates.sum(dim=1, keepdim=True).clamp_min(1)
    picks = torch.arange(count, device=order.device) % num_candidates
    return order.gather(1, picks)


@dataclass(frozen=True, slots=True)
class Segments:
    """What each guess reads, [batch, anchors, unroll], as indices into the list's tokens.

    Attributes:
        begin: first token.
        end: one past the last; there the draft guesses.
        is_valid: whether there is a decision left to guess, and no segment up to here is longer than an item.
    """

    begin: torch.Tensor
    end: torch.Tensor
    is_valid: torch.Tensor


def segments(
    is_decision: torch.Tensor, anchors: torch.Tensor, unroll: int, per_item: int, *, guesses_items: bool
) -> Segments:
    """The segments of `unroll` guesses that begin with the decisions `anchors`.

    The first holds the anchor and the tokens forced after it. The others do likewise from the next decision on or, for
    `guesses_items`, hold all that is left of an item.

    Args:
        is_decision: bool [batch, tokens].
        anchors: int64 [batch, anchors].
        unroll: number of guesses.
        per_item: tokens per item, L + 1.
        guesses_items: whether a guess is the rest of an item rather than a code.
    """
    num_tokens = is_decision.shape[1]
    places = torch.arange(num_tokens, device=is_decision.device)
    own = torch.where(is_decision, places, num_tokens)
    # at_or_after[t]: the first decision from t on; the list's end where there is none, and from there on.
    at_or_after = torch.nn.functional.pad(own.flip(1).cummin(dim=1).values.flip(1), (0, 2), value=num_tokens)
    begin, is_valid = anchors, is_decision.gather(1, anchors)
    begins, ends, valids = [], [], []
    for guess in range(unroll):
        if guesses_items and guess:
            end = ((begin // per_item + 1) * per_item).clamp_max(num_tokens)
        else:
            end = at_or_after.gather(1, begin + 1)
        is_valid = is_valid & (end < num_tokens) & (end - begin <= per_item)
        begins.append(begin)
        ends.append(end)
        valids.append(is_valid)
        begin = end
    return Segments(torch.stack(begins, -1), torch.stack(ends, -1), torch.stack(valids, -1))
