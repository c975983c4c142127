"""The engine: lists in flight, written a round at a time.

A round is draft, verify, accept, commit: the draft guesses a tree of tokens for every list, one pass of the target
reads all trees under a mask, each list follows the target's choices through its tree, and the cache keeps what was
accepted. All of it happens on the device (`service.engine.passes`); the host says how much is guessed, and learns how
far the lists came when the round is over. Without a draft the trees are bare roots. Lists join and leave between
rounds; list i stands in row i of everything that is on the device.
"""

import math
import time
from collections.abc import Collection, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from service.catalog.allowed import allows
from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.engine.beam import MOST_BEAMS, num_beams_of
from service.engine.constraint import NOT_ALLOWED
from service.engine.covering import prefills_of_service, rounds_of_service
from service.engine.flight import Flight
from service.engine.incoming import Prompt
from service.engine.load import Always, TreeChoice, label_of
from service.engine.passes import Passes
from service.engine.prefixes import Prefix, Prefixes
from service.engine.sampling import noise_of
from service.engine.states import Result
from service.engine.trace import Trace
from service.engine.tree import TreeShape
from service.model.draft import Draft
from service.model.memory import check_memory
from service.types import MAX_NUM_ITEMS, DecodedItem, DecodedList, DecodeRequest


class Engine:
    """Owns target and draft and everything on their device; used from one thread.

    Args:
        model: the target, in evaluation mode on its device.
        catalogue: of the same bundle.
        layout: how codes become tokens.
        max_batch: lists in flight, at most; the caller keeps to it.
        draft: guesses ahead of the target; None: the target writes alone.
        trees: how much is guessed, decided at every round; None: always what suits the draft and the device.
        max_items: items of a list, at most; the caller keeps to it.
        num_prefixes: histories of which the prompt is kept, for users who come back.

    Attributes:
        num_rounds: passes over the lists in flight so far.
        batch: lists that the latest of them read.
    """

    # What stays on the device is then of one kind with what passes compute, and parts are compiled for one kind alone.
    @torch.inference_mode()
    def __init__(
        self,
        model: PreTrainedModel,
        catalogue: Catalogue,
        layout: TokenLayout,
        max_batch: int = 32,
        draft: Draft | None = None,
        trees: TreeChoice | None = None,
        max_items: int = MAX_NUM_ITEMS,
        num_prefixes: int = 0,
    ) -> None:
        self.max_batch = max_batch
        self.num_rounds = self.batch = 0
        self._catalogue, self._layout = catalogue, layout
        self._trees: TreeChoice = Always(None)
        if draft is not None:
            self._trees = trees or Always(TreeShape.default(draft.config, model.device))
        self._tree: TreeShape | None = None  # of the latest round
        self._passes = Passes(model, catalogue, layout, max_batch, max_items, draft, self._trees.shapes)
        self._prefixes = None
        if num_prefixes:
            caches = list(self._passes.caches.values())
            self._prefixes = Prefixes(num_prefixes, caches, model.config.hidden_size)
        self._flights: list[Flight] = []
        self._found: list[DecodedList] = []  # finished, and not handed out yet
        self._summary = self._passes.summary(0)

    @property
    def guessing(self) -> str:
        """What the latest round guessed: `none`, or a tree's label."""
        return label_of(self._tree)

    @property
    def prefix_counts(self) -> tuple[int, int]:
        """Prompts so far that might have been known, and those of which a beginning was."""
        return (0, 0) if self._prefixes is None else (self._prefixes.num_queries, self._prefixes.num_hits)

    @property
    def num_captured(self) -> int:
        """Graphs, since memory moved last; 0 where there are none."""
        return self._passes.num_captured

    @property
    def num_running(self) -> int:
        """Lists in flight, those that the next round says are finished among them."""
        return len(self._flights) + len(self._found)

    @torch.inference_mode()
    def add(self, requests: Sequence[DecodeRequest]) -> None:
        """Prefill these requests; they run from the next round on."""
        num_flights = len(self._flights)
        try:
            for num_beams in sorted({num_beams_of(request) for request in requests}):
                self._add([request for request in requests if num_beams_of(request) == num_beams], num_beams)
        finally:
            # Once for all of them: each time it is read the host waits for the device.
            if len(self._flights) > num_flights:
                self._summary = self._passes.summary(len(self._flights))
            now = time.perf_counter()
            for flight in self._flights[num_flights:]:
                flight.decoding_since = now

    def _add(self, requests: Sequence[DecodeRequest], num_beams: int) -> None:
        """Prefill requests of so many beams, or lists that begin."""
        found = [
            (request, None if self._prefixes is None else self._prefixes.find(request.history))
            for request in requests
        ]
        # Those of a like length together: where lists' tokens are kept apart, the longest decides what it costs.
        found.sort(key=lambda pair: self._num_new(*pair))
        while found:
            # What was found may have had to make room for those before.
            rest = found[: self._passes.most_incoming]
            rest = [(request, self._still(prefix)) for request, prefix in rest]
            count = self._passes.shapes.together([self._num_new(*pair) for pair in rest])
            self._begin(rest[:count], num_beams)
            found = found[count:]

    def _still(self, prefix: Prefix | None) -> Prefix | None:
        """What was found, if it is still kept."""
        if self._prefixes is None or prefix is None or not self._prefixes.still_has(prefix):
            return None
        return prefix

    def _num_new(self, request: DecodeRequest, prefix: Prefix | None) -> int:
        """Tokens of a request's prompt that are to be read."""
        known = 0 if prefix is None else self._num_kept(prefix.history)
        return self._layout.prompt_length(len(request.history)) - known

    def _begin(self, found: Sequence[tuple[DecodeRequest, Prefix | None]], num_beams: int) -> None:
        """Prefill these, each with the beginning that is known of it."""
        passes = self._passes
        requests = [request for request, _ in found]
        flights = [
            Flight(request, trace=Trace(self._layout) if request.explain else None) for request in requests
        ]
        known = {i: prefix for i, (_, prefix) in enumerate(found) if prefix is not None}
        # Rows after those in flight are nobody's: a prefill that fails, for lack of memory say, leaves no trace. A
        # search stays in the rows in which prompts are read.
        first, noise = self.max_batch if num_beams else len(self._flights), None
        if not num_beams:
            noise = noise_of(requests, self._layout.num_levels, passes.num_codes)
            most_codes = passes.widths.items * self._layout.num_levels
            passes.sampling.put_noise(first, noise, len(requests), most_codes)
        prompts = [
            Prompt(
                request,
                self._layout.prompt(self._catalogue.codes[list(request.history)]),
                self._num_kept(known[i].history) if i in known else 0,
                self._num_kept(request.history) - 1,
                first + i,
            )
            for i, request in enumerate(requests)
        ]
        shape = passes.shapes.prefill(
            len(prompts),
            most_batch=passes.most_incoming,
            num_tokens=sum(len(prompt.tokens) - prompt.start for prompt in prompts),
            most=max(len(prompt.tokens) - prompt.start for prompt in prompts),
            longest=max(len(prompt.tokens) for prompt in prompts),
            is_sampled=noise is not None,
            num_beams=num_beams,
        )
        shape = passes.fitting(shape)
        passes.reserve(passes.places_for_prefill(shape.num_places, shape.num_beams), shape.num_tokens)
        passes.incoming.put(self._layout, shape, prompts, self.max_batch + len(prompts))
        self._load(known)
        passes.prefill(shape)
        self._keep(prompts, known)
        if num_beams:
            self._find(flights, num_beams)
        else:
            self._flights += flights

    def _find(self, flights: Sequence[Flight], num_beams: int) -> None:
        """The items at the leaves that the latest prefill found."""
        leaves, scores = self._passes.leaves(len(flights), num_beams)
        trie = self._catalogue.trie
        for flight, of_list, log_p in zip(flights, leaves, scores, strict=True):
            request, is_allowed = flight.request, allows(flight.request)
            rows = [
                (row, math.exp(score))
                for leaf, score in zip(of_list.tolist(), log_p.tolist(), strict=True)
                if score > NOT_ALLOWED / 2
                for row in range(int(trie.item_begin[leaf]), int(trie.item_end[leaf]))
                if is_allowed(row)
            ]
            items = tuple(DecodedItem(row, score) for row, score in rows[: request.num_items])
            self._found.append(flight.beams(items, num_passes=self._layout.num_levels - 1))

    @torch.inference_mode()
    def drop(self, request_ids: Collection[str]) -> None:
        """Forget these requests; IDs that are not in flight are ignored."""
        # What is written of finished lists does not move with the others.
        self._found += self._leave()
        self._found = [done for done in self._found if done.request_id not in request_ids]
        self._select([i for i, f in enumerate(self._flights) if f.request.request_id not in request_ids])

    @torch.inference_mode()
    def round(self) -> list[DecodedList]:
        """One pass of the target for every list in flight, unless some are finished without it.

        Returns:
            Those that are finished, in no particular order.
        """
        finished, self._found = self._found + self._leave(), []
        # A pass that failed would take them along.
        if not finished and self._flights:
            batch, before = len(self._flights), self._summary
            self._tree = self._trees.choose(batch)
            started = time.perf_counter()
            shape = self._passes.shapes.round(
                self._summary,
                self._passes.widths,
                self.max_batch,
                self._tree,
                is_sampled=any(flight.request.temperature > 0 for flight in self._flights),
                is_traced=any(flight.trace for flight in self._flights),
            )
            shape = self._passes.fitting(shape)
            self._passes.reserve(self._passes.places_for(shape.longest, shape.draft_places))
            is_timed = self._passes.round(shape, batch)
            self._summary = self._passes.summary(batch)
            self._trace()
            num_tokens = int((self._summary.num_round_tokens - before.num_round_tokens).sum())
            seconds = time.perf_counter() - started
            self._trees.note(self._tree, batch, num_tokens, seconds if is_timed else None)
            self.num_rounds, self.batch = self.num_rounds + 1, batch
            finished = self._leave()
        return finished

    @torch.inference_mode()
    def news(self) -> list[tuple[str, tuple[DecodedItem, ...]]]:
        """By request, the items that lists which are streamed, and not finished, gained since this was asked last."""
        gained = [
            i
            for i, flight in enumerate(self._flights)
            if flight.request.stream and flight.num_told < self._summary.num_items[i]
        ]
        if not gained:
            return []
        found = []
        for i, written in zip(gained, self._passes.written(gained), strict=True):
            flight = self._flights[i]
            found.append((flight.request.request_id, written.items[flight.num_told :]))
            flight.num_told = len(written.items)
        return found

    def write(self, requests: Sequence[DecodeRequest]) -> list[DecodedList]:
        """Write these lists, and nothing else, to the end; in the order of the requests."""
        done: dict[str, DecodedList] = {}
        try:
            for begin in range(0, len(requests), self.max_batch):
                self.add(requests[begin : begin + self.max_batch])
                while self.num_running:
                    done.update((result.request_id, result) for result in self.round())
        finally:
            self.drop([request.request_id for request in requests])
        return [done[request.request_id] for request in requests]

    @torch.inference_mode()
    def reserve(self, longest_prompt: int) -> None:
        """Take memory for as many lists as there may be, and prompts of so many tokens; else it grows as it is asked.

        Raises:
            InputError: there is not as much.
        """
        passes = self._passes
        largest = passes.shapes.largest(longest_prompt + passes.widths.tokens, passes.widths)
        places = passes.places_for(*largest)
        of_prefill = passes.places_for_prefill(longest_prompt, MOST_BEAMS)
        places = {name: max(count, of_prefill[name]) for name, count in places.items()}
        parts = {
            f"{passes.num_rows} rows of {places[name]} places in the {name}'s cache": cache.num_bytes(
                passes.num_rows, places[name]
            )
            for name, cache in passes.caches.items()
        }
        if self._prefixes is not None:
            parts["kept prompts"] = self._prefixes.num_bytes(longest_prompt)
        check_memory(parts, passes.device, "lower worker.max_batch or worker.kept_prompts")
        passes.reserve(places, passes.shapes.most_prompt_tokens(longest_prompt, passes.most_incoming))
        if self._prefixes is not None:
            self._prefixes.reserve(longest_prompt)

    @torch.inference_mode()
    def make_ready(self, longest_prompt: int) -> int:
        """Capture graphs into which passes fit, but of sampled or explained lists and of long beams; `reserve` first.

        Args:
            longest_prompt: in tokens.

        Returns:
            How many, 0 where there are none.
        """
        passes, before = self._passes, self._passes.num_captured
        if not passes.can_capture:
            return 0
        # Nothing is in flight, so all that these compute is nobody's.
        shapes, widths = passes.shapes, passes.widths
        longest = longest_prompt + widths.tokens
        for shape in rounds_of_service(shapes, self._trees.likely, self.max_batch, longest, widths):
            passes.round(shape, 0)
        for arriving in prefills_of_service(shapes, passes.most_incoming, longest_prompt):
            passes.incoming.put(self._layout, arriving, [], self.max_batch)
            passes.prefill(arriving)
        return passes.num_captured - before

    def begin_service(self) -> None:
        """From now on callers wait for whatever is done for the first time, so captures are rare."""
        self._passes.begin_service()

    def _num_kept(self, history: tuple[int, ...]) -> int:
        """Tokens of a prompt with this history that are worth keeping; the last one is read again, so that one is."""
        return len(self._layout.prefix) + self._layout.history_length(len(history)) - 1

    def _load(self, known: dict[int, Prefix]) -> None:
        """Copy the known beginnings of prompts to where the prefill goes on from them."""
        if self._prefixes is None:
            return
        before = self._passes.incoming.before
        before.zero_()
        if known:
            rows = [self.max_batch + i for i in known]
            num_tokens = max(self._num_kept(prefix.history) for prefix in known.values())
            self._prefixes.load(list(known.values()), rows, num_tokens, list(known), before)

    def _keep(self, prompts: Sequence[Prompt], known: dict[int, Prefix]) -> None:
        """Keep what was read of histories that are new."""
        if self._prefixes is None:
            return
        new = {
            i: prompt
            for i, prompt in enumerate(prompts)
            if i not in known or known[i].history != prompt.request.history
        }
        if new:
            self._prefixes.keep(
                [prompt.request.history for prompt in new.values()],
                [prompt.row for prompt in new.values()],
                1 + max(prompt.kept for prompt in new.values()),
                list(new),
                self._passes.incoming.features,
            )

    def _leave(self) -> list[DecodedList]:
        """Finished lists go."""
        is_finished = self._summary.num_items == self._summary.limit
        which = np.flatnonzero(is_finished).tolist()
        if not which:
            return []
        results = self._passes.results(which)
        done = [self._result(self._flights[i], result) for i, result in zip(which, results, strict=True)]
        self._select(np.flatnonzero(~is_finished).tolist())
        return done

    def _result(self, flight: Flight, written: Result) -> DecodedList:
        rounds = () if flight.trace is None else flight.trace.rounds(written, self._catalogue)
        return flight.result(written, rounds)

    def _trace(self) -> None:
        """Note what the latest round did for lists that are to be explained."""
        traces = {i: flight.trace for i, flight in enumerate(self._flights) if flight.trace is not None}
        if traces:
            for trace, record in zip(traces.values(), self._passes.traced(list(traces)), strict=True):
                trace.add(record)

    def _select(self, kept: list[int]) -> None:
        """Go on with these lists alone; the last ones move into the rows of those that left."""
        if len(kept) == len(self._flights):
            return
        movers = [i for i in kept if i >= len(kept)]
        holes = sorted(set(range(len(kept))) - set(kept))
        if movers:
            self._passes.move(movers, holes, int(self._summary.length[movers].max()))
        moved = dict(zip(holes, movers, strict=True))
        order = [moved.get(row, row) for row in range(len(kept))]
        self._flights = [self._flights[i] for i in order]
        self._summary = self._summary.select(order)
