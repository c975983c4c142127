"""The engine: lists in flight, written a round at a time.

A round is draft, verify, accept, commit: the draft guesses a tree of tokens for every list, one pass of the target
reads all trees under a mask, each list follows the target's choices through its tree, and the cache keeps what was
accepted. All of it happens on the device; the host learns how far the lists came when the round is over.
Without a draft the trees are bare roots. Lists join and leave between rounds; list i stands in row i of every cache.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.engine.branches import Lists
from service.engine.constraint import TrieIndex
from service.engine.drafter import Drafter, News, at
from service.engine.flight import Flight
from service.engine.graphs import Graphs, capture_on
from service.engine.incoming import Incoming
from service.engine.kv_cache import KvCache
from service.engine.load import Always, TreeChoice, label_of
from service.engine.memory import check_memory
from service.engine.prefixes import Prefix, Prefixes
from service.engine.sampling import Sampling
from service.engine.shapes import PrefillShape, RoundShape, Shapes
from service.engine.states import ListStates, Widths
from service.engine.target_pass import TargetPass
from service.engine.tree import Trees, TreeShape
from service.engine.verify import Accepted, accept, choose
from service.model.draft import Draft
from service.types import MAX_NUM_ITEMS, DecodedList, DecodeRequest

_MOST_INCOMING = 8  # prompts in one pass


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
    """

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
        self._catalogue, self._layout = catalogue, layout
        self._device = model.device
        self._shapes = Shapes.of(model.device)
        self._index = TrieIndex(catalogue, layout, model.device)
        self._code_heads = model.get_output_embeddings().weight[self._index.token_of]
        layers = () if draft is None else draft.config.feature_layers(model.config.num_hidden_layers)
        self._target = TargetPass(model, layers)
        self._drafter = None
        self._trees: TreeChoice = Always(None)
        self._tree: TreeShape | None = None
        if draft is not None:
            self._trees = trees or Always(TreeShape.default(draft.config, model.device))
            self._drafter = Drafter(draft, model, layout, self._index, self._code_heads, self._trees.shapes)
        deepest = 0 if self._drafter is None else self._drafter.most_depth
        steps = 0 if self._drafter is None else self._drafter.most_steps
        self._widths = Widths(max_items, layout.tokens_per_item, deepest, steps)
        self._prefixes = None
        if num_prefixes:
            self._prefixes = Prefixes(num_prefixes, self._caches(), model.config.hidden_size)
        capture = capture_on(model.device)
        self._rounds, self._prefills = Graphs(self._step, capture), Graphs(self._prefill, capture)
        # Prompts are read in rows after those of lists; more at a time would only make those that run wait longer.
        self._most_incoming = min(max_batch, _MOST_INCOMING)
        self._num_rows = max_batch + self._most_incoming
        self._incoming = Incoming.buffers(
            self._most_incoming, model.config.hidden_size, model.device, model.dtype
        )
        self._flights: list[Flight] = []
        # Row by row like `_flights`, as is all that follows.
        self._states = ListStates.buffers(self._num_rows, catalogue, self._widths, model.device)
        self._sampling = Sampling.buffers(self._num_rows, model.device)
        self._summary = self._states.first(0).summary()
        # Features of each prompt's last token and of the list's; the last place is nobody's.
        num_features = 0 if draft is None else self._widths.tokens + 2
        self._features = torch.zeros(
            (self._num_rows, num_features, model.config.hidden_size), device=model.device, dtype=model.dtype
        )

    @property
    def guessing(self) -> str:
        """What the latest round guessed: `none`, or a tree's label."""
        return label_of(self._tree)

    @property
    def prefix_counts(self) -> tuple[int, int]:
        """Prompts so far that might have been known, and those of which a beginning was."""
        return (0, 0) if self._prefixes is None else (self._prefixes.num_queries, self._prefixes.num_hits)

    @property
    def num_running(self) -> int:
        """Lists in flight."""
        return len(self._flights)

    @torch.inference_mode()
    def add(self, requests: Sequence[DecodeRequest]) -> None:
        """Prefill these requests; they run from the next round on."""
        if not requests:
            return
        found = [None if self._prefixes is None else self._prefixes.find(r.history) for r in requests]
        # Apart, as the longest decides what a pass costs; and what is known first, before others take its place.
        for is_known in (True, False):
            which = [i for i, prefix in enumerate(found) if (prefix is not None) == is_known]
            for begin in range(0, len(which), self._most_incoming):
                part = which[begin : begin + self._most_incoming]
                self._begin([requests[i] for i in part], [found[i] for i in part])

    def _begin(self, requests: Sequence[DecodeRequest], known: Sequence[Prefix | None]) -> None:
        """Prefill these, of which these beginnings are known already."""
        flights = [Flight(request) for request in requests]
        first, count = len(self._flights), len(requests)
        prompts = [self._layout.prompt(self._catalogue.codes[list(r.history)]) for r in requests]
        lengths = [len(prompt) for prompt in prompts]
        # Rows after those in flight are nobody's: a prefill that fails, for lack of memory say, leaves no trace.
        self._states.put(first, ListStates.of(requests, lengths, self._catalogue, self._widths, self._device))
        sampling = Sampling.of(requests, self._layout.num_levels, self._index.num_codes, self._device)
        self._sampling.put(first, sampling, self._widths.items * self._layout.num_levels)
        begin = [0 if prefix is None else self._num_kept(prefix.history) for prefix in known]
        shape = self._shapes.prefill(
            count,
            most_batch=self._most_incoming,
            num_tokens=max(length - start for length, start in zip(lengths, begin, strict=True)),
            most_known=max(begin),
            is_sampled=sampling.noise is not None,
        )
        self._reserve_for(shape)
        self._load(known, max(begin))
        kept = [self._num_kept(request.history) for request in requests]
        self._incoming.put(
            self._layout,
            prompts,
            begin,
            [n - 1 for n in kept],
            rows=range(first, first + count),
            nobody=range(self.max_batch + count, self.max_batch + shape.batch),
        )
        self._prefills.run(shape)
        self._keep_prompts([request.history for request in requests], known, first, max(kept))
        self._summary = self._states.first(first + count).summary()
        for flight in flights:
            flight.decoding_since = time.perf_counter()
        self._flights += flights

    @torch.inference_mode()
    def drop(self, request_ids: Collection[str]) -> None:
        """Forget these requests; IDs that are not in flight are ignored."""
        self._select([i for i, f in enumerate(self._flights) if f.request.request_id not in request_ids])

    @torch.inference_mode()
    def round(self) -> list[DecodedList]:
        """One pass of the target for every list in flight; those that are finished, in no particular order."""
        finished = self._leave()
        if self._flights:
            batch, before = len(self._flights), self._summary
            self._tree = self._trees.choose(batch)
            started = time.perf_counter()
            self._run(self._round_shape(self._tree))
            self._summary = self._states.first(batch).summary()
            num_tokens = int((self._summary.num_round_tokens - before.num_round_tokens).sum())
            self._trees.note(self._tree, batch, num_tokens, time.perf_counter() - started)
            finished += self._leave()
        return finished

    def write(self, requests: Sequence[DecodeRequest]) -> list[DecodedList]:
        """Write these lists, and nothing else, to the end; in the order of the requests."""
        done: dict[str, DecodedList] = {}
        try:
            for begin in range(0, len(requests), self.max_batch):
                self.add(requests[begin : begin + self.max_batch])
                while self._flights:
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
        shape = self._shapes.largest(longest_prompt + self._widths.tokens, self._widths, self.max_batch)
        caches = dict(zip(self._caches(), self._num_places(shape), strict=True))
        parts = {
            f"{self._num_rows} rows of {places} places in the {name}'s cache": cache.num_bytes(
                self._num_rows, places
            )
            for name, (cache, places) in zip(("target", "draft"), caches.items(), strict=False)
        }
        if self._prefixes is not None:
            parts["kept prompts"] = self._prefixes.num_bytes(longest_prompt)
        check_memory(parts, self._device, "lower worker.max_batch or worker.kept_prompts")
        for cache, places in caches.items():
            cache.reserve(self._num_rows, places)
        self._incoming.reserve(self._shapes.prompt_columns(longest_prompt))
        if self._prefixes is not None:
            self._prefixes.reserve(longest_prompt)

    def _num_places(self, shape: RoundShape) -> list[int]:
        """Places that a round needs in each cache."""
        root = self._shapes.root_width(shape.pending, self._most_guessed())
        places = [self._shapes.places_for(shape.longest + root + self._most_guessed())]
        if self._drafter is not None:
            places.append(shape.draft_places + self._drafter.num_scratch_places)
        return places

    def _round_shape(self, tree: TreeShape | None) -> RoundShape:
        """The shape of the next round."""
        is_sampled = any(flight.request.temperature > 0 for flight in self._flights)
        return self._shapes.round(self._summary, self._widths, self.max_batch, tree, is_sampled=is_sampled)

    def _most_guessed(self) -> int:
        """Places of a tree, at most, the root not included."""
        return 0 if self._drafter is None else self._drafter.most_places

    def _num_kept(self, history: tuple[int, ...]) -> int:
        """Tokens of a prompt with this history that are worth keeping; the last one is read again, so that one is."""
        return len(self._layout.prefix) + len(history) * self._layout.tokens_per_item - 1

    def _reserve_for(self, shape: PrefillShape) -> None:
        """Have memory for a prefill."""
        has_moved = [self._incoming.reserve(shape.num_tokens)]
        has_moved += [cache.reserve(self._num_rows, shape.num_places) for cache in self._caches()]
        if any(has_moved):
            self._forget_graphs()

    def _load(self, known: Sequence[Prefix | None], num_tokens: int) -> None:
        """Copy known beginnings to where the prefill goes on from them; all of these are known, or none is."""
        prefixes = [prefix for prefix in known if prefix is not None]
        before = self._incoming.before[: len(known)]
        if self._prefixes is None or not prefixes:
            before.zero_()
        else:
            before.copy_(self._prefixes.load(prefixes, self.max_batch, num_tokens))

    def _prefill(self, shape: PrefillShape) -> None:
        """Read what is incoming, in the rows after all lists, decide each first code, and move to the lists' rows."""
        incoming, device = self._incoming.first(shape.batch, shape.num_tokens), self._device
        rows = slice(self.max_batch, self.max_batch + shape.batch)
        start, last = incoming.begin.unsqueeze(1), (incoming.count - 1).unsqueeze(1)
        order = torch.arange(shape.num_tokens, device=device).expand(shape.batch, -1)
        positions, places = start + torch.minimum(order, last), start + order
        causal = (order.unsqueeze(1) <= order.unsqueeze(2)).expand(shape.batch, -1, -1)
        mask = _cached_and(causal, start, shape.num_places)
        hidden, of_pass = self._target(incoming.tokens, positions, places, mask, rows)
        features = of_pass[-1]
        if self._drafter is not None:
            features = self._drafter.draft.features_of(of_pass)
            before = torch.cat((incoming.before.unsqueeze(1), features[:, :-1]), dim=1)
            self._drafter.read_prompts(
                incoming.tokens, before, incoming.slots, rows, places, shape.num_places
            )
            self._features[incoming.row, 0] = at(features, last).squeeze(1)
        incoming.features.copy_(at(features, incoming.kept.unsqueeze(1)).squeeze(1))
        states = self._states.select(incoming.row)
        roots = Trees.bare(states.node, states.slot)
        sampling = self._sampling.select(incoming.row, with_noise=shape.is_sampled)
        done = self._accept(at(hidden, last), roots, states.lists(sampling))
        after = states.after(roots, done, self._index.node_depth, is_round=False, is_drafted=False)
        self._states.put(incoming.row, after)
        staged = torch.arange(rows.start, rows.stop, device=device)
        for cache in self._caches():
            cache.copy_rows(cache, staged, incoming.row, shape.num_places)

    def _keep_prompts(
        self,
        histories: Sequence[tuple[int, ...]],
        known: Sequence[Prefix | None],
        first: int,
        num_tokens: int,
    ) -> None:
        """Keep the histories that are new, in the rows from `first` on."""
        if self._prefixes is None:
            return
        new = [i for i, prefix in enumerate(known) if prefix is None or prefix.history != histories[i]]
        if new:
            features = self._incoming.features[torch.tensor(new, device=self._device)]
            self._prefixes.keep([histories[i] for i in new], [first + i for i in new], num_tokens, features)

    def _forget_graphs(self) -> None:
        self._rounds.forget()
        self._prefills.forget()

    def _run(self, shape: RoundShape) -> None:
        """A round."""
        sizes = zip(self._caches(), self._num_places(shape), strict=True)
        has_moved = [cache.reserve(self._num_rows, places) for cache, places in sizes]
        if any(has_moved):
            self._forget_graphs()
        self._rounds.run(shape)

    def _step(self, shape: RoundShape) -> None:
        """A round, on the device alone; what is computed in vain for rows after those in flight is nobody's."""
        states = self._states.first(shape.batch)
        lists = states.lists(self._sampling.first(shape.batch, with_noise=shape.is_sampled))
        trees = self._draft(shape, states, lists)
        root = self._shapes.root_width(shape.pending, trees.num_places - 1)
        hidden, of_pass = self._verify(shape, root, states, trees)
        done = self._accept(hidden, trees, lists)
        self._keep(root, states, done)
        if self._drafter is not None:
            self._remember(root, states, trees, done, of_pass)
        after = states.after(
            trees, done, self._index.node_depth, is_round=True, is_drafted=shape.tree is not None
        )
        self._states.put(0, after)

    def _draft(self, shape: RoundShape, states: ListStates, lists: Lists) -> Trees:
        """A tree for each list; bare roots without a draft."""
        if self._drafter is None or shape.tree is None:
            return Trees.bare(states.node, states.slot)
        num_verified = states.length - states.start - states.num_read
        column = torch.arange(shape.news, device=self._device).expand(shape.batch, -1)
        split, read = num_verified.unsqueeze(1), states.num_read.unsqueeze(1)
        certain = torch.cat((states.tokens, states.pending), dim=1)
        places = torch.where(column < split, read + column, states.tokens.shape[1] + column - split)
        news = News(
            tokens=certain.gather(1, places.clamp(max=certain.shape[1] - 1)),
            features=at(self._features[: shape.batch], read + torch.minimum(column, split)),
            num_verified=num_verified,
            num_tokens=num_verified + states.num_pending,
            begin=states.start + states.num_read,
            num_places=shape.draft_places,
            node=states.node,
            slot=states.slot,
            most_wanted=shape.wanted,
        )
        trees = self._drafter.grow(shape.tree, news, lists)
        return trees if self._shapes.pads else trees.first(int(trees.is_real.sum(dim=1).max()))

    def _verify(
        self, shape: RoundShape, root: int, states: ListStates, trees: Trees
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """One pass over what is pending, in its first `root` columns, and the guesses that hang off it.

        Returns:
            What the head reads at each place of the trees, [batch, places, hidden], and the hidden states of the
            whole pass.
        """
        batch, device = shape.batch, self._device
        num_guessed = trees.num_places - 1
        tokens = torch.cat((_widened(states.pending, root), trees.token[:, 1:]), dim=1)
        column = torch.arange(root, device=device).expand(batch, -1)
        last = (states.num_pending - 1).clamp(min=0).unsqueeze(1)
        length = states.length.unsqueeze(1)
        ahead = torch.cat((torch.minimum(column, last), last + trees.depth[:, 1:]), dim=1)
        sees = torch.zeros(batch, root + num_guessed, root + num_guessed, dtype=torch.bool, device=device)
        sees[:, :root, :root] = column.unsqueeze(1) <= column.unsqueeze(2)
        sees[:, root:, :root] = (column <= last).unsqueeze(1)
        sees[:, root:, root:] = trees.sees[:, 1:, 1:]
        places = length + torch.arange(root + num_guessed, device=device)
        mask = _cached_and(sees, length, self._shapes.places_for(shape.longest + root + num_guessed))
        hidden, of_pass = self._target(tokens, length + ahead, places, mask, slice(0, batch))
        guessed = root + torch.arange(num_guessed, device=device).expand(batch, -1)
        return at(hidden, torch.cat((last, guessed), dim=1)), of_pass

    def _accept(self, hidden: torch.Tensor, trees: Trees, lists: Lists) -> Accepted:
        choices = choose(self._index, self._code_heads, hidden, trees, lists)
        deepest = min(self._widths.guessed, trees.num_places - 1)
        done = accept(self._index, trees, choices, lists, deepest)
        return done if self._shapes.pads else replace(done, path=done.path[:, : int(done.num_path.max())])

    def _keep(self, root: int, states: ListStates, done: Accepted) -> None:
        """Move the cache's entries of accepted guesses to where they belong."""
        if not done.path.shape[1]:
            return
        order = torch.arange(done.path.shape[1], device=self._device)
        length = states.length.unsqueeze(1)
        target = length + states.num_pending.unsqueeze(1) + order
        # Where a path has ended an entry stays where it is, in scratch.
        source = torch.where(order < done.num_path.unsqueeze(1), length + root - 1 + done.path, target)
        self._target.cache.keep(source, target)

    def _remember(
        self,
        root: int,
        states: ListStates,
        trees: Trees,
        done: Accepted,
        of_pass: Sequence[torch.Tensor],
    ) -> None:
        """Keep the features of the tokens that this pass verified."""
        assert self._drafter is not None
        columns = states.verified_from(done)
        width = states.pending.shape[1]
        if done.path.shape[1]:
            of_path = root - 1 + done.path.gather(1, (columns - width).clamp(min=0))
            columns = torch.where(columns < width, columns, of_path)
        columns = columns.clamp(max=root + trees.num_places - 2)
        kept = self._drafter.draft.features_of([at(state, columns) for state in of_pass])
        places = 1 + states.verified_to(done)
        self._features[: len(places)].scatter_(1, places.unsqueeze(2).expand_as(kept), kept)

    def _leave(self) -> list[DecodedList]:
        """Finished lists go."""
        is_finished = self._summary.num_items == self._summary.limit
        which = np.flatnonzero(is_finished).tolist()
        if not which:
            return []
        results = self._states.results(which)
        done = [self._flights[i].result(result) for i, result in zip(which, results, strict=True)]
        self._select(np.flatnonzero(~is_finished).tolist())
        return done

    def _select(self, kept: list[int]) -> None:
        """Go on with these lists alone; the last ones move into the rows of those that left."""
        if len(kept) == len(self._flights):
            return
        movers = [i for i in kept if i >= len(kept)]
        holes = sorted(set(range(len(kept))) - set(kept))
        order = list(range(len(kept)))
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
            for cache in self._caches():
                cache.move_row(mover, hole)
        if holes:
            source, target = torch.tensor([movers, holes], device=self._device)
            self._states.move(source, target)
            self._sampling.move(source, target)
            self._features[target] = self._features[source]
        self._flights = [self._flights[i] for i in order]
        self._summary = self._summary.select(order)

    def _caches(self) -> list[KvCache]:
        return [self._target.cache] + ([] if self._drafter is None else [self._drafter.cache])


def _widened(values: torch.Tensor, width: int) -> torch.Tensor:
    """[batch, m] as [batch, width], cut or padded with 0."""
    return F.pad(values[:, :width], (0, max(0, width - values.shape[1])))


def _cached_and(sees: torch.Tensor, length: torch.Tensor, num_places: int) -> torch.Tensor:
    """The mask of a pass, bool [batch, n, num_places]: all that is cached, and of the pass what `sees` allows.

    Args:
        sees: bool [batch, n, n], which tokens of the pass may look at which.
        length: int64 [batch, 1], cached tokens of each list.
        num_places: of the cache.
    """
    place = torch.arange(num_places, device=sees.device) - length
    within = place.clamp(0, sees.shape[2] - 1).unsqueeze(1).expand(-1, sees.shape[1], -1)
    inside = (place >= 0) & (place < sees.shape[2])
    return (place < 0).unsqueeze(1) | (sees.gather(2, within) & inside.unsqueeze(1))
