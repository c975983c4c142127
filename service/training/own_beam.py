"""A target's own beam as the teacher: the best next items as the target itself sees them, unsure as it may be.

A teacher says for sure what the target can only expect. Where it is unsure which item below a code is the good one, a
code that is worth the best item below it stays worth it until that item is met, so a greedy list of a new history
stays too long below one code. What the target expects of each item is what its beam ranks by; a list that is learned
from that opinion is sure of as much as the target is.
"""

import math

import torch

from service.training.teacher import Histories
from service.training.written_lists import Writer
from service.types import DecodeRequest

NUM_BEAMS = 20
_LEAST = 1e-30  # of a probability that has a logarithm


class OwnBeam:
    """A `Teacher`: a target that does not learn any more.

    Args:
        writer: holds the target.
        num_items: size of the catalogue.
        device: of scores.
    """

    def __init__(self, writer: Writer, num_items: int, device: torch.device) -> None:
        self._writer, self._num_items, self._device = writer, num_items, device

    def scores(self, histories: Histories, *, exclude_seen: bool) -> torch.Tensor:
        """See `Teacher`: the logarithms of the beams' probabilities, -inf for all other items."""
        requests = [
            DecodeRequest(
                request_id=str(number),
                history=tuple(history.tolist()),
                num_items=NUM_BEAMS,
                excluded=tuple(history.tolist()) if exclude_seen else (),
                decoding="beam",
            )
            for number, history in enumerate(histories)
        ]
        scores = torch.full((len(requests), self._num_items), -torch.inf)
        for row, done in zip(scores, self._writer.write(requests), strict=True):
            rows = torch.tensor([item.row for item in done.items], dtype=torch.int64)
            row[rows] = torch.tensor([math.log(max(item.score, _LEAST)) for item in done.items])
        return scores.to(self._device)
