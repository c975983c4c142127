"""`Drafter.grow` for greedy lists of a draft that guesses items."""

import math

import torch
from torch.nn import functional as F

from service.engine.branches import Branches, Lists
from service.engine.constraint import NOT_ALLOWED, TrieIndex
from service.engine.drafter import Drafter
from service.engine.extensions import ByItem
from service.engine.gpu.inputs import Position, news_features, place_branches, place_news
from service.engine.gpu.trees import Candidates, can_extend, extend_by_item, grow
from service.engine.shapes import RoundShape
from service.engine.states import ListStates
from service.engine.tree import Trees, TreeShape
from service.model.kernels import rms_norm


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
        states: ListStates,
        features: torch.Tensor,
        lists: Lists,
    ) -> Trees:
        """The tree of each list.

        Args:
            tree: how much to guess.
            shape: of the round.
            states: of the first rows.
            features: of all rows, [rows, places, hidden].
            lists: of the same rows.
        """
        num_places = shape.draft_places
        drafter, index, tokens = self._drafter, self._index, self._drafter.tokens
        batch, num_passes = len(states.length), min(tree.num_passes, shape.wanted)
        found = Candidates(
            batch,
            num_passes,
            tree.num_candidates,
            tree.num_passes + 1,
            self._extension.most_tokens,
            features.device,
        )
        slot = index.node_depth[states.node]
        branches = Branches.start(
            *(values.unsqueeze(1) for values in (states.node, slot, states.length + states.num_pending)),
            most_written=tree.num_passes + 1,
            most_tokens=self._extension.most_tokens,
        )
        normed = news_features(features, states, shape.news, *tokens.norm)
        u, positions, last, context = place_news(
            F.linear(normed, tokens.of_feature),
            tokens.of_token,
            tokens.row,
            self._positions[0],
            index,
            states,
            num_places,
        )
        drafter.cache.reserve(batch, num_places + drafter.num_scratch_places)
        drafter.cache.begin_pass(slice(0, batch), positions, num_places)
        state = drafter.read(u, positions, last, context)
        self._extend(1, branches, state, lists, found)
        for step in range(1, num_passes):
            width = min(tree.width, tree.num_candidates)
            u, positions, last, mask = place_branches(
                step,
                F.linear(rms_norm(state, *tokens.norm), tokens.of_feature),
                tokens.of_token,
                tokens.row,
                self._positions[min(step, len(self._positions) - 1)],
                found,
                width,
                context,
            )
            begin = num_places + (step - 1) * u.shape[1]
            places = torch.arange(begin, begin + u.shape[1], device=u.device).repeat(batch, 1)
            drafter.cache.begin_pass(slice(0, batch), places, mask.shape[2])
            state = drafter.read(u, positions, last, mask)
            self._extend(step + 1, found.of_pass(step - 1).first(width), state, lists, found)
        least = math.log(tree.min_probability) if tree.min_probability else NOT_ALLOWED / 2
        return grow(found, (states.node, slot), tree.num_places, least, index.num_levels + 1)

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
