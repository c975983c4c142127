"""Lists beside the reference's: how many are equal, and where one is not, how near the target was to a tie.

A pass over several tokens adds in another order than a pass over one. In float32 that changes no list; in bfloat16 two
codes may have logits that differ by less than the format can tell apart, and then either list is the target's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from service.catalog.allowed import allowed_rows
from service.catalog.layout import TokenLayout
from service.catalog.trie import Int32Array
from service.types import DecodedList, DecodeRequest

Rows = Sequence[int]

WIDE = 2.0  # a gap of more units is hardly a tie: two passes may each be off by one


@dataclass(frozen=True, slots=True)
class Fork:
    """Where two lists part.

    Attributes:
        item: items that are equal before it.
        level: codes of the next item that are equal before it.
        expected: the reference's code there.
        written: the other list's code there.
    """

    item: int
    level: int
    expected: int
    written: int


@dataclass(frozen=True, slots=True)
class Gap:
    """How far apart the target's logits of two codes are.

    Attributes:
        gap: the absolute difference.
        unit: the distance between neighbouring numbers of the target's dtype at the larger logit, about.
    """

    gap: float
    unit: float

    @property
    def num_units(self) -> float:
        """The gap in units; two zeros are equal."""
        return self.gap / self.unit if self.unit else 0.0


def agreement_figures(
    model: PreTrainedModel,
    codes: Int32Array,
    layout: TokenLayout,
    requests: Sequence[DecodeRequest],
    expected: Sequence[DecodedList],
    written: Sequence[DecodedList],
) -> dict[str, Any]:
    """The part of a row of `padrec bench decode` that compares lists with the reference's.

    `largest_gap` is the one of the most units. It is None where no list differs, or where lists are sampled, for there
    a draw decides as well. `num_different` counts the lists that differ, `num_wide` those of them with a gap that is
    hardly a tie, and `not_allowed` those that no target may write: an item that is excluded or stands twice, or one too
    few. The last is 0, or the engine is wrong.

    Args:
        model: the target that wrote both.
        codes: [num_items, L], of the catalogue.
        layout: how codes become tokens.
        requests: what was asked for; each has its list in `expected` and `written`.
        expected: the reference's lists.
        written: the lists in question.
    """
    num_different = not_allowed = 0
    gaps: list[Gap] = []
    for request, theirs, ours in zip(requests, expected, written, strict=True):
        rows, other = ([item.row for item in done.items] for done in (theirs, ours))
        if rows == other:
            continue
        num_different += 1
        if not is_allowed(codes, request, other):
            not_allowed += 1
        elif request.temperature == 0:
            fork = find_fork(codes, rows, other)
            gaps.append(measure_gap(model, codes, layout, request.history, rows, fork))
    largest = max(gaps, key=lambda gap: gap.num_units, default=None)
    return {
        "equal_to_reference": (len(requests) - num_different) / len(requests) if requests else None,
        "num_different": num_different,
        "largest_gap": None if largest is None else largest.gap,
        "gap_unit": None if largest is None else largest.unit,
        "num_wide": sum(gap.num_units > WIDE for gap in gaps),
        "not_allowed": not_allowed,
    }


def find_fork(codes: Int32Array, expected: Rows, written: Rows) -> Fork:
    """The first code in which two lists differ that are not equal, but both allowed."""
    pairs = zip(expected, written, strict=True)
    item, row, other = next((i, row, other) for i, (row, other) in enumerate(pairs) if row != other)
    level = int(np.flatnonzero(codes[row] != codes[other])[0])
    return Fork(item, level, int(codes[row, level]), int(codes[other, level]))


def is_allowed(codes: Int32Array, request: DecodeRequest, rows: Rows) -> bool:
    """Whether some target could have written this list: found by looking at all items, as the reference does.

    Args:
        codes: [num_items, L].
        request: what was asked for.
        rows: the list.
    """
    left = allowed_rows(request, len(codes))
    if len(rows) != min(request.num_items, int(left.sum())):
        return False
    for row in rows:
        # Of items that share these codes the first that is left is written.
        same = left & (codes == codes[row]).all(axis=1)
        if not same.any() or int(np.flatnonzero(same)[0]) != row:
            return False
        left[row] = False
    return True


@torch.inference_mode()
def measure_gap(
    model: PreTrainedModel, codes: Int32Array, layout: TokenLayout, history: Rows, rows: Rows, fork: Fork
) -> Gap:
    """One pass of the target, in its own dtype, over the prompt and all that precedes a fork.

    Args:
        model: the target.
        codes: [num_items, L].
        layout: how codes become tokens.
        history: rows of the prompt.
        rows: the reference's list.
        fork: where the logits of the two codes are compared.
    """
    prompt = layout.prompt(codes[list(history)])
    items = layout.item_tokens(codes[list(rows[: fork.item + 1])]).ravel()
    tokens = np.concatenate([prompt, items[: fork.item * layout.tokens_per_item + fork.level]])
    output = model(input_ids=torch.as_tensor(tokens, device=model.device).unsqueeze(0), logits_to_keep=1)
    of_level = layout.code_tokens[fork.level]
    expected, written = (float(output.logits[0, -1, of_level[c]]) for c in (fork.expected, fork.written))
    magnitude = max(abs(expected), abs(written))
    return Gap(abs(expected - written), torch.finfo(output.logits.dtype).eps * magnitude)
