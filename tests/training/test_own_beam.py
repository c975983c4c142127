"""What a target thinks of items, told by its beam."""

import math

import numpy as np
import torch

from service.training.own_beam import NUM_BEAMS, OwnBeam
from service.types import DecodedItem, DecodedList

CPU = torch.device("cpu")


class FindsNeighbours:
    """Finds the two items after the last one, as long as they are not excluded."""

    def __init__(self) -> None:
        self.asked = []

    def write(self, requests):
        self.asked += requests
        return [
            DecodedList(
                request_id=request.request_id,
                items=tuple(
                    DecodedItem(request.history[-1] + step, score)
                    for step, score in ((1, 0.5), (2, 0.0))
                    if request.history[-1] + step not in request.excluded
                ),
                exhausted=True,
                num_rounds=1,
                num_forced_tokens=0,
                prefill_seconds=0.0,
                decode_seconds=0.0,
            )
            for request in requests
        ]


def test_scores_are_what_the_beam_found_and_nothing_else() -> None:
    writer = FindsNeighbours()
    histories = [np.array([3, 0]), np.array([2, 1])]
    scores = OwnBeam(writer, 5, CPU).scores(histories, exclude_seen=False)
    least = math.log(1e-30)  # a probability that is no number any more is still more than none
    none = -math.inf
    expected = [[none, math.log(0.5), least, none, none], [none, none, math.log(0.5), least, none]]
    torch.testing.assert_close(scores, torch.tensor(expected))
    assert all(request.decoding == "beam" and request.num_items == NUM_BEAMS for request in writer.asked)
    assert [request.history for request in writer.asked] == [(3, 0), (2, 1)]


def test_seen_items_are_left_out_on_request() -> None:
    writer = FindsNeighbours()
    [scores] = OwnBeam(writer, 5, CPU).scores([np.array([2, 1])], exclude_seen=True)
    assert torch.isfinite(scores).nonzero().flatten().tolist() == [3]
    assert [request.excluded for request in writer.asked] == [(2, 1)]
