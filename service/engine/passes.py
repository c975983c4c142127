"""What the device does: prefills and rounds, on memory that stays where it is.

Nothing here asks the device for anything, but on a CPU for how much of a tree or a path is padding; so on a GPU both
are graphs. The host writes what it wants into `incoming`, `states` and `sampling`, and reads what became of it.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.engine.branches import Lists
from service.engine.constraint import FreeRows, TrieIndex
from service.engine.drafter import Drafter, News
from service.engine.extensions import ByItem
from service.engine.fusing import Fuse
from service.engine.graphs import Graphs, capture_on
from service.engine.incoming import Arrivals, Incoming
from service.engine.kv_cache import KvCache
from service.engine.sampling import Sampling
from service.engine.shapes import PrefillShape, RoundShape, Shapes
from service.engine.states import ListStates, Summary, Widths
from service.engine.target_pass import TargetPass
from service.engine.tree import Trees, TreeShape
from service.engine.verify import Accepted, decide
from service.model.draft import Draft
from service.model.layers import at

try:
    from service.engine import triton_commit, triton_inputs, triton_verify
    from service.engine.kernel_drafter import KernelDrafter
except ImportError:  # torch comes without Triton where it comes without CUDA
    triton_commit = triton_inputs = triton_verify = None  # type: ignore[assignment]

_MOST_INCOMING = 16  # prompts in one pass; more would only make the lists that run wait longer


class Passes:
    """Owns target and draft, their caches, and all that rounds need of the lists.

    Args:
        model: the target, in evaluation mode on its device.
        catalogue: of the same bundle.
        layout: how codes become tokens.
        max_batch: lists, at most.
        max_items: items of a list, at most.
        draft: guesses ahead of the target; None: the target writes alone.
        trees: how much it may be asked to guess.
        fuse: makes the parts of a round faster.

    Attributes:
        device: where everything is.
        shapes: what sizes are rounded up to.
        widths: how much room a list has.
        most_incoming: prompts that one prefill reads.
        num_rows: of everything: those of the lists, then those in which prompts are read.
        num_codes: the most codes of any level.
        states: of the lists, row by row.
        sampling: likewise.
        incoming: what the next prefill reads.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        catalogue: Catalogue,
        layout: TokenLayout,
        max_batch: int,
        max_items: int,
        draft: Draft | None,
        trees: Sequence[TreeShape],
        fuse: Fuse,
    ) -> None:
        self.device = model.device
        self.shapes = Shapes.of(model.device)
        self._max_batch = max_batch
        self._index = TrieIndex(catalogue, layout, model.device)
        self.num_codes = self._index.num_codes
        self._code_heads = model.get_output_embeddings().weight[self._index.token_of]
        layers = () if draft is None else draft.config.feature_layers(model.config.num_hidden_layers)
        self._target = TargetPass(model, layers)
        self._drafter = None
        if draft is not None:
            self._drafter = Drafter(draft, model, layout, self._index, self._code_heads, trees, fuse)
        self._kernel_drafter: KernelDrafter | None = None
        if (
            self._drafter is not None
            and isinstance(self._drafter.extension, ByItem)
            and self.device.type == "cuda"
        ):
            self._kernel_drafter = KernelDrafter(self._drafter, self._drafter.extension, self._index)
        deepest = 0 if self._drafter is None else self._drafter.most_depth
        guesses = 0 if self._drafter is None else self._drafter.most_guesses
        self.widths = Widths(max_items, layout.tokens_per_item, deepest, guesses)
        self.most_incoming = min(max_batch, _MOST_INCOMING)
        self.num_rows = max_batch + self.most_incoming
        width = model.config.hidden_size
        self.incoming = Incoming(self.most_incoming, len(catalogue), width, model.device, model.dtype)
        self.states = ListStates.buffers(self.num_rows, catalogue, self.widths, model.device)
        self.sampling = Sampling.buffers(self.num_rows, model.device)
        # What the host reads after each pass; where there is a GPU, without waiting for a copy of its own.
        self._summary = torch.zeros(
            Summary.NUM_COLUMNS, self.num_rows, dtype=torch.int64, pin_memory=model.device.type == "cuda"
        )
        self._summarized = torch.zeros_like(self._summary, device=model.device)
        # Features of each prompt's last token and of the list's; the last place is nobody's.
        num_features = 0 if draft is None else self.widths.tokens + 2
        self._features = torch.zeros(
            self.num_rows, num_features, width, device=model.device, dtype=model.dtype
        )
        self._decide = fuse(decide)
        # A function, not a method of this: an object that holds its own method, and its caches, is not freed at once.
        self._commit, self._enter = fuse(Passes._written), fuse(Passes._entered)
        self._open, self._list = fuse(Passes._opened), fuse(ListStates.lists)
        self._bring_news, self._lay_out = fuse(Passes._news), fuse(Passes._laid_out)
        self._graphs = Graphs(capture_on(model.device))

    @property
    def caches(self) -> dict[str, KvCache]:
        """The target's, and the draft's where there is one."""
        caches = {"target": self._target.cache}
        return caches if self._drafter is None else {**caches, "draft": self._drafter.cache}

    def places_for(self, shape: RoundShape) -> dict[str, int]:
        """Places of each cache that a round of a shape needs."""
        most = 0 if self._drafter is None else self._drafter.most_places
        places = {"target": self.shapes.places_for(shape.longest + shape.pending + most)}
        if self._drafter is not None:
            places["draft"] = shape.draft_places + self._drafter.num_scratch_places
        return places

    def reserve(self, places: dict[str, int], num_prompt_tokens: int = 0) -> None:
        """Have so many places in each cache, and room for so many tokens of prompts; what is there stays."""
        has_moved = [cache.reserve(self.num_rows, places[name]) for name, cache in self.caches.items()]
        has_moved.append(self.incoming.reserve(num_prompt_tokens))
        if any(has_moved):
            self._graphs = Graphs(capture_on(self.device))

    def prefill(self, shape: PrefillShape) -> None:
        """Read what is incoming and decide each list's first code; `reserve` first."""
        self._graphs.run(self._prefill, shape)

    def round(self, shape: RoundShape) -> None:
        """A round for the first lists; `reserve` first. What is computed for rows after theirs is nobody's."""
        self._graphs.run(self._round, shape)

    def summary(self, count: int) -> Summary:
        """How the first lists stand, as the latest prefill or round left them; waits for it."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return Summary(*self._summary[:, :count].numpy().copy())

    def move(self, source: list[int], target: list[int]) -> None:
        """Move lists into other rows."""
        for one, other in zip(source, target, strict=True):
            for cache in self.caches.values():
                cache.move_row(one, other)
        if source:
            rows = torch.tensor([source, target], device=self.device)
            self.states.move(*rows)
            self.sampling.move(*rows)
            self._features[rows[1]] = self._features[rows[0]]

    def _prefill(self, shape: PrefillShape) -> None:
        """Read what is incoming, in the rows after all lists, decide each first code, and move to the lists' rows."""
        incoming, device = self.incoming.first(shape.batch, shape.num_tokens), self.device
        rows = slice(self._max_batch, self._max_batch + shape.batch)
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
        states, roots = self._open(self, incoming)
        lists = self._lists(states, self.sampling.select(incoming.row, with_noise=shape.is_sampled))
        done = self._accept(at(hidden, last), roots, lists)
        self._enter(self, incoming.row, states, roots, done)
        self._tell()
        staged = torch.arange(rows.start, rows.stop, device=device)
        for cache in self.caches.values():
            cache.copy_rows(cache, staged, incoming.row, shape.num_places)

    def _round(self, shape: RoundShape) -> None:
        """Draft, verify, accept, commit."""
        states = self.states.first(shape.batch)
        lists = self._lists(states, self.sampling.first(shape.batch, with_noise=shape.is_sampled))
        trees = self._draft(shape, states, lists)
        root = shape.pending
        hidden, of_pass = self._verify(shape, root, states, trees)
        done = self._accept(hidden, trees, lists)
        if hidden.is_cuda:
            self._keep_in_kernels(root, states, trees, done, of_pass, is_drafted=shape.tree is not None)
        else:
            self._commit(self, root, states, trees, done, of_pass, shape.tree is not None)
        self._tell()

    def _tell(self) -> None:
        """Have the host know how all lists stand."""
        if self.device.type == "cuda":
            triton_commit.summarize(self.states, self._summarized)
        else:
            self._summarized = self.states.summary()
        self._summary.copy_(self._summarized, non_blocking=True)

    def _draft(self, shape: RoundShape, states: ListStates, lists: Lists) -> Trees:
        """A tree for each list; bare roots without a draft."""
        if self._drafter is None or shape.tree is None:
            return Trees.bare(states.node.clone())
        if self._kernel_drafter is not None and self._kernel_drafter.can_grow(shape.tree, lists):
            return self._kernel_drafter.grow(
                shape.tree,
                states,
                self._features,
                lists,
                num_columns=shape.news,
                num_places=shape.draft_places,
                most_wanted=shape.wanted,
            )
        news = self._bring_news(self, shape.news, shape.draft_places, shape.wanted, states)
        trees = self._drafter.grow(shape.tree, news, lists)
        return trees if self.shapes.pads else trees.first(int(trees.is_real.sum(dim=1).max()))

    def _verify(
        self, shape: RoundShape, root: int, states: ListStates, trees: Trees
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """One pass over what is pending, in its first `root` columns, and the guesses that hang off it.

        Returns:
            What the head reads at each place of the trees, [batch, places, hidden], and the hidden states of the
            whole pass.
        """
        num_places = self.shapes.places_for(shape.longest + root + trees.num_places - 1)
        if self.device.type == "cuda":
            laid_out = triton_inputs.lay_out(root, num_places, states, trees)
        else:
            laid_out = self._lay_out(self, root, num_places, states, trees)
        tokens, positions, places, mask, asked = laid_out
        hidden, of_pass = self._target(tokens, positions, places, mask, slice(0, shape.batch))
        return at(hidden, asked), of_pass

    def _lists(self, states: ListStates, sampling: Sampling) -> Lists:
        """As `ListStates.lists`."""
        if self.device.type != "cuda":
            return self._list(states, sampling)
        free = states.free[:, :-1]
        rows = FreeRows(free, triton_inputs.free_before(free))
        return Lists(rows, sampling, states.num_items, states.limit - states.num_items)

    def _opened(self, incoming: Arrivals) -> tuple[ListStates, Trees]:
        """New lists, and the roots at which their first codes are chosen."""
        length = incoming.begin + incoming.count
        states = ListStates.fresh(incoming.free, incoming.limit, length, self.widths, self._index.num_levels)
        return states, Trees.bare(states.node)

    def _entered(self, rows: torch.Tensor, states: ListStates, roots: Trees, done: Accepted) -> None:
        """Write new lists, of which the first codes are decided, into their rows."""
        self.states.put(rows, states.after(roots, done, is_round=False, is_drafted=False))

    def _news(self, num_tokens: int, num_places: int, most_wanted: int, states: ListStates) -> News:
        """What is new to the draft, in so many columns."""
        num_verified = states.length - states.start - states.num_read
        column = torch.arange(num_tokens, device=self.device).expand(len(num_verified), -1)
        split, read = num_verified.unsqueeze(1), states.num_read.unsqueeze(1)
        certain = torch.cat((states.tokens, states.pending), dim=1)
        places = torch.where(column < split, read + column, states.tokens.shape[1] + column - split)
        return News(
            tokens=certain.gather(1, places.clamp(max=certain.shape[1] - 1)),
            features=at(self._features[: len(num_verified)], read + torch.minimum(column, split)),
            num_verified=num_verified,
            num_tokens=num_verified + states.num_pending,
            begin=states.start + states.num_read,
            num_places=num_places,
            node=states.node,
            slot=self._index.node_depth[states.node],
            most_wanted=most_wanted,
        )

    def _laid_out(
        self, root: int, num_places: int, states: ListStates, trees: Trees
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the target reads: pending tokens, in so many columns, then guesses.

        Returns:
            Tokens, positions and places in the cache, each int64 [batch, n]; the mask, bool [batch, n, num_places];
            and the columns of the trees' places, int64 [batch, places].
        """
        batch, num_guessed = len(states.length), trees.num_places - 1
        tokens = torch.cat((_widened(states.pending, root), trees.token[:, 1:]), dim=1)
        column = torch.arange(root, device=self.device).expand(batch, -1)
        last = (states.num_pending - 1).clamp(min=0).unsqueeze(1)
        length = states.length.unsqueeze(1)
        ahead = torch.cat((torch.minimum(column, last), last + trees.depth[:, 1:]), dim=1)
        of_pending = torch.cat(
            (
                column.unsqueeze(1) <= column.unsqueeze(2),
                (column <= last).unsqueeze(1).expand(-1, num_guessed, -1),
            ),
            dim=1,
        )
        sees = torch.cat((of_pending, F.pad(trees.sees[:, 1:, 1:], (0, 0, root, 0))), dim=2)
        places = length + torch.arange(root + num_guessed, device=self.device)
        guessed = root + torch.arange(num_guessed, device=self.device).expand(batch, -1)
        mask = _cached_and(sees, length, num_places)
        return tokens, length + ahead, places, mask, torch.cat((last, guessed), dim=1)

    def _accept(self, hidden: torch.Tensor, trees: Trees, lists: Lists) -> Accepted:
        deepest = min(self.widths.guessed, trees.num_places - 1)
        if hidden.is_cuda and lists.sampling.noise is None:
            logits = F.linear(hidden, self._code_heads.flatten(0, 1))
            return triton_verify.decide(self._index, logits, trees, lists, deepest)
        done = self._decide(self._index, self._code_heads, hidden, trees, lists, deepest)
        return done if self.shapes.pads else replace(done, path=done.path[:, : int(done.num_path.max())])

    def _written(
        self,
        root: int,
        states: ListStates,
        trees: Trees,
        done: Accepted,
        of_pass: Sequence[torch.Tensor],
        is_drafted: bool,
    ) -> None:
        """Keep of a round what is certain; `states` are views of ours, and nothing else that comes in is."""
        self._keep(root, states, done)
        if self._drafter is not None:
            self._remember(root, states, done, of_pass)
        states.put(0, states.after(trees, done, is_round=True, is_drafted=is_drafted))

    def _keep_in_kernels(
        self,
        root: int,
        states: ListStates,
        trees: Trees,
        done: Accepted,
        of_pass: Sequence[torch.Tensor],
        *,
        is_drafted: bool,
    ) -> None:
        """As `_written`."""
        done = replace(done, path=done.path.contiguous())
        triton_commit.keep(self._target.cache.data, root, states, done)
        if self._drafter is not None and self._drafter.draft.config.features == "last":
            triton_commit.remember(self._features, root, states, done, of_pass[-1])
        elif self._drafter is not None:
            self._remember(root, states, done, of_pass)
        triton_commit.commit(states, trees, done, is_drafted=is_drafted)

    def _keep(self, root: int, states: ListStates, done: Accepted) -> None:
        """Move the cache's entries of accepted guesses to where they belong."""
        if not done.path.shape[1]:
            return
        order = torch.arange(done.path.shape[1], device=self.device)
        length = states.length.unsqueeze(1)
        target = length + states.num_pending.unsqueeze(1) + order
        # Where a path has ended an entry stays where it is, in scratch.
        source = torch.where(order < done.num_path.unsqueeze(1), length + root - 1 + done.path, target)
        self._target.cache.keep(source, target)

    def _remember(
        self,
        root: int,
        states: ListStates,
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
        columns = columns.clamp(max=of_pass[0].shape[1] - 1)
        kept = self._drafter.draft.features_of([at(state, columns) for state in of_pass])
        places = 1 + states.verified_to(done)
        self._features[: len(places)].scatter_(1, places.unsqueeze(2).expand_as(kept), kept)


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
