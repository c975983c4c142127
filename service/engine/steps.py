"""What a round does between its passes, for all lists at once; on a GPU `service.engine.gpu.steps` does it faster."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from service.engine.branches import Lists
from service.engine.constraint import FreeRows, TrieIndex
from service.engine.drafter import Drafter, News
from service.engine.incoming import Arrivals
from service.engine.sampling import Sampling
from service.engine.shapes import RoundShape, Shapes
from service.engine.states import ListStates, Result, Widths
from service.engine.target_pass import Reading, TargetPass
from service.engine.tree import Trees, TreeShape
from service.engine.verify import Accepted, decide
from service.model.kernels import Spans
from service.model.transfer import sent


@dataclass(frozen=True, slots=True)
class Layout:
    """What the target reads in a round: of each list what is pending, then its guesses.

    Attributes:
        read: all of it.
        trees: the guesses among it.
        asked: int64 [batch, n], which token stands at each place of the trees; at the root, the last pending one.
    """

    read: Reading
    trees: Trees
    asked: torch.Tensor


class Steps:
    """The steps of a round.

    Args:
        index: the trie on the device.
        code_heads: rows of the target's head for each level's codes, [L, C, hidden].
        widths: how much room a list has.
        shapes: what sizes are rounded up to.
        target: whose cache is kept.
        drafter: None: the target writes alone.
        states: of all rows.

    Attributes:
        features: of each prompt's last token and of the list's, [rows, places, hidden]; the last place is nobody's.
        num_lists: int64 [1], in flight; the rows after theirs are nobody's.
    """

    def __init__(
        self,
        index: TrieIndex,
        code_heads: torch.Tensor,
        widths: Widths,
        shapes: Shapes,
        target: TargetPass,
        drafter: Drafter | None,
        states: ListStates,
    ) -> None:
        self._index, self._code_heads, self._widths, self._pads = index, code_heads, widths, shapes.pads
        self._cache, self._drafter = target.cache, drafter
        places = 0 if drafter is None else widths.tokens + 2
        self._states = states
        self.features = code_heads.new_zeros(len(states.length), places, code_heads.shape[2])
        self.num_lists = torch.zeros(1, dtype=torch.int64, device=code_heads.device)

    def lists(
        self, free: torch.Tensor, num_items: torch.Tensor, limit: torch.Tensor, sampling: Sampling
    ) -> Lists:
        """What drafting and verifying need of the lists; arguments as in `ListStates`."""
        return Lists(FreeRows.of(free[:, :-1]), sampling, num_items, limit - num_items)

    def begin(self, incoming: Arrivals, done: Accepted) -> None:
        """Have lists begin in their rows, given what the pass over their prompts made certain."""
        fresh = ListStates.fresh(
            incoming.free, incoming.limit, incoming.spans.ends, self._widths, self._index.num_levels
        )
        begun = fresh.after(Trees.bare(fresh.node), done, is_round=False, is_drafted=False)
        self._states.put(incoming.row, begun)

    def grow(self, shape: RoundShape, states: ListStates, lists: Lists) -> Trees:
        """A tree for each list; bare roots where nothing is guessed."""
        if self._drafter is None or shape.tree is None:
            return Trees.bare(states.node.clone())
        return self._grow(shape.tree, shape, states, lists)

    def _grow(self, tree: TreeShape, shape: RoundShape, states: ListStates, lists: Lists) -> Trees:
        assert self._drafter is not None
        trees = self._drafter.grow(tree, self._news(shape, states), lists)
        return trees if self._pads else trees.first(int(trees.is_real.sum(dim=1).max()))

    def lay_out(self, num_tokens: int, num_places: int, states: ListStates, trees: Trees) -> Layout:
        """What the target reads, given for how many tokens and how many places of its cache there is room.

        There is for all that is pending, and of all trees for the guesses that are most probable. Where shapes are not
        padded it takes no more than there is.
        """
        pending, length = states.num_pending, states.length
        is_list = torch.arange(len(pending), device=pending.device) < self.num_lists
        pending = torch.where(is_list, pending, 0)
        trees = replace(trees, is_real=_most_probable(trees, is_list, num_tokens - pending.sum()))
        count = pending + trees.is_real[:, 1:].sum(dim=1)
        most = states.pending.shape[1] + trees.num_places - 1
        if not self._pads:
            num_tokens, num_places, most = int(count.sum()), int((length + count).max()), int(count.max())
        begin, row, column, is_padding = _side_by_side(count, num_tokens)
        own = pending[row]
        # Of guesses their place in the tree, which of pending tokens is none.
        guess = column - own + 1
        is_guess, last = guess > 0, trees.num_places - 1
        guess = guess.clamp(0, last)
        certain = states.pending[row, column.clamp(max=states.pending.shape[1] - 1)]
        ahead = torch.where(is_guess, own - 1 + trees.depth[row, guess], column)
        place = torch.arange(num_places, device=count.device) - length[row].unsqueeze(1)
        other = place - own.unsqueeze(1) + 1
        sees = trees.sees[row, guess].gather(1, other.clamp(0, last))
        mask = (place < own.unsqueeze(1)) & (place <= column.unsqueeze(1))
        mask |= is_guess.unsqueeze(1) & (other > 0) & (other <= last) & sees
        read = Reading(
            tokens=torch.where(is_guess, trees.token[row, guess], certain),
            positions=length[row] + ahead,
            places=torch.where(is_padding, num_places, length[row] + column),
            mask=mask,
            spans=Spans(
                row=torch.where(is_padding, -1, row),
                begin=begin,
                ends=length + count,
                most=most,
                has_padding=self._pads,
            ),
        )
        of_tree = torch.arange(trees.num_places, device=count.device)
        asked = (begin[:-1] + pending - 1).unsqueeze(1) + of_tree
        return Layout(read, trees, asked.clamp(0, num_tokens - 1))

    def decide(self, hidden: torch.Tensor, asked: torch.Tensor, trees: Trees, lists: Lists) -> Accepted:
        """What a pass of the target makes certain.

        Args:
            hidden: what the head reads, [t, hidden].
            asked: int64 [batch, n], which of it belongs to each place of the trees.
            trees: that were read.
            lists: that they belong to.
        """
        done = decide(self._index, self._code_heads, hidden[asked], trees, lists, self._deepest(trees))
        return done if self._pads else replace(done, path=done.path[:, : int(done.num_path.max())])

    def keep(
        self,
        read: Reading,
        states: ListStates,
        trees: Trees,
        done: Accepted,
        of_pass: Sequence[torch.Tensor],
        *,
        is_drafted: bool,
    ) -> None:
        """Keep of a round what is certain.

        Args:
            read: by the target.
            states: of the first rows; they change in their place.
            trees: that were verified.
            done: what became of them.
            of_pass: hidden states of the pass that the draft's features are made of, each [t, hidden].
            is_drafted: the draft has read the tokens that were certain before the pass.
        """
        self._keep(states, done)
        if self._drafter is not None:
            self._remember(read, states, done, of_pass)
        self._commit(states, trees, done, is_drafted)

    def tell(self, summary: torch.Tensor, rows: torch.Tensor | None) -> None:
        """Have the host know how all lists stand, and make ready what there is to say of those that are finished.

        Args:
            summary: see `ListStates.summary`; memory of the host, pinned where there is a GPU.
            rows: int64 [n], of lists that are new; None: of those in flight any may be finished.
        """
        summary.copy_(self._states.summary(), non_blocking=True)

    def results(self, which: list[int]) -> list[Result]:
        """What is written of lists that are finished, once the host has been told so."""
        return self._states.unpack(self._states.packed(sent(which, self.features.device)).cpu())

    def _deepest(self, trees: Trees) -> int:
        return min(self._widths.guessed, trees.num_places - 1)

    def _news(self, shape: RoundShape, states: ListStates) -> News:
        """What is new to the draft."""
        num_verified = states.length - states.start - states.num_read
        is_list = torch.arange(len(num_verified), device=num_verified.device) < self.num_lists
        count = torch.where(is_list, num_verified + states.num_pending, 0)
        begin, row, column, is_padding = _side_by_side(count, shape.news)
        split, read = num_verified[row], states.num_read[row]
        is_guess = column >= split
        # Whatever is read for padding, it exists.
        verified = (read + column).clamp(0, states.tokens.shape[1] - 1)
        pending = (column - split).clamp(0, states.pending.shape[1] - 1)
        place = (read + torch.minimum(column, split)).clamp(0, self.features.shape[1] - 1)
        slot, first = self._index.node_depth[states.node], states.start + states.num_read
        return News(
            tokens=torch.where(is_guess, states.pending[row, pending], states.tokens[row, verified]),
            features=self.features[row, place],
            slots=(slot[row] - (count[row] - 1 - column)) % self._widths.pending,
            is_guess=is_guess,
            places=torch.where(is_padding, shape.draft_places, first[row] + column),
            spans=Spans(
                row=torch.where(is_padding, -1, row),
                begin=begin,
                ends=first + count,
                most=self._widths.tokens + self._widths.pending if self._pads else int(count.max()),
                has_padding=self._pads,
            ),
            num_places=shape.draft_places,
            node=states.node,
            slot=slot,
            most_wanted=shape.wanted,
        )

    def _commit(self, states: ListStates, trees: Trees, done: Accepted, is_drafted: bool) -> None:
        """Have the states move on."""
        states.put(0, states.after(trees, done, is_round=True, is_drafted=is_drafted))

    def _keep(self, states: ListStates, done: Accepted) -> None:
        """Move the cache's entries of accepted guesses to where they belong."""
        if not done.path.shape[1]:
            return
        order = torch.arange(done.path.shape[1], device=done.path.device)
        begin = (states.length + states.num_pending).unsqueeze(1)
        # Where a path has ended an entry stays where it is, in scratch.
        source = torch.where(order < done.num_path.unsqueeze(1), done.path - 1, order)
        self._cache.keep(begin + source, begin + order)

    def _remember(
        self,
        read: Reading,
        states: ListStates,
        done: Accepted,
        of_pass: Sequence[torch.Tensor],
    ) -> None:
        """Keep the features of the tokens that this pass verified."""
        assert self._drafter is not None
        columns = states.verified_from(done)
        width, own = states.pending.shape[1], states.num_pending.unsqueeze(1)
        if done.path.shape[1]:
            of_path = own - 1 + done.path.gather(1, (columns - width).clamp(min=0))
            columns = torch.where(columns < width, columns, of_path)
        begin, end = read.spans.begin[:-1, None], read.spans.begin[1:, None]
        # Rows that are nobody's have no tokens, whatever they say; those of padding were never computed.
        which = torch.minimum(begin + columns, end - 1).clamp(min=0)
        kept = self._drafter.draft.features_of([state[which] for state in of_pass])
        places = 1 + states.verified_to(done)
        self.features[: len(places)].scatter_(1, places.unsqueeze(2).expand_as(kept), kept)


def _side_by_side(
    count: torch.Tensor, num_tokens: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """So many tokens of each list, int64 [batch], one list's after another's, and padding after them.

    Returns:
        Where each list's begin, and where the last one's end, int64 [batch + 1]; then of each token, [num_tokens], its
        list, which of the list's it is, and whether it is padding, which stands after the last list's.
    """
    begin = F.pad(count.cumsum(0), (1, 0))
    token = torch.arange(num_tokens, device=count.device)
    row = torch.searchsorted(begin[1:], token, right=True)
    is_padding = row == len(count)
    row = row.clamp(max=len(count) - 1)
    return begin, row, token - begin[row], is_padding


def _most_probable(trees: Trees, is_list: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
    """As `Trees.is_real`, of the most probable guesses of all lists, as many as there is room for.

    Those that are equally probable have room together or not at all.
    """
    probability = torch.where(is_list.unsqueeze(1), trees.probability[:, 1:], 0.0)
    falling = F.pad(probability.flatten().sort(descending=True).values, (0, 1))
    least = falling[room.clamp(0, len(falling) - 1)]
    return torch.cat((trees.is_real[:, :1], trees.is_real[:, 1:] & (probability > least)), dim=1)
