"""The steps of a round in kernels of Triton."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from service.engine.branches import Lists
from service.engine.constraint import FreeRows
from service.engine.extensions import ByItem
from service.engine.gpu.commit import begin, commit, keep, pack, remember, summarize
from service.engine.gpu.drafter import KernelDrafter
from service.engine.gpu.free_rows import free_before
from service.engine.gpu.layout import lay_out
from service.engine.gpu.verify import decide
from service.engine.incoming import Arrivals
from service.engine.sampling import Sampling
from service.engine.shapes import RoundShape
from service.engine.states import ListStates, Result
from service.engine.steps import Layout, Steps
from service.engine.target_pass import Reading
from service.engine.tree import Trees, TreeShape
from service.engine.verify import Accepted


class KernelSteps(Steps):
    """As `Steps`, and where a list is sampled or a draft guesses code by code, by way of them."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        # Of finished lists; of the others, of anything. Memory of the host, which kernels write to.
        like = self._states.packed(torch.arange(len(self.features), device=self.features.device))
        self._packed = torch.zeros(like.shape, dtype=like.dtype, pin_memory=like.is_cuda)
        self._grows: KernelDrafter | None = None
        if self._drafter is not None and isinstance(self._drafter.extension, ByItem):
            self._grows = KernelDrafter(self._drafter, self._drafter.extension, self._index)

    def lists(
        self, free: torch.Tensor, num_items: torch.Tensor, limit: torch.Tensor, sampling: Sampling
    ) -> Lists:
        """See `Steps`."""
        rows = free[:, :-1]
        return Lists(FreeRows(rows, free_before(rows)), sampling, num_items, limit - num_items)

    def begin(self, incoming: Arrivals, done: Accepted) -> None:
        """See `Steps`."""
        begin(self._states, incoming, done)

    def lay_out(self, num_tokens: int, num_places: int, states: ListStates, trees: Trees) -> Layout:
        """See `Steps`."""
        return lay_out(num_tokens, num_places, self.num_lists, states, trees)

    def decide(self, hidden: torch.Tensor, asked: torch.Tensor, trees: Trees, lists: Lists) -> Accepted:
        """See `Steps`."""
        if lists.sampling.noise is not None:
            return super().decide(hidden, asked, trees, lists)
        logits = F.linear(hidden, self._code_heads.flatten(0, 1))
        return decide(self._index, logits, asked, trees, lists, self._deepest(trees))

    def tell(self, summary: torch.Tensor, rows: torch.Tensor | None) -> None:
        """See `Steps`."""
        summarize(self._states, summary)
        pack(self._states, self._packed, self.num_lists, rows)

    def results(self, which: list[int]) -> list[Result]:
        """See `Steps`."""
        return self._states.unpack(self._packed[which])

    def _grow(self, tree: TreeShape, shape: RoundShape, states: ListStates, lists: Lists) -> Trees:
        if self._grows is None or not self._grows.can_grow(tree, lists):
            return super()._grow(tree, shape, states, lists)
        return self._grows.grow(tree, shape, self.num_lists, states, self.features, lists)

    def _keep(self, states: ListStates, done: Accepted) -> None:
        keep(self._cache.data, states, done)

    def _remember(
        self, read: Reading, states: ListStates, done: Accepted, of_pass: Sequence[torch.Tensor]
    ) -> None:
        assert self._drafter is not None
        if self._drafter.draft.config.features == "last":
            remember(self.features, read.spans.begin, states, done, of_pass[-1])
        else:
            super()._remember(read, states, done, of_pass)

    def _commit(self, states: ListStates, trees: Trees, done: Accepted, is_drafted: bool) -> None:
        commit(states, trees, done, is_drafted=is_drafted)
