"""One list being written, as the host knows it: the request and the clock."""

import time
from dataclasses import dataclass, field

from service.engine.states import Result
from service.engine.trace import Trace
from service.types import DecodedItem, DecodedList, DecodeRequest, Round


@dataclass(slots=True)
class Flight:
    """A list in flight.

    Attributes:
        request: what is asked for.
        began: when its prefill did, by `time.perf_counter`.
        decoding_since: when its prefill ended.
        trace: of a list that is to be explained.
        num_told: items that were told while it is written.
    """

    request: DecodeRequest
    began: float = field(default_factory=time.perf_counter)
    decoding_since: float = 0.0
    trace: Trace | None = None
    num_told: int = 0

    def beams(self, items: tuple[DecodedItem, ...], num_passes: int) -> DecodedList:
        """The items that a search found by so many passes of the target after its prefill, which it is counted in."""
        return DecodedList(
            request_id=self.request.request_id,
            items=items,
            exhausted=len(items) < self.request.num_items,
            num_rounds=num_passes,
            num_forced_tokens=0,
            prefill_seconds=time.perf_counter() - self.began,
            decode_seconds=0.0,
        )

    def result(self, written: Result, rounds: tuple[Round, ...] = ()) -> DecodedList:
        """The list, once it is finished, and what there is to say of its rounds."""
        tally = written.tally
        return DecodedList(
            request_id=self.request.request_id,
            items=written.items,
            exhausted=len(written.items) < self.request.num_items,
            num_rounds=tally.num_rounds,
            num_forced_tokens=tally.num_forced,
            prefill_seconds=self.decoding_since - self.began,
            decode_seconds=time.perf_counter() - self.decoding_since,
            num_round_tokens=tally.num_round_tokens,
            num_round_forced_tokens=tally.num_round_forced,
            speculation=written.speculation,
            rounds=rounds,
        )
