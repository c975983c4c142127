"""How good the lists are: leave-one-out over the full catalogue, with simple methods beside the bundle's own."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from service.catalog.window import window
from service.data.dataset import Interactions
from service.data.split import Case
from service.engine.engine import Engine
from service.evaluation.metrics import CUTOFFS, ranking_metrics
from service.training.teacher import ItemKnn
from service.types import DecodeRequest, Decoding

Row = dict[str, Any]
NUM_ITEMS = max(CUTOFFS)


def evaluate_lists(
    engine: Engine,
    cases: Sequence[Case],
    *,
    max_history_items: int,
    decoding: Decoding = "list",
    exclude_seen: bool = False,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Row:
    """The engine's lists, greedy ones or by beam decoding, a row of `padrec evaluate`.

    Args:
        engine: holds the target; nothing else may be in flight.
        cases: histories and targets, in catalogue rows.
        max_history_items: the latest items of a history that the target reads.
        decoding: how lists are made.
        exclude_seen: lists hold no item of the history; the literature's protocol allows them.
        on_progress: called with the number of lists written so far.
    """
    lists: list[list[int]] = []
    for begin in range(0, len(cases), engine.max_batch):
        requests = [
            DecodeRequest(
                request_id=str(index),
                history=window(case.history.tolist(), max_history_items),
                num_items=NUM_ITEMS,
                excluded=tuple(case.history.tolist()) if exclude_seen else (),
                decoding=decoding,
            )
            for index, case in enumerate(cases[begin : begin + engine.max_batch])
        ]
        lists += [[item.row for item in done.items] for done in engine.write(requests)]
        on_progress(len(lists))
    return _row(decoding, lists, cases)


def evaluate_baselines(
    train: Interactions, num_items: int, cases: Sequence[Case], *, exclude_seen: bool = False
) -> list[Row]:
    """Rows for popularity (the most frequent items of `train`, the same for all) and item-kNN."""
    knn = ItemKnn(train, num_items)
    by_count = np.argsort(-knn.counts, kind="stable")
    popular: list[list[int]] = []
    near: list[list[int]] = []
    for begin in range(0, len(cases), 512):
        histories: list[npt.NDArray[np.int32]] = [case.history for case in cases[begin : begin + 512]]
        near += [ranked.tolist() for ranked in knn.rank(histories, NUM_ITEMS, exclude_seen=exclude_seen)]
        for history in histories:
            first = by_count[: NUM_ITEMS + len(history)]
            kept = first[~np.isin(first, history)] if exclude_seen else first
            popular.append(kept[:NUM_ITEMS].tolist())
    return [_row("popularity", popular, cases), _row("item-knn", near, cases)]


def _row(method: str, lists: list[list[int]], cases: Sequence[Case]) -> Row:
    targets = [case.target for case in cases]
    return {"method": method, **ranking_metrics(lists, targets), "users": len(cases)}
