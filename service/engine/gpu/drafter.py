"""`Drafter.grow` for greedy lists of a draft that guesses items."""

import torch
from torch.nn import functional as F

from service.engine.branches import Branches, Lists
from service.engine.constraint import TrieIndex
from service.engine.drafter import Drafter
from service.engine.extensions import ByItem
from service.engine.gpu.extensions import Candidates, can_extend, extend_by_item
from service.engine.gpu.inputs import NewTokens, Position, news_features, place_branches, place_news
from service.engine.gpu.tree import grow
from service.engine.shapes import RoundShape
from service.engine.states import ListStates
from service.engine.tree import Trees, TreeShape


class KernelDrafter:
    """Reads and writes the cache of a drafter.

    Args:
        drafter: of a draft that guesses items.
        extension: the drafter's.
        index: the trie on the device.
    """

    def __init__(self, drafter: Drafter, extension: ByItem, index: TrieIndex) -> None:
        self._drafter, self._extension, self._index = drafter, extension, index
        draft = drafter.draft
        # A product whose rows are not aligned takes twice as long.
        padding = -len(extension.vectors) % 8
        self._vectors = F.pad(extension.vectors, (0, 0, 0, padding)) if padding else extension.vectors
        module, config = draft.position, draft.config
        of_slots = module.alpha * module.item_slot if module.knows_slot else None
        gate = (module.gate.weight[0], module.gate.bias) if module.knows_step else None
        self._positions = [
            Position(of_slots, module.step[step] if module.knows_step else None, gate)
            for step in range(config.max_steps)
        ]

    def can_grow(self, tree: TreeShape, lists: Lists) -> bool:
        """Whether it can; else `Drafter.grow` does."""
        return lists.sampling.noise is None and can_extend(lists.rows.free.shape[1], tree.num_candidates)

    def grow(
        self,
        tree: TreeShape,
        shape: RoundShape,
        num_lists: torch.Tensor,
        states: ListStates,
        features: torch.Tensor,
        lists: Lists,
    ) -> Trees:
        """The tree of each list.

        Args:
            tree: how much to guess.
            shape: of the round.
            num_lists: int64 [1], in flight.
            states: of the first rows.
            features: of all rows, [rows, places, hidden].
            lists: of the same rows.
        """
        drafter, index, inputs = self._drafter, self._index, self._drafter.tokens
        batch, num_places = len(states.length), shape.draft_places
        num_passes, width = min(tree.num_passes, shape.wanted), min(tree.width, tree.num_candidates)
        most_written, most_tokens = tree.num_passes + 1, self._extension.most_tokens
        found = Candidates(batch, num_passes, tree.num_candidates, most_written, most_tokens, features.device)
        slot = index.node_depth[states.node]
        branches = Branches.start(
            *(values.unsqueeze(1) for values in (states.node, slot, states.length + states.num_pending)),
            most_written=most_written,
            most_tokens=most_tokens,
        )
        new = NewTokens.of(num_lists, states, shape.news, num_places)
        told = F.linear(news_features(features, states, new, *inputs.norm), inputs.of_feature)
        placed = place_news(told, inputs, self._positions[0], index, states, new)
        context, end = placed.mask, num_places
        drafter.cache.reserve(batch, num_places + drafter.num_scratch_places)
        drafter.cache.begin_pass(slice(0, batch), placed.positions, num_places)
        state = drafter.read(placed)
        self._extend(1, branches, state, lists, found)
        for step in range(1, num_passes):
            position = self._positions[min(step, len(self._positions) - 1)]
            told = inputs.of_features(state)
            placed = place_branches(step, told, inputs, position, found, width, context)
            begin, end = end, placed.mask.shape[2]
            places = torch.arange(begin, end, device=told.device).expand(batch, -1).contiguous()
            drafter.cache.begin_pass(slice(0, batch), places, end)
            state = drafter.read(placed)
            self._extend(step + 1, found.of_pass(step - 1).first(width), state, lists, found)
        least, num_slots = tree.least_log_probability, index.num_levels + 1
        return grow(found, (states.node, slot), tree.num_places, least, num_slots)

    def _extend(
        self, step: int, branches: Branches, state: torch.Tensor, lists: Lists, found: Candidates
    ) -> None:
        """The candidates of a pass, from 1, into their place."""
        draft = self._drafter.draft
        extend_by_item(
            self._index,
            F.linear(draft.item_query(state), self._vectors),
            draft.log_sharpness_of(step),
            self._extension.leaf_begin,
            branches,
            lists,
            found.of_pass(step - 1),
        )
