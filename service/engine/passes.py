"""What the device does: prefills and rounds, on memory that stays where it is.

Nothing here asks the device for anything, but on a CPU for how much of a tree or a path is padding; so on a GPU both
are graphs. The host writes what it wants into `incoming`, `states` and `sampling`, and reads what became of it.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.catalog.trie import Int64Array
from service.engine.beam import MOST_BEAMS, Beams, BeamSearch
from service.engine.constraint import TrieIndex
from service.engine.drafter import Drafter
from service.engine.graphs import Graphs, SizedShape
from service.engine.incoming import Incoming
from service.engine.kv_cache import KvCache
from service.engine.sampling import FloatArray, Sampling
from service.engine.shapes import PrefillShape, RoundShape, Shapes
from service.engine.states import NUM_SUMMARIES, ListStates, Result, Summary, Widths
from service.engine.steps import Steps
from service.engine.target_pass import Reading, TargetPass
from service.engine.trace import RoundRecord, Tracer
from service.engine.tree import Trees, TreeShape
from service.model.capture import capture_on
from service.model.draft import Draft
from service.model.kernels import HAS_TRITON, move_rows, runs_triton
from service.model.transfer import sent, sent_together

if HAS_TRITON:
    from service.engine.gpu.steps import KernelSteps

_MOST_INCOMING = 32  # prompts in one pass; more would only make the lists that run wait longer


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
    ) -> None:
        self.device = model.device
        self.shapes = Shapes.of(model.device)
        self._max_batch = max_batch
        self._index = TrieIndex(catalogue, layout, model.device)
        self.num_codes = self._index.num_codes
        code_heads = model.get_output_embeddings().weight[self._index.token_of]
        layers = () if draft is None else draft.config.feature_layers(model.config.num_hidden_layers)
        self._target = TargetPass(model, layers)
        self._drafter = None
        if draft is not None:
            self._drafter = Drafter(draft, model, layout, self._index, code_heads, trees)
        deepest = 0 if self._drafter is None else self._drafter.most_depth
        guesses = 0 if self._drafter is None else self._drafter.most_guesses
        self.widths = Widths(max_items, layout.tokens_per_item, deepest, guesses)
        self.most_incoming = min(max_batch, _MOST_INCOMING)
        self.num_rows = max_batch + self.most_incoming
        width = model.config.hidden_size
        self.incoming = Incoming(self.most_incoming, len(catalogue), width, model.device, model.dtype)
        self.states = ListStates.buffers(self.num_rows, catalogue, self.widths, model.device)
        self.sampling = Sampling.buffers(self.num_rows, model.device)
        # What the host reads after each pass; a GPU writes it there itself.
        self._summary = torch.zeros(
            NUM_SUMMARIES, self.num_rows, dtype=torch.int64, pin_memory=model.device.type == "cuda"
        )
        kind = KernelSteps if runs_triton(code_heads) else Steps
        self._steps = kind(
            self._index, code_heads, self.widths, self.shapes, self._target, self._drafter, self.states
        )
        self._tracer = Tracer(self.num_rows, 1 + self._most_places, self.widths, model.device)
        self._search = BeamSearch(self._index, code_heads, self._target)
        # The leaves that the latest search found, and their log-probabilities, for the host too.
        most_beams = self.most_incoming * MOST_BEAMS
        self._leaves = torch.zeros(most_beams, dtype=torch.int64, pin_memory=self._summary.is_pinned())
        self._leaf_scores = torch.zeros(most_beams, pin_memory=self._summary.is_pinned())
        self._graphs = Graphs(capture_on(model.device))

    @property
    def caches(self) -> dict[str, KvCache]:
        """The target's, and the draft's where there is one."""
        caches = {"target": self._target.cache}
        return caches if self._drafter is None else {**caches, "draft": self._drafter.cache}

    @property
    def num_captured(self) -> int:
        """Graphs, since memory moved last."""
        return self._graphs.num_captured

    @property
    def can_capture(self) -> bool:
        """Whether prefills and rounds are graphs here."""
        return self._graphs.can_capture

    def begin_service(self) -> None:
        """See `Graphs`."""
        self._graphs.begin_service()

    def fitting(self, shape: SizedShape) -> SizedShape:
        """The shape in which to compute what has this one."""
        return self._graphs.fitting(shape)

    def places_for(self, longest: int, draft_places: int) -> dict[str, int]:
        """Places of each cache that a round needs; arguments as in `RoundShape`."""
        places = {"target": self._pass_places(longest, self._most_places)}
        if self._drafter is not None:
            places["draft"] = draft_places + self._drafter.num_scratch_places
        return places

    def places_for_prefill(self, longest: int, num_beams: int) -> dict[str, int]:
        """Places of each cache that a prefill needs, for prompts of so many tokens and so many beams of each."""
        longest = self.shapes.places_for(longest)
        of_beams = self.shapes.places_for(longest + self._search.num_scratch(num_beams))
        return {**dict.fromkeys(self.caches, longest), "target": of_beams}

    def reserve(self, places: dict[str, int], num_prompt_tokens: int = 0) -> None:
        """Have so many places in each cache, and room for so many tokens of prompts; what is there stays."""
        has_moved = [cache.reserve(self.num_rows, places[name]) for name, cache in self.caches.items()]
        has_moved.append(self.incoming.reserve(num_prompt_tokens))
        if any(has_moved):
            self._graphs = Graphs(capture_on(self.device), in_service=self._graphs.in_service)

    def prefill(self, shape: PrefillShape) -> None:
        """Read what is incoming and decide each list's first code, or search for each next item; `reserve` first."""
        self._graphs.run(self._prefill, shape)

    def round(self, shape: RoundShape, count: int) -> bool:
        """A round for the first `count` lists; `reserve` first. What is computed for rows after theirs is nobody's.

        Returns:
            Whether it took no longer than the next of this shape will.
        """
        self._steps.num_lists.fill_(count)
        return self._graphs.run(self._round, shape)

    def summary(self, count: int) -> Summary:
        """How the first lists stand, as the latest prefill or round left them; waits for it."""
        self._wait()
        return Summary(*self._summary[:, :count].numpy().copy())

    def leaves(self, count: int, num_beams: int) -> tuple[Int64Array, FloatArray]:
        """The leaves that the latest prefill, a search, found for its first prompts, best first, and their scores.

        Both [count, num_beams]; scores are log-probabilities, `NOT_ALLOWED` or less where there is no leaf. Waits for
        them.
        """
        self._wait()
        size = count, num_beams
        leaves, scores = (part[: count * num_beams] for part in (self._leaves, self._leaf_scores))
        return leaves.view(size).numpy().copy(), scores.view(size).numpy().copy()

    def results(self, which: list[int]) -> list[Result]:
        """What is written of lists that are finished, as of the latest `summary`."""
        return self._steps.results(which)

    def written(self, which: list[int]) -> list[Result]:
        """What is written of lists that may not be finished, as the latest round left it; waits for it."""
        return self.states.unpack(self.states.packed(sent(which, self.device)).cpu())

    def traced(self, which: list[int]) -> list[RoundRecord]:
        """What the latest round, a traced one, did for these lists; waits for it."""
        return self._tracer.take(which)

    def move(self, source: list[int], target: list[int], num_tokens: int) -> None:
        """Move lists, of so many tokens at most, into other rows; none of either stands among the others."""
        from_rows, to_rows = sent_together(source, target, device=self.device)
        for cache in self.caches.values():
            cache.copy_rows(cache, from_rows, to_rows, num_tokens)
        move_rows([*self.states.parts(), *self.sampling.parts(), self._steps.features], source, target)

    def _prefill(self, shape: PrefillShape) -> None:
        """Read what is incoming, in the rows after all lists, decide each first code, and move to the lists' rows."""
        incoming, device = self.incoming.arrivals(shape), self.device
        rows = slice(self._max_batch, self._max_batch + shape.batch)
        spans, places = incoming.spans, incoming.places
        mask = torch.arange(shape.num_places, device=device) <= places.unsqueeze(1)
        hidden, of_pass = self._target(Reading(incoming.tokens, places, places, mask, spans), rows)
        last = (spans.begin[1:] - 1).clamp(min=0)
        features = of_pass[-1]
        if self._drafter is not None:
            features = self._drafter.draft.features_of(of_pass)
            prompt = spans.row.clamp(min=0)
            is_first = (places == incoming.start[prompt]).unsqueeze(1)
            before = torch.where(is_first, incoming.before[prompt], features.roll(1, dims=0))
            self._drafter.read_prompts(
                incoming.tokens, before, incoming.slots, places, spans, rows, shape.num_places
            )
            self._steps.features[incoming.row, 0] = features[last]
        torch.index_select(features, 0, incoming.kept, out=incoming.features)
        self.sampling.put(incoming.row, incoming.temperature, incoming.top_p)
        steps, sampling = self._steps, self.sampling.select(incoming.row, with_noise=shape.is_sampled)
        nothing = torch.zeros_like(incoming.row)
        lists = steps.lists(incoming.free, nothing, incoming.limit, sampling)
        if shape.num_beams:
            num_places = self.places_for_prefill(shape.num_places, shape.num_beams)["target"]
            self._tell(self._search(hidden[last], spans.ends, lists.rows, shape.num_beams, rows, num_places))
            return
        root = torch.arange(shape.batch, device=device).unsqueeze(1)
        steps.begin(incoming, steps.decide(hidden[last], root, Trees.bare(nothing), lists))
        steps.tell(self._summary, incoming.row)
        staged = torch.arange(rows.start, rows.stop, device=device)
        for cache in self.caches.values():
            cache.copy_rows(cache, staged, incoming.row, shape.num_places)

    def _tell(self, beams: Beams) -> None:
        """Have the host know what was found."""
        count = beams.node.numel()
        self._leaves[:count].copy_(beams.node.flatten(), non_blocking=True)
        self._leaf_scores[:count].copy_(beams.log_probability.flatten(), non_blocking=True)

    def _wait(self) -> None:
        """Until the device is done."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def _round(self, shape: RoundShape) -> None:
        """Draft, verify, accept, commit."""
        steps, states = self._steps, self.states.first(shape.batch)
        sampling = self.sampling.first(shape.batch, with_noise=shape.is_sampled)
        lists = steps.lists(states.free, states.num_items, states.limit, sampling)
        trees = steps.grow(shape, states, lists)
        num_places = self._pass_places(shape.longest, trees.num_places - 1)
        layout = steps.lay_out(shape.num_tokens, num_places, states, trees)
        hidden, of_pass = self._target(layout.read, slice(0, shape.batch))
        trees = layout.trees
        done = steps.decide(hidden, layout.asked, trees, lists)
        if shape.is_traced:
            self._tracer.put(states, trees, done)
        steps.keep(layout.read, states, trees, done, of_pass, is_drafted=shape.tree is not None)
        steps.tell(self._summary, None)

    @property
    def _most_places(self) -> int:
        """Of a tree, the root apart."""
        return 0 if self._drafter is None else self._drafter.most_places

    def _pass_places(self, longest: int, guesses: int) -> int:
        """Places of the target's cache that a round looks at."""
        return self.shapes.places_for(longest + self.widths.pending + guesses)
