"""What a round does between its passes, for all lists at once; on a GPU `service.engine.gpu.steps` does it faster."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from service.engine.branches import Lists
from service.engine.constraint import TrieIndex
from service.engine.drafter import Drafter, News
from service.engine.sampling import Sampling
from service.engine.shapes import RoundShape, Shapes
from service.engine.states import ListStates, Widths
from service.engine.target_pass import TargetPass
from service.engine.tree import Trees, TreeShape
from service.engine.verify import Accepted, decide
from service.model.layers import at


@dataclass(frozen=True, slots=True)
class Layout:
    """What the target reads in a round: pending tokens, then guesses.

    Attributes:
        tokens: int64 [batch, n].
        positions: int64 [batch, n].
        places: int64 [batch, n], in the cache.
        mask: bool [batch, n, places of the cache], which a token may look at.
        asked: int64 [batch, m], the columns of the trees' places; of the root, that of the last pending token.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    places: torch.Tensor
    mask: torch.Tensor
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
        num_rows: of everything.

    Attributes:
        features: of each prompt's last token and of the list's, [rows, places, hidden]; the last place is nobody's.
    """

    def __init__(
        self,
        index: TrieIndex,
        code_heads: torch.Tensor,
        widths: Widths,
        shapes: Shapes,
        target: TargetPass,
        drafter: Drafter | None,
        num_rows: int,
    ) -> None:
        self._index, self._code_heads, self._widths, self._pads = index, code_heads, widths, shapes.pads
        self._cache, self._drafter = target.cache, drafter
        places = 0 if drafter is None else widths.tokens + 2
        self.features = code_heads.new_zeros(num_rows, places, code_heads.shape[2])

    def lists(self, states: ListStates, sampling: Sampling) -> Lists:
        """What drafting and verifying need of the lists."""
        return states.lists(sampling)

    def grow(self, shape: RoundShape, states: ListStates, lists: Lists) -> Trees:
        """A tree for each list; bare roots where nothing is guessed."""
        if self._drafter is None or shape.tree is None:
            return Trees.bare(states.node.clone())
        return self._grow(shape.tree, shape, states, lists)

    def _grow(self, tree: TreeShape, shape: RoundShape, states: ListStates, lists: Lists) -> Trees:
        assert self._drafter is not None
        trees = self._drafter.grow(tree, self._news(shape, states), lists)
        return trees if self._pads else trees.first(int(trees.is_real.sum(dim=1).max()))

    def lay_out(self, root: int, num_places: int, states: ListStates, trees: Trees) -> Layout:
        """What the target reads, given the columns for pending tokens, and how many places of its cache it looks at."""
        batch, num_guessed = len(states.length), trees.num_places - 1
        tokens = torch.cat((_widened(states.pending, root), trees.token[:, 1:]), dim=1)
        column = torch.arange(root, device=trees.token.device).expand(batch, -1)
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
        places = length + torch.arange(root + num_guessed, device=trees.token.device)
        guessed = root + torch.arange(num_guessed, device=trees.token.device).expand(batch, -1)
        mask = cached_and(sees, length, num_places)
        return Layout(tokens, length + ahead, places, mask, torch.cat((last, guessed), dim=1))

    def decide(self, hidden: torch.Tensor, trees: Trees, lists: Lists) -> Accepted:
        """What a pass of the target makes certain, given what its head reads at each place, [batch, places, hidden]."""
        done = decide(self._index, self._code_heads, hidden, trees, lists, self._deepest(trees))
        return done if self._pads else replace(done, path=done.path[:, : int(done.num_path.max())])

    def keep(
        self,
        root: int,
        states: ListStates,
        trees: Trees,
        done: Accepted,
        of_pass: Sequence[torch.Tensor],
        *,
        is_drafted: bool,
    ) -> None:
        """Keep of a round what is certain.

        Args:
            root: columns of the pass before its guesses.
            states: of the first rows; they change in their place.
            trees: that were verified.
            done: what became of them.
            of_pass: hidden states of the pass that the draft's features are made of, each [batch, n, hidden].
            is_drafted: the draft has read the tokens that were certain before the pass.
        """
        self._keep(root, states, done)
        if self._drafter is not None:
            self._remember(root, states, done, of_pass)
        self._commit(states, trees, done, is_drafted)

    def summarize(self, states: ListStates) -> torch.Tensor:
        """See `ListStates.summary`."""
        return states.summary()

    def _deepest(self, trees: Trees) -> int:
        return min(self._widths.guessed, trees.num_places - 1)

    def _news(self, shape: RoundShape, states: ListStates) -> News:
        """What is new to the draft."""
        num_verified = states.length - states.start - states.num_read
        column = torch.arange(shape.news, device=num_verified.device).expand(len(num_verified), -1)
        split, read = num_verified.unsqueeze(1), states.num_read.unsqueeze(1)
        certain = torch.cat((states.tokens, states.pending), dim=1)
        places = torch.where(column < split, read + column, states.tokens.shape[1] + column - split)
        return News(
            tokens=certain.gather(1, places.clamp(max=certain.shape[1] - 1)),
            features=at(self.features[: len(num_verified)], read + torch.minimum(column, split)),
            num_verified=num_verified,
            num_tokens=num_verified + states.num_pending,
            begin=states.start + states.num_read,
            num_places=shape.draft_places,
            node=states.node,
            slot=self._index.node_depth[states.node],
            most_wanted=shape.wanted,
        )

    def _commit(self, states: ListStates, trees: Trees, done: Accepted, is_drafted: bool) -> None:
        """Have the states move on."""
        states.put(0, states.after(trees, done, is_round=True, is_drafted=is_drafted))

    def _keep(self, root: int, states: ListStates, done: Accepted) -> None:
        """Move the cache's entries of accepted guesses to where they belong."""
        if not done.path.shape[1]:
            return
        order = torch.arange(done.path.shape[1], device=done.path.device)
        length = states.length.unsqueeze(1)
        target = length + states.num_pending.unsqueeze(1) + order
        # Where a path has ended an entry stays where it is, in scratch.
        source = torch.where(order < done.num_path.unsqueeze(1), length + root - 1 + done.path, target)
        self._cache.keep(source, target)

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
        self.features[: len(places)].scatter_(1, places.unsqueeze(2).expand_as(kept), kept)


def _widened(values: torch.Tensor, width: int) -> torch.Tensor:
    """[batch, m] as [batch, width], cut or padded with 0."""
    return F.pad(values[:, :width], (0, max(0, width - values.shape[1])))


def cached_and(sees: torch.Tensor, length: torch.Tensor, num_places: int) -> torch.Tensor:
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
