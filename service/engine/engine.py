"""The engine: lists in flight, written a round at a time.

A round is draft, verify, accept, commit: the draft guesses a tree of tokens for every list, one pass of the target
reads all trees under a mask, each list follows the target's choices through its tree, and the cache keeps what was
accepted.
Without a draft the trees are bare roots. Lists join and leave between rounds; list i stands in row i of every cache.
"""

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.catalog.trie import Int64Array
from service.engine.branches import Lists
from service.engine.constraint import FreeRows, TrieIndex
from service.engine.drafter import Drafter, News, at
from service.engine.flight import Flight
from service.engine.kv_cache import KvCache, grain_of
from service.engine.sampling import Sampling
from service.engine.target_pass import TargetPass
from service.engine.tree import GuessTree, PackedTrees, TreeShape
from service.engine.verify import choose_nodes
from service.model.draft import Draft
from service.types import DecodedList, DecodeRequest


class Engine:
    """Owns target and draft and everything on their device; used from one thread.

    Args:
        model: the target, in evaluation mode on its device.
        catalogue: of the same bundle.
        layout: how codes become tokens.
        max_batch: lists in flight, at most; the caller keeps to it.
        draft: guesses ahead of the target; None: the target writes alone.
        tree: how much is guessed; None: what suits the draft and the device.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        catalogue: Catalogue,
        layout: TokenLayout,
        max_batch: int = 32,
        draft: Draft | None = None,
        tree: TreeShape | None = None,
    ) -> None:
        self.max_batch = max_batch
        self._catalogue, self._layout = catalogue, layout
        self._device = model.device
        self._grain = grain_of(model.device)
        self._index = TrieIndex(catalogue, layout, model.device)
        self._code_heads = model.get_output_embeddings().weight[self._index.token_of]
        layers = () if draft is None else draft.config.feature_layers(model.config.num_hidden_layers)
        self._target = TargetPass(model, layers)
        self._drafter = None
        if draft is not None:
            shape = tree or TreeShape.default(draft.config, model.device)
            self._drafter = Drafter(draft, model, catalogue, layout, self._index, self._code_heads, shape)
        self._flights: list[Flight] = []
        # What rounds need of the lists on the device, row by row like `_flights`.
        self._free = torch.zeros(0, len(catalogue), dtype=torch.bool, device=model.device)
        self._sampling = Sampling.none(model.device)
        # Of each list, features of the last token before the latest pass and of those that it verified.
        self._features = torch.zeros(0, 1, model.config.hidden_size, device=model.device, dtype=model.dtype)

    @property
    def num_running(self) -> int:
        """Lists in flight."""
        return len(self._flights)

    @torch.inference_mode()
    def add(self, requests: Sequence[DecodeRequest]) -> None:
        """Prefill these requests; they run from the next round on."""
        if not requests:
            return
        flights = [Flight(request, self._catalogue, self._layout) for request in requests]
        free = self._on_device(np.stack([flight.cursor.free for flight in flights]))
        sampling = Sampling.of(requests, self._layout.num_levels, self._index.num_codes, self._device)
        prompts = [self._layout.prompt(self._catalogue.codes[list(r.history)]) for r in requests]
        hidden, features = self._prefill(prompts)
        roots = PackedTrees.of([GuessTree() for _ in flights])
        nodes, probabilities = self._choose(hidden, roots, self._lists(flights, free, sampling))
        for flight, prompt, node, probability in zip(flights, prompts, nodes, probabilities, strict=True):
            flight.length = len(prompt)
            flight.start(node[0], probability[0])
        # From here on nothing fails: a prefill that does, for lack of memory say, leaves no trace.
        self._flights += flights
        self._free = torch.cat([self._free, free])
        self._sampling = self._sampling.joined(sampling)
        if features is not None:
            padding = (0, 0, 0, self._features.shape[1] - 1)
            self._features = torch.cat([self._features, F.pad(features, padding)])
        self._block_new_rows()

    @torch.inference_mode()
    def drop(self, request_ids: Collection[str]) -> None:
        """Forget these requests; IDs that are not in flight are ignored."""
        self._select([i for i, f in enumerate(self._flights) if f.request.request_id not in request_ids])

    @torch.inference_mode()
    def round(self) -> list[DecodedList]:
        """One pass of the target for every list in flight; those that are finished, in no particular order."""
        finished = self._leave()
        if self._flights:
            lists = self._lists(self._flights, self._free, self._sampling)
            trees = self._draft(lists)
            packed = PackedTrees.of(trees)
            hidden, states = self._verify(packed)
            nodes, probabilities = self._choose(hidden, packed, lists)
            choices = zip(self._flights, trees, nodes, probabilities, strict=True)
            paths = [flight.accept(tree, chosen, likely) for flight, tree, chosen, likely in choices]
            self._commit(paths, states)
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
    def reserve(self, num_positions: int) -> None:
        """Take memory for `max_batch` lists of so many tokens, prompts included; else it grows with what is asked."""
        tokens = self._layout.tokens_per_item
        if self._drafter is not None:
            # A round's news are at most what its pass read; every guess may bring the rest of an item along.
            tokens += self._drafter.shape.num_guesses * self._layout.tokens_per_item
            places = self._grain.places_for(num_positions + self._grain.tokens_for(tokens))
            self._drafter.cache.reserve(self.max_batch, places + self._drafter.num_scratch_places)
        places = self._grain.places_for(num_positions + self._grain.tokens_for(tokens))
        self._target.cache.reserve(self.max_batch, places)

    def _prefill(self, prompts: Sequence[Int64Array]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Read prompts into the rows after those in flight.

        Returns:
            What the head reads at the prompts' ends, [new, 1, hidden], and the draft's features there, if there is one.
        """
        first = len(self._flights)
        rows = slice(first, first + len(prompts))
        lengths = np.array([[len(prompt)] for prompt in prompts])
        longest = self._grain.places_for(int(lengths.max()))
        tokens = np.zeros((len(prompts), longest), dtype=np.int64)
        slots = np.zeros_like(tokens)
        for i, prompt in enumerate(prompts):
            tokens[i, : len(prompt)] = prompt
            slots[i, : len(prompt)] = self._layout.next_slots(len(prompt))
        token, slot, position = self._on_device(
            np.stack([tokens, slots, np.minimum(np.arange(longest), lengths - 1)])
        )
        places = torch.arange(longest, device=self._device).expand(len(prompts), -1)
        causal = torch.ones(longest, longest, dtype=torch.bool, device=self._device).tril()
        hidden, states = self._target(token, position, places, causal.expand(len(prompts), -1, -1), rows)
        end = self._on_device(lengths - 1)
        features = None
        if self._drafter is not None:
            features = self._drafter.draft.features_of(states)
            self._drafter.read_prompts(token, features, slot, rows)
            features = at(features, end)
        return at(hidden, end), features

    def _draft(self, lists: Lists) -> list[GuessTree]:
        """A tree for each list; bare roots without a draft."""
        flights = self._flights
        if self._drafter is None:
            return [GuessTree(node=[flight.cursor.node]) for flight in flights]
        news = [
            News(
                tokens=flight.verified + flight.pending,
                num_verified=len(flight.verified),
                begin=flight.length - len(flight.verified),
                slot=flight.cursor.depth,
                num_wanted=flight.num_wanted,
            )
            for flight in flights
        ]
        return self._drafter.grow(news, self._features, lists, [flight.cursor for flight in flights])

    def _verify(self, trees: PackedTrees) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """One pass over what is pending, and the guesses that hang off it.

        Returns:
            What the head reads at each place of the trees, [batch, places, hidden], and the hidden states of the
            whole pass.
        """
        pending = [len(flight.pending) for flight in self._flights]
        num_tokens = self._grain.tokens_for(max(pending) + trees.token.shape[1] - 1)
        batch = len(pending)
        tokens = np.zeros((batch, num_tokens), dtype=np.int64)
        # The position of each token after the cached ones; padding has that of the first.
        ahead = np.zeros_like(tokens)
        sees = np.tile(np.eye(num_tokens, dtype=bool), (batch, 1, 1))
        for i, (flight, root) in enumerate(zip(self._flights, pending, strict=True)):
            end = root + trees.token.shape[1] - 1
            tokens[i, :root] = flight.pending
            ahead[i, :root] = np.arange(root)
            tokens[i, root:end] = trees.token[i, 1:]
            ahead[i, root:end] = root - 1 + trees.depth[i, 1:]
            sees[i, :root, :root] = np.tri(root, dtype=bool)
            sees[i, root:end, :root] = True
            sees[i, root:end, root:end] = trees.sees[i]
        lengths = np.array([flight.length for flight in self._flights])
        token, position = self._on_device(np.stack([tokens, ahead + lengths[:, None]]))
        length = self._on_device(lengths).unsqueeze(1)
        places = length + torch.arange(num_tokens, device=self._device)
        num_places = self._grain.places_for(int(lengths.max()) + num_tokens)
        mask = _cached_and(self._on_device(sees), length, num_places)
        hidden, states = self._target(token, position, places, mask, slice(0, batch))
        of_tree = self._on_device(np.array(pending)[:, None] - 1 + np.arange(trees.token.shape[1]))
        return at(hidden, of_tree), states

    def _choose(
        self, hidden: torch.Tensor, trees: PackedTrees, lists: Lists
    ) -> tuple[list[list[int]], list[list[float]]]:
        """The target's choice after each place of each tree: a node of the trie, and its probability."""
        node, written = self._on_device(trees.node), self._on_device(trees.written)
        chosen, probability = choose_nodes(self._index, self._code_heads, hidden, node, written, lists)
        return chosen.tolist(), probability.tolist()

    def _commit(self, paths: Sequence[Sequence[int]], states: Sequence[torch.Tensor]) -> None:
        """Keep the cache's entries of the tokens that are now certain; their features are the draft's news."""
        num_verified = [len(flight.verified) for flight in self._flights]
        # Places of those tokens in the pass; padding repeats the last one, on to its own target.
        source = np.zeros((len(paths), max(num_verified)), dtype=np.int64)
        target = np.minimum(np.arange(source.shape[1]), np.array(num_verified)[:, None] - 1)
        for i, (path, count) in enumerate(zip(paths, num_verified, strict=True)):
            root = count - len(path)
            source[i, :root] = np.arange(root)
            source[i, root:count] = root - 1 + np.array(path, dtype=np.int64)
            source[i, count:] = source[i, count - 1]
        length = np.array([[flight.length] for flight in self._flights])
        moves = (source != target).any(axis=0)
        if moves.any():
            begin = int(moves.argmax())
            self._target.cache.keep(
                self._on_device(length + source[:, begin:]), self._on_device(length + target[:, begin:])
            )
        if self._drafter is not None:
            self._remember(self._on_device(source), states)
        for flight, count in zip(self._flights, num_verified, strict=True):
            flight.length += count
            flight.last_feature = count
        self._block_new_rows()

    def _remember(self, places: torch.Tensor, states: Sequence[torch.Tensor]) -> None:
        """Features of the last token before the latest pass, and of the tokens in it at `places` [batch, n]."""
        assert self._drafter is not None
        last = self._on_device(np.array([[flight.last_feature] for flight in self._flights]))
        kept = self._drafter.draft.features_of([at(state, places) for state in states])
        self._features = torch.cat([at(self._features, last), kept], dim=1)

    def _leave(self) -> list[DecodedList]:
        """Finished lists go."""
        done = [flight.result() for flight in self._flights if flight.is_finished]
        if done:
            self._select([i for i, flight in enumerate(self._flights) if not flight.is_finished])
        return done

    def _select(self, kept: list[int]) -> None:
        """Go on with these lists alone; the last ones move into the rows of those that left."""
        if len(kept) == len(self._flights):
            return
        order = list(range(len(kept)))
        movers = [i for i in kept if i >= len(kept)]
        for hole in sorted(set(order) - set(kept)):
            order[hole] = movers.pop()
            for cache in self._caches():
                cache.move_row(order[hole], hole)
        index = self._on_device(np.array(order, dtype=np.int64))
        self._flights = [self._flights[i] for i in order]
        self._free = self._free[index]
        self._features = self._features[index] if self._drafter is not None else self._features
        self._sampling = self._sampling.select(order)

    def _caches(self) -> list[KvCache]:
        return [self._target.cache] + ([] if self._drafter is None else [self._drafter.cache])

    def _block_new_rows(self) -> None:
        pairs = [(i, row) for i, flight in enumerate(self._flights) for row in flight.new_rows]
        for flight in self._flights:
            flight.new_rows = []
        if pairs:
            lists, rows = self._on_device(np.array(pairs).T)
            self._free[lists, rows] = False

    def _lists(self, flights: Sequence[Flight], free: torch.Tensor, sampling: Sampling) -> Lists:
        """What is on the device about these lists."""
        counts = self._on_device(np.array([(len(flight.items), flight.num_wanted) for flight in flights]))
        return Lists(FreeRows.of(free), sampling, *counts.T)

    def _on_device(self, array: npt.NDArray[np.generic]) -> torch.Tensor:
        return torch.as_tensor(array, device=self._device)


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
