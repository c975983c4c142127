"""The batched engine: lists in flight, written a round at a time.

Requests that were added together form a group: one padded batch with one KV cache, all of whose lists fill the same
slot at the same time. A round is one pass of the target for every group. Tokens that are forced for a whole group are
appended without asking the target, and enter its cache with the next pass.
"""

import time
from collections.abc import Collection, Sequence

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.catalog.trie import BoolArray, Int64Array
from service.engine.constraint import BatchConstraint
from service.engine.sampling import choose_batch, uniforms
from service.types import DecodedItem, DecodedList, DecodeRequest


class Engine:
    """Owns the target and everything on its device; used from one thread.

    Args:
        model: the target, in evaluation mode on its device.
        catalogue: of the same bundle.
        layout: how codes become tokens.
        max_batch: lists in flight, at most; the caller keeps to it.
    """

    def __init__(
        self, model: PreTrainedModel, catalogue: Catalogue, layout: TokenLayout, max_batch: int = 32
    ) -> None:
        self.max_batch = max_batch
        self._model = model
        self._catalogue = catalogue
        self._layout = layout
        self._groups: list[_Group] = []

    @property
    def num_running(self) -> int:
        """Lists in flight."""
        return sum(len(group) for group in self._groups)

    def add(self, requests: Sequence[DecodeRequest]) -> None:
        """Prefill these requests; they run from the next round on."""
        if requests:
            self._groups.append(_Group(self._model, self._catalogue, self._layout, requests))

    def drop(self, request_ids: Collection[str]) -> None:
        """Forget these requests; IDs that are not in flight are ignored."""
        for group in self._groups:
            group.drop(request_ids)
        self._groups = [group for group in self._groups if len(group)]

    def round(self) -> list[DecodedList]:
        """One pass of the target for every list in flight; those that it finished, in no particular order."""
        finished = [done for group in self._groups for done in group.round()]
        self._groups = [group for group in self._groups if len(group)]
        return finished

    def write(self, requests: Sequence[DecodeRequest]) -> list[DecodedList]:
        """Write these lists, and nothing else, to the end; in the order of the requests."""
        done: dict[str, DecodedList] = {}
        for begin in range(0, len(requests), self.max_batch):
            self.add(requests[begin : begin + self.max_batch])
            while self._groups:
                done.update((result.request_id, result) for result in self.round())
        return [done[request.request_id] for request in requests]


class _Flight:
    """One list being written."""

    __slots__ = ("draws", "items", "num_forced", "num_rounds", "request", "score")

    def __init__(self, request: DecodeRequest, num_levels: int) -> None:
        self.request = request
        self.draws = uniforms(request.seed, request.num_items * num_levels)
        self.items: list[DecodedItem] = []
        self.score = 1.0  # of the item being written
        self.num_forced = 0
        self.num_rounds = 0


class _Group:
    """Lists that were added together; see the module."""

    def __init__(
        self,
        model: PreTrainedModel,
        catalogue: Catalogue,
        layout: TokenLayout,
        requests: Sequence[DecodeRequest],
    ) -> None:
        started = time.perf_counter()
        self._model, self._catalogue, self._layout = model, catalogue, layout
        self._flights = [_Flight(request, layout.num_levels) for request in requests]
        self._constraint = BatchConstraint(catalogue.trie, [request.excluded for request in requests])
        self._cache = DynamicCache(config=model.config)
        self._draw = 0  # code tokens written so far, the same for all lists
        prompts = [layout.prompt(catalogue.codes[list(request.history)]) for request in requests]
        tokens, self._attention = _pad_left(prompts)
        self._logits = self._pass(tokens)
        self._prefill_seconds = time.perf_counter() - started
        self._began = time.perf_counter()

    def __len__(self) -> int:
        return len(self._flights)

    def drop(self, request_ids: Collection[str]) -> None:
        wanted = [flight.request.request_id not in request_ids for flight in self._flights]
        if not all(wanted):
            self._select(np.flatnonzero(wanted))

    def round(self) -> list[DecodedList]:
        """Take the tokens that the last pass decided and all that are forced after them; then one pass."""
        finished = self._finish()
        if not len(self):
            return finished
        tokens = [self._take(self._choose())]
        while (forced := self._forced()) is not None:
            tokens.append(self._take(forced))
            self._count_forced()
        if self._at_item_start():
            tokens.append(np.full(len(self), self._layout.separator))
            self._count_forced()
        for flight in self._flights:
            flight.num_rounds += 1
        keep = self._unfinished()
        if not keep.all():
            # Lists that are complete need no further pass: they leave before it.
            finished += self._leave(keep)
            tokens = [column[keep] for column in tokens]
        if len(self):
            self._logits = self._pass(np.stack(tokens, axis=1))
        return finished

    def _finish(self) -> list[DecodedList]:
        """Lists for which nothing at all is allowed end here, before their first token."""
        keep = self._unfinished()
        return [] if keep.all() else self._leave(keep)

    def _unfinished(self) -> BoolArray:
        if not self._at_item_start():
            everyone: BoolArray = np.ones(len(self), dtype=bool)
            return everyone
        wanted = [len(flight.items) < flight.request.num_items for flight in self._flights]
        keep: BoolArray = np.array(wanted) & (self._constraint.num_left() > 0)
        return keep

    def _at_item_start(self) -> bool:
        return self._constraint.depth == 0

    def _forced(self) -> Int64Array | None:
        """The next node of every list inside an item, [batch], where none of them has a choice."""
        if self._at_item_start():
            return None
        nodes, _ = self._constraint.allowed()
        return nodes if len(nodes) == len(self) else None

    def _choose(self) -> Int64Array:
        """The nodes that the last pass's logits decide for, [batch]."""
        nodes, owner = self._constraint.allowed()
        tokens = self._layout.table[self._constraint.depth, self._catalogue.trie.code[nodes]]
        counts = np.bincount(owner, minlength=len(self))
        first = np.cumsum(counts) - counts
        column = np.arange(len(nodes)) - first[owner]
        device = self._logits.device
        allowed = torch.full((len(self), int(counts.max())), -torch.inf, device=device)
        where = (torch.as_tensor(owner, device=device), torch.as_tensor(column, device=device))
        allowed[where] = self._logits[where[0], torch.as_tensor(tokens, device=device)]
        log_probabilities = torch.log_softmax(allowed, dim=-1)
        chosen = choose_batch(
            log_probabilities,
            torch.tensor([flight.request.temperature for flight in self._flights], device=device),
            torch.tensor([flight.request.top_p for flight in self._flights], device=device),
            torch.tensor(
                [flight.draws[self._draw] for flight in self._flights], dtype=torch.float64, device=device
            ),
        )
        probabilities = log_probabilities.gather(-1, chosen.unsqueeze(-1)).exp().squeeze(-1).tolist()
        for flight, probability, count in zip(self._flights, probabilities, counts, strict=True):
            flight.score *= probability
            flight.num_forced += int(count == 1)
        picked: Int64Array = nodes[first + chosen.cpu().numpy()]
        return picked

    def _take(self, nodes: Int64Array) -> Int64Array:
        """Append one node to each list; the tokens, [batch]."""
        tokens: Int64Array = self._layout.table[self._constraint.depth, self._catalogue.trie.code[nodes]]
        rows = self._constraint.append(nodes)
        self._draw += 1
        if rows is not None:
            for flight, row in zip(self._flights, rows, strict=True):
                flight.items.append(DecodedItem(int(row), flight.score))
                flight.score = 1.0
        return tokens

    def _count_forced(self) -> None:
        for flight in self._flights:
            flight.num_forced += 1

    def _leave(self, keep: BoolArray) -> list[DecodedList]:
        now = time.perf_counter()
        done = [
            DecodedList(
                request_id=flight.request.request_id,
                items=tuple(flight.items),
                exhausted=len(flight.items) < flight.request.num_items,
                num_rounds=flight.num_rounds,
                num_forced_tokens=flight.num_forced,
                prefill_seconds=self._prefill_seconds,
                decode_seconds=now - self._began,
            )
            for flight, stays in zip(self._flights, keep, strict=True)
            if not stays
        ]
        self._select(np.flatnonzero(keep))
        return done

    def _select(self, keep: Int64Array) -> None:
        self._flights = [self._flights[i] for i in keep]
        if len(keep):
            self._constraint.select(keep)
            self._attention = self._attention[keep]
            index = torch.as_tensor(keep, device=self._model.device)
            self._cache.batch_select_indices(index)
            self._logits = self._logits[index]

    @torch.inference_mode()
    def _pass(self, tokens: Int64Array) -> torch.Tensor:
        """Append tokens [batch, n] to the context; float32 logits [batch, vocabulary] of what follows."""
        new = tokens.shape[1]
        if self._cache.get_seq_length():
            real = np.ones((len(self), new), dtype=self._attention.dtype)
            self._attention = np.concatenate([self._attention, real], axis=1)
        positions = np.maximum(self._attention.cumsum(axis=1) - 1, 0)[:, -new:]
        device = self._model.device
        output = self._model(
            input_ids=torch.as_tensor(tokens, device=device),
            attention_mask=torch.as_tensor(self._attention, device=device),
            position_ids=torch.as_tensor(positions, device=device),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits
        return logits[:, -1].float()


def _pad_left(prompts: Sequence[Int64Array]) -> tuple[Int64Array, Int64Array]:
    """Prompts as one matrix [batch, longest], padded on the left, and where it is real, int64."""
    longest = max(map(len, prompts))
    tokens = np.zeros((len(prompts), longest), dtype=np.int64)
    real = np.zeros_like(tokens)
    for i, prompt in enumerate(prompts):
        tokens[i, longest - len(prompt) :] = prompt
        real[i, longest - len(prompt) :] = 1
    return tokens, real
