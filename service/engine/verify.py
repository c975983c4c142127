"""What the target makes of a tree: its choice at each place, and how far the tree goes along with it.

Acceptance is following the target's choices through the tree. Greedy, that is the longest path of guesses that the
target would have written itself. Sampled, a choice is the Gumbel-max draw of `sampling`: a draw from the target's
constrained distribution that depends on the request's seed and the place in the list alone.

Multi-candidate rejection sampling (SpecInfer, arXiv 2305.09781) tries one candidate after the other: it accepts x with
probability p(x) / q(x), else takes x out of p and tries the next. Our candidates are given, not drawn, so q(x) = 1, and
the procedure is the same as drawing once from p and accepting the candidate that was drawn, if it is there. So the
list is exact for any tree, and the same for every tree; and a draft that knows the noise makes its first candidate the
one most likely drawn (`perturbed_log_softmax`; Gumbel coupling, arXiv 2408.07978).
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from service.engine.branches import Lists, level_logits, next_choice
from service.engine.constraint import DEAD, NOT_ALLOWED, ROOT_NODE, TrieIndex, allowed_children
from service.engine.sampling import choose_batch
from service.engine.tree import Trees


@dataclass(frozen=True, slots=True)
class Choices:
    """The target's choice after each place of the trees, all [batch, n].

    Attributes:
        node: of the trie, int64; a leaf has no choice, and gets any.
        log_probability: among the allowed ones, at temperature 1, float32.
        is_lone: whether only one was allowed.
    """

    node: torch.Tensor
    log_probability: torch.Tensor
    is_lone: torch.Tensor


def choose(
    index: TrieIndex, code_heads: torch.Tensor, hidden: torch.Tensor, trees: Trees, lists: Lists
) -> Choices:
    """The target's choice after each place.

    Args:
        index: the trie.
        code_heads: rows of the target's head for each level's codes, [L, C, hidden].
        hidden: what the head reads, [batch, n, hidden].
        trees: [batch, n].
        lists: that they belong to.
    """
    nodes = trees.node.clamp(min=ROOT_NODE)
    depth = index.node_depth[nodes].clamp(max=index.num_levels - 1)
    children, allowed = allowed_children(index, lists.rows, nodes, trees.written)
    codes = index.node_code[children]
    logits = level_logits(hidden, code_heads, depth).gather(-1, codes)
    log_p = torch.log_softmax(torch.where(allowed, logits, NOT_ALLOWED), dim=-1)
    sampling = lists.sampling
    ordinal = (lists.num_items.unsqueeze(1) + (trees.written >= 0).sum(dim=-1)) * index.num_levels + depth
    noise = sampling.at(ordinal)
    if noise is None:
        chosen = log_p.argmax(dim=-1, keepdim=True)
    else:
        shape = depth.shape
        chosen = choose_batch(
            log_p,
            sampling.temperature.unsqueeze(1).expand(shape),
            sampling.top_p.unsqueeze(1).expand(shape),
            noise.gather(-1, codes),
        ).unsqueeze(-1)
    return Choices(
        children.gather(-1, chosen).squeeze(-1),
        log_p.gather(-1, chosen).squeeze(-1),
        allowed.sum(dim=-1) == 1,
    )


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a pass of the target made certain.

    Attributes:
        path: int64 [batch, most], places of the accepted tokens in their order, 0 on padding.
        num_path: int64 [batch].
        pending: int64 [batch, L + 1], the target's own choice and all that is forced after it, padded.
        num_pending: int64 [batch].
        node: int64 [batch], of the trie after the last of them.
        rows: int64 [batch, k], items completed, in their order, -1 on padding.
        log_scores: float32 [batch, k], what this pass adds to the log-probability of the item that was begun, and of
            the k - 1 after it.
        num_rows: int64 [batch], items completed.
        num_tokens: int64 [batch], tokens made certain, one for each separator.
        num_forced: int64 [batch], of them.
    """

    path: torch.Tensor
    num_path: torch.Tensor
    pending: torch.Tensor
    num_pending: torch.Tensor
    node: torch.Tensor
    rows: torch.Tensor
    log_scores: torch.Tensor
    num_rows: torch.Tensor
    num_tokens: torch.Tensor
    num_forced: torch.Tensor


def decide(
    index: TrieIndex, code_heads: torch.Tensor, hidden: torch.Tensor, trees: Trees, lists: Lists, most: int
) -> Accepted:
    """What a pass makes certain: `choose`, then `accept`, whose arguments these are."""
    return accept(index, trees, choose(index, code_heads, hidden, trees, lists), lists, most)


def accept(index: TrieIndex, trees: Trees, choices: Choices, lists: Lists, most: int) -> Accepted:
    """Follow the target through the trees.

    Args:
        index: the trie.
        trees: that were verified, [batch, n].
        choices: of the target.
        lists: that they belong to.
        most: at least as many tokens as any path of a tree has.
    """
    on_path = _on_path(index, trees, choices, lists)
    deepest, end = ((trees.depth + 1) * on_path).max(dim=1)
    path = _ordered(trees.depth - 1, on_path & (trees.depth > 0), _places(trees), most)

    # Items and their scores, in the order in which the path completes them; column k + 1 takes what is none.
    is_code = on_path & (trees.depth > 0) & (trees.slot < index.num_levels)
    completes = on_path & (trees.row >= 0)
    num_rows = completes.sum(dim=1)
    capacity = trees.written.shape[2] + 1
    before = (trees.sees & completes.unsqueeze(1)).sum(dim=2) - completes.long()
    rows = _ordered(before, completes, trees.row, capacity, -1)
    log_p = torch.where(is_code, choices.log_probability.gather(1, trees.parent), 0.0)
    log_scores = torch.zeros(len(path), capacity + 1, device=path.device)
    log_scores = log_scores.scatter_add(1, torch.where(is_code, before, capacity), log_p)
    is_lone = is_code & choices.is_lone.gather(1, trees.parent)
    num_tokens, num_forced = is_code.sum(dim=1), is_lone.sum(dim=1)

    # Where the path ends the target's own choice follows, unless the list or an item ends there.
    here = end.unsqueeze(1)
    node = trees.node.gather(1, here).squeeze(1)
    slot = index.node_depth[node]
    chooses = (slot < index.num_levels) & (num_rows < lists.num_wanted)
    chosen = torch.where(chooses, choices.node.gather(1, here).squeeze(1), node)
    taken = F.pad(rows, (0, 1), value=-1)
    first, certain = next_choice(
        index, lists.rows, chosen.unsqueeze(1), (slot + chooses).unsqueeze(1), taken.unsqueeze(1)
    )
    first, certain = first.squeeze(1), torch.where(chooses, certain.squeeze(1), slot)
    ends_item = chooses & (certain == index.num_levels)
    column = torch.where(ends_item, num_rows, capacity).unsqueeze(1)
    rows = taken.scatter(1, column, torch.where(ends_item, first, -1).unsqueeze(1))
    log_p = torch.where(chooses, choices.log_probability.gather(1, here).squeeze(1), 0.0)
    log_scores = log_scores.scatter_add(1, num_rows.unsqueeze(1), log_p.unsqueeze(1))
    lone = chooses & choices.is_lone.gather(1, here).squeeze(1)
    num_rows = num_rows + ends_item
    num_chosen = torch.where(chooses, certain - slot, 0)

    goes_on = num_rows < lists.num_wanted
    has_separator = (certain == index.num_levels) & goes_on
    place = slot.unsqueeze(1) + torch.arange(index.num_levels + 1, device=path.device)
    pending = index.item_tokens[first].gather(1, place.clamp(max=index.num_levels))
    next_node = torch.where(
        certain == index.num_levels, ROOT_NODE, index.path[first].gather(1, certain.unsqueeze(1)).squeeze(1)
    )
    return Accepted(
        path=path,
        num_path=deepest - 1,
        pending=pending,
        num_pending=num_chosen + has_separator,
        node=next_node,
        rows=rows,
        log_scores=log_scores,
        num_rows=num_rows,
        num_tokens=num_tokens + num_chosen + num_rows,
        num_forced=num_forced + lone + (num_chosen - 1).clamp(min=0) + num_rows,
    )


def _on_path(index: TrieIndex, trees: Trees, choices: Choices, lists: Lists) -> torch.Tensor:
    """Which places the target goes through, the root included, bool [batch, n]."""
    is_separator = trees.slot == index.num_levels
    as_chosen = (trees.node != DEAD) & (trees.node == choices.node.gather(1, trees.parent))
    # A list has no separator after its last item.
    num_rows = (trees.sees & (trees.row >= 0).unsqueeze(1)).sum(dim=2)
    separates = (trees.node == ROOT_NODE) & (num_rows < lists.num_wanted.unsqueeze(1))
    follows = trees.is_real & torch.where(is_separator, separates, as_chosen)
    follows[:, 0] = True
    return ~(trees.sees & ~follows.unsqueeze(1)).any(dim=2)


def _places(trees: Trees) -> torch.Tensor:
    return torch.arange(trees.num_places, device=trees.token.device).expand_as(trees.token)


def _ordered(
    order: torch.Tensor, counts: torch.Tensor, values: torch.Tensor, most: int, padding: int = 0
) -> torch.Tensor:
    """Those of the values [batch, n] that count, at the columns that `order` gives them, [batch, most]."""
    column = torch.where(counts, order, most)
    ordered = values.new_full((len(values), most + 1), padding)
    return ordered.scatter(1, column, values)[:, :most].contiguous()
