"""How good the lists are: leave-one-out over the full catalogue, with simple methods beside the bundle's own."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from service.catalog.trie import Int32Array
from service.catalog.window import window
from service.data.dataset import Interactions
from service.data.split import Case
from service.engine.engine import Engine
from service.evaluation.beyond_accuracy import list_figures
from service.evaluation.metrics import CUTOFFS, gains_of, interval_figures, mean_figures
from service.evaluation.timing import timed
from service.types import DecodedList, DecodeRequest, Decoding

Asked = TypeVar("Asked", Case, DecodeRequest)
Row = dict[str, Any]
Lists = list[list[int]]  # of each user, rows of items, best first
NUM_ITEMS = max(CUTOFFS)
_AT_ONCE = 512


def requests_for(
    cases: Sequence[Case],
    *,
    max_history_items: int,
    decoding: Decoding = "list",
    exclude_seen: bool = False,
) -> list[DecodeRequest]:
    """What is asked for.

    Args:
        cases: histories and targets, in catalogue rows.
        max_history_items: the latest items of a history that the target reads.
        decoding: how lists are made.
        exclude_seen: lists hold no item of the history; the literature's protocol allows them.
    """
    return [
        DecodeRequest(
            request_id=str(index),
            history=window(case.history.tolist(), max_history_items),
            num_items=NUM_ITEMS,
            excluded=tuple(case.history.tolist()) if exclude_seen else (),
            decoding=decoding,
        )
        for index, case in enumerate(cases)
    ]


def lists_of(
    engine: Engine,
    requests: Sequence[DecodeRequest],
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[DecodedList]:
    """The engine's lists.

    Args:
        engine: holds the target; nothing else may be in flight.
        requests: each has its list, in this order.
        on_progress: called with the number of lists written so far.
    """
    lists: list[DecodedList] = []
    for begin in range(0, len(requests), engine.max_batch):
        lists += engine.write(requests[begin : begin + engine.max_batch])
        on_progress(len(lists))
    return lists


def rows_of(lists: Sequence[DecodedList]) -> Lists:
    """Their items."""
    return [[item.row for item in done.items] for done in lists]


def median_ms(
    write: Callable[[Sequence[Asked]], object], cases: Sequence[Asked], device: torch.device
) -> float:
    """How long a list takes that is written by itself, in milliseconds.

    Args:
        write: makes lists for cases or requests, of which it is given one at a time.
        cases: whose lists are timed, after each was written once before; the median over them counts.
        device: that works for it.
    """
    for case in cases:
        write([case])
    return 1000 * median(timed(partial(write, [case]), device)[1] for case in cases)


class Ranker(Protocol):
    """A method that ranks items for histories."""

    def rank(
        self, histories: Sequence[npt.NDArray[np.integer]], k: int, *, exclude_seen: bool = True
    ) -> Sequence[npt.NDArray[np.integer]]:
        """The k best rows for each history, best first, without its own items where they are to be excluded."""
        ...


class Popularity:
    """The most frequent items of `train`, the same for all."""

    def __init__(self, train: Interactions, num_items: int) -> None:
        self._by_count = np.argsort(-np.bincount(train.items, minlength=num_items), kind="stable")

    def rank(
        self, histories: Sequence[npt.NDArray[np.integer]], k: int, *, exclude_seen: bool = True
    ) -> Sequence[npt.NDArray[np.integer]]:
        """See `Ranker`."""
        if not exclude_seen:
            return [self._by_count[:k]] * len(histories)
        firsts = [(self._by_count[: k + len(history)], history) for history in histories]
        return [first[~np.isin(first, history)][:k] for first, history in firsts]


def ranked_lists(ranker: Ranker, cases: Sequence[Case], *, exclude_seen: bool = False) -> Lists:
    """A baseline's lists."""
    lists: Lists = []
    for begin in range(0, len(cases), _AT_ONCE):
        histories: list[npt.NDArray[np.int32]] = [case.history for case in cases[begin : begin + _AT_ONCE]]
        lists += [rows.tolist() for rows in ranker.rank(histories, NUM_ITEMS, exclude_seen=exclude_seen)]
    return lists


def quality_rows(
    methods: Mapping[str, Lists], cases: Sequence[Case], train: Interactions, codes: Int32Array, seed: int
) -> list[Row]:
    """Rows of `padrec evaluate`, one for each method.

    Args:
        methods: lists of the same users by each; all but the first are compared with the first.
        cases: the users.
        train: interactions that methods could learn from.
        codes: of all items, [num_items, L].
        seed: of the bootstrap.
    """
    targets = [case.target for case in cases]
    gains = {method: gains_of(lists, targets) for method, lists in methods.items()}
    intervals = interval_figures(list(gains.values()), seed)
    counts = np.bincount(train.items, minlength=len(codes))
    return [
        {
            "method": method,
            **mean_figures(gains[method]),
            "users": len(cases),
            **of_method,
            **list_figures(lists, counts, codes),
        }
        for (method, lists), of_method in zip(methods.items(), intervals, strict=True)
    ]
