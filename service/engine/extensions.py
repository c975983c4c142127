"""The ways to extend branches of a draft tree: by a code, by an item, or without the constraint."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional as F

from service.engine.branches import Branches, Lists, level_logits, next_choice
from service.engine.constraint import DEAD, NOT_ALLOWED, ROOT_NODE, FreeRows, TrieIndex, allowed_children
from service.engine.sampling import perturbed_log_softmax
from service.model.draft import Draft

_LEAST_SHARE = 1e-9  # what a code may have is a difference of sums, which are no more exact than that


class Extension(Protocol):
    """Makes the candidates of a pass."""

    most_tokens: int

    def __call__(
        self, step: int, branches: Branches, states: torch.Tensor, lists: Lists, count: int
    ) -> Branches:
        """The `count` best extensions of all branches of each list, best first.

        Args:
            step: of the guess, from 1.
            branches: [batch, n].
            states: the draft's norm(g) at their ends, [batch, n, hidden].
            lists: that they belong to.
            count: fewer are given where there are fewer.
        """
        ...


class ByCode:
    """One code, softmax over those that the trie allows; then all that is forced after it."""

    def __init__(self, index: TrieIndex, code_heads: torch.Tensor, draft: Draft) -> None:
        self.most_tokens = index.num_levels + 1
        self._index = index
        self._draft = draft
        self._code_heads = code_heads

    def __call__(
        self, step: int, branches: Branches, states: torch.Tensor, lists: Lists, count: int
    ) -> Branches:
        """See `Extension`."""
        index = self._index
        children, allowed = allowed_children(index, lists.rows, branches.node, branches.written)
        codes = index.node_code[children]
        scores = level_logits(states, self._code_heads, branches.slot).gather(-1, codes)
        ordinal = (lists.num_items.unsqueeze(1) + branches.num_written()) * index.num_levels + branches.slot
        noise = lists.sampling.at(ordinal)
        log_q = perturbed_log_softmax(
            scores,
            allowed,
            self._draft.sharpness(step, branches.slot),
            lists.sampling.temperature.unsqueeze(1),
            None if noise is None else noise.gather(-1, codes),
        )
        best, parent, which = _best(branches, lists, log_q, allowed, count)
        child = _of_parent(children, parent).gather(-1, which.unsqueeze(-1)).squeeze(-1)
        lone = _of_parent(allowed.sum(dim=-1), parent) == 1
        written = _of_parent(branches.written, parent)
        depth = _of_parent(branches.slot, parent) + 1
        first, end = next_choice(index, lists.rows, child, depth, written)
        return _extended(index, branches, best, parent, first, end, lone.unsqueeze(-1))


class ByItem:
    """The rest of an item at once: slot heads, joined along the paths of the trie; see `service.model.draft`.

    Attributes:
        vectors: v_item of all items, [num_items, rank].
        leaf_begin: int64 [num_items], the first row with each one's semantic ID.
    """

    def __init__(self, index: TrieIndex, code_heads: torch.Tensor, draft: Draft) -> None:
        self.most_tokens = index.num_levels + 1
        self._index = index
        self._draft = draft
        self.vectors = draft.item_vectors(code_heads, index.codes)
        self._all_rows = torch.arange(len(index.codes), device=code_heads.device)
        self._levels = [_Level.of(index, level) for level in range(index.num_levels)]
        leaves = index.path[:, -1]
        self._leaf = leaves - leaves.min()
        self.leaf_begin = index.node_begin[leaves]

    def __call__(
        self, step: int, branches: Branches, states: torch.Tensor, lists: Lists, count: int
    ) -> Branches:
        """See `Extension`."""
        index = self._index
        node = branches.node.unsqueeze(-1)
        allowed = (self._all_rows >= index.node_begin[node]) & (self._all_rows < index.node_end[node])
        # Of items that share an ID the first free one stands for all: they are the same tokens.
        leading = lists.rows.free & (
            lists.rows.before[:, :-1] == lists.rows.up_to(self.leaf_begin.expand(len(node), -1))
        )
        allowed &= leading.unsqueeze(1)
        # -1 is no row: it goes to a column of its own, past the last one.
        column = torch.where(branches.written < 0, len(self._all_rows), branches.written)
        allowed = F.pad(allowed, (0, 1)).scatter(2, column, False)[..., :-1]
        scores = self._draft.item_scores(states, self.vectors)
        sharpness = self._draft.sharpness(step, branches.slot)
        sampling = lists.sampling
        if sampling.noise is None:
            log_q = perturbed_log_softmax(scores, allowed, sharpness, sampling.temperature.unsqueeze(1), None)
        else:
            log_q = self._perturbed(scores, allowed, sharpness, branches, lists)
        best, parent, row = _best(branches, lists, log_q, allowed, count)
        path = index.path[row]
        written = _of_parent(branches.written, parent)
        num_left = lists.rows.count(index.node_begin[path], index.node_end[path], written.unsqueeze(2))
        lone = num_left[..., 1:] == num_left[..., :-1]
        slot = _of_parent(branches.slot, parent)
        place = slot.unsqueeze(-1) + torch.arange(index.num_levels, device=row.device)
        lone = lone.gather(-1, place.clamp(max=index.num_levels - 1))
        whole = torch.full_like(row, index.num_levels)
        return _extended(index, branches, best, parent, row, whole, lone)

    def _perturbed(
        self,
        scores: torch.Tensor,
        allowed: torch.Tensor,
        sharpness: torch.Tensor,
        branches: Branches,
        lists: Lists,
    ) -> torch.Tensor:
        """As `perturbed_log_softmax`, [batch, n, num_items]: code by code, as the target draws, and summed along paths.

        What the scores say of a code given those before it is a sum over the items below either. Where a code is the
        only one allowed it says nothing, and its noise does not count.
        """
        index, sampling = self._index, lists.sampling
        temperature = sampling.temperature[:, None, None]
        is_drawn = temperature > 0
        scale = torch.where(is_drawn, 1.0, sharpness.unsqueeze(-1))
        shares = torch.softmax(torch.where(allowed, scores * scale, NOT_ALLOWED), dim=-1)
        before = F.pad(torch.where(allowed, shares, 0.0).cumsum(dim=-1), (1, 0))
        num_allowed = F.pad(allowed.cumsum(dim=-1, dtype=torch.int32), (1, 0))
        item = lists.num_items.unsqueeze(1) + branches.num_written()
        log_mass = torch.zeros_like(before[..., :1])
        total = torch.zeros_like(log_mass)
        for level, nodes in enumerate(self._levels):
            is_open = num_allowed[..., nodes.end] > num_allowed[..., nodes.begin]
            mass = (before[..., nodes.end] - before[..., nodes.begin]).clamp_min(_LEAST_SHARE).log()
            noise = sampling.at(item * index.num_levels + level)
            assert noise is not None
            conditional = (mass - log_mass[..., nodes.parent]) / torch.where(is_drawn, temperature, 1.0)
            perturbed = torch.where(is_open, conditional + noise[..., nodes.code], NOT_ALLOWED)
            total = total[..., nodes.parent] + _log_softmax_of_children(
                perturbed, nodes.parent, log_mass.shape[-1]
            )
            log_mass = mass
        return torch.where(allowed, total[..., self._leaf], NOT_ALLOWED)


@dataclass(frozen=True, slots=True)
class _Level:
    """The nodes of the trie at one depth, in their order, [n].

    Attributes:
        begin, end: rows below each.
        parent: each one's, counted among the nodes of the level above.
        code: on the edge into each.
    """

    begin: torch.Tensor
    end: torch.Tensor
    parent: torch.Tensor
    code: torch.Tensor

    @classmethod
    def of(cls, index: TrieIndex, level: int) -> "_Level":
        """Those whose edge is a code of `level`."""
        (nodes,) = (index.node_depth == level + 1).nonzero(as_tuple=True)
        parent = index.path[index.node_begin[nodes], level]
        first = parent.min()  # nodes are numbered level by level
        return cls(index.node_begin[nodes], index.node_end[nodes], parent - first, index.node_code[nodes])


def _log_softmax_of_children(values: torch.Tensor, parent: torch.Tensor, num_parents: int) -> torch.Tensor:
    """Log-softmax of values [..., n] among those of the same parent, int64 [n]."""
    shape = (*values.shape[:-1], num_parents)
    parent = parent.expand_as(values)
    largest = values.new_full(shape, NOT_ALLOWED).scatter_reduce(-1, parent, values, "amax")
    centred = values - largest.gather(-1, parent)
    total = values.new_zeros(shape).scatter_add(-1, parent, centred.exp())
    return centred - total.gather(-1, parent).log()


class AnyToken:
    """Any token of the vocabulary, one at a time: the plain baseline without the constraint."""

    most_tokens = 1

    def __init__(self, index: TrieIndex, head: torch.Tensor, draft: Draft) -> None:
        self._index = index
        self._draft = draft
        self._head = head

    def __call__(
        self, step: int, branches: Branches, states: torch.Tensor, lists: Lists, count: int
    ) -> Branches:
        """See `Extension`; a branch that leaves the trie goes on, and is never accepted."""
        temperature = lists.sampling.temperature.unsqueeze(1).unsqueeze(-1)
        sharpness = self._draft.sharpness(step, torch.zeros_like(branches.slot)).unsqueeze(-1)
        scale = torch.where(temperature > 0, 1 / temperature, sharpness)
        scores = F.linear(states, self._head).float() * scale
        log_q = torch.log_softmax(scores, dim=-1)
        everything = torch.ones(1, 1, 1, dtype=torch.bool, device=states.device)
        best, parent, token = _best(branches, lists, log_q, everything, count)
        written = _of_parent(branches.written, parent)
        node, row = self._follow(branches, parent, token, written, lists.rows)
        column = (written >= 0).sum(dim=-1, keepdim=True)
        return Branches(
            parent=parent,
            log_probability=best,
            node=node,
            written=written.scatter(-1, column, row.unsqueeze(-1)),
            slot=(_of_parent(branches.slot, parent) + 1) % (self._index.num_levels + 1),
            row=row,
            tokens=token.unsqueeze(-1),
            nodes=node.unsqueeze(-1),
            length=torch.ones_like(token),
            forced=torch.zeros_like(token, dtype=torch.bool).unsqueeze(-1),
            end=_of_parent(branches.end, parent) + 1,
        )

    def _follow(
        self,
        branches: Branches,
        parent: torch.Tensor,
        token: torch.Tensor,
        written: torch.Tensor,
        rows: FreeRows,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The node after each token, and the row that it completes, -1 for none; all [batch, count]."""
        index = self._index
        node, slot = _of_parent(branches.node, parent), _of_parent(branches.slot, parent)
        children, exist = index.children(node.clamp(min=0))
        level = slot.clamp(max=index.num_levels - 1).unsqueeze(-1)
        fits = exist & (index.token_of[level, index.node_code[children]] == token.unsqueeze(-1))
        child = children.gather(-1, fits.long().argmax(dim=-1, keepdim=True)).squeeze(-1)
        begin, end = index.node_begin[child], index.node_end[child]
        is_code = (node >= 0) & (slot < index.num_levels) & fits.any(dim=-1)
        is_code &= rows.count(begin, end, written) > 0
        is_separator = (node >= 0) & (slot == index.num_levels) & (token == index.item_tokens[0, -1])
        first = rows.ends(begin, end, written)[..., 0]
        row = torch.where(is_code & (slot == index.num_levels - 1), first, -1)
        return torch.where(is_code, child, torch.where(is_separator, ROOT_NODE, DEAD)), row


def _best(
    branches: Branches, lists: Lists, log_q: torch.Tensor, allowed: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best of all extensions [batch, n, m]: joint log-probabilities, parents and which, each [batch, count]."""
    is_open = branches.num_written() < lists.num_wanted.unsqueeze(1)
    allowed = allowed & is_open.unsqueeze(-1)
    joint = torch.where(allowed, branches.log_probability.unsqueeze(-1) + log_q, 2 * NOT_ALLOWED).flatten(1)
    best, index = joint.topk(min(count, joint.shape[1]), dim=1)
    return best, index // log_q.shape[2], index % log_q.shape[2]


def _of_parent(values: torch.Tensor, parent: torch.Tensor) -> torch.Tensor:
    """Each new branch's parent's value, [batch, count, ...]."""
    index = parent.view(*parent.shape, *[1] * (values.ndim - 2)).expand(-1, -1, *values.shape[2:])
    return values.gather(1, index)


def _extended(
    index: TrieIndex,
    branches: Branches,
    log_probability: torch.Tensor,
    parent: torch.Tensor,
    row: torch.Tensor,
    end_depth: torch.Tensor,
    lone: torch.Tensor,
) -> Branches:
    """Branches that went on along the codes of `row` to `end_depth`; at L the item and its separator are written.

    `lone` says of the first tokens whether they were the only ones allowed; later ones are forced.
    """
    num_levels = index.num_levels
    slot = _of_parent(branches.slot, parent)
    written = _of_parent(branches.written, parent)
    complete = end_depth == num_levels
    length = end_depth - slot + complete.long()
    place = slot.unsqueeze(-1) + torch.arange(num_levels + 1, device=row.device)
    within = place.clamp(max=num_levels)
    tokens = index.item_tokens[row].gather(-1, within)
    # After the separator comes the root again, which is a path's first node.
    path = index.path[row]
    nodes = path.gather(-1, torch.where(place < num_levels, within + 1, 0).clamp(max=num_levels))
    forced = torch.ones_like(tokens, dtype=torch.bool)
    forced[..., : lone.shape[-1]] = lone
    column = (written >= 0).sum(dim=-1, keepdim=True)
    row = torch.where(complete, row, -1)
    next_slot = torch.where(complete, 0, end_depth)
    return Branches(
        parent=parent,
        log_probability=log_probability,
        node=path.gather(-1, next_slot.unsqueeze(-1)).squeeze(-1),
        written=written.scatter(-1, column, row.unsqueeze(-1)),
        slot=next_slot,
        row=row,
        tokens=tokens,
        nodes=nodes,
        length=length,
        forced=forced | (place >= num_levels),
        end=_of_parent(branches.end, parent) + length,
    )
