"""What the target chooses at each place of a tree, under the constraint.

Acceptance is following these choices through the tree (`Flight.accept`). Greedy, that is the longest path of guesses
that the target would have written itself. Sampled, a choice is the Gumbel-max draw of `sampling`: a draw from the
target's constrained distribution that depends on the request's seed and the place in the list alone.

Multi-candidate rejection sampling (SpecInfer, arXiv 2305.09781) tries one candidate after the other: it accepts x with
probability p(x) / q(x), else takes x out of p and tries the next. Our candidates are given, not drawn, so q(x) = 1, and
the procedure is the same as drawing once from p and accepting the candidate that was drawn, if it is there. So the
list is exact for any tree, and the same for every tree; and a draft that knows the noise makes its first candidate the
one most likely drawn (`perturbed_log_softmax`; Gumbel coupling, arXiv 2408.07978).
"""

import torch

from service.engine.branches import Lists, level_logits
from service.engine.constraint import NOT_ALLOWED, TrieIndex, allowed_children
from service.engine.sampling import choose_batch


def choose_nodes(
    index: TrieIndex,
    code_heads: torch.Tensor,
    hidden: torch.Tensor,
    nodes: torch.Tensor,
    written: torch.Tensor,
    lists: Lists,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The target's choice after each place.

    Args:
        index: the trie.
        code_heads: rows of the target's head for each level's codes, [L, C, hidden].
        hidden: what the head reads, [batch, places, hidden].
        nodes: of the trie, where each place stands, int64 [batch, places]; a leaf has no choice, and gets any.
        written: rows of items completed on the way to each place, int64 [batch, places, k], -1 on padding.
        lists: that the trees belong to.

    Returns:
        Nodes int64 [batch, places], and their probability among the allowed ones, at temperature 1, [batch, places].
    """
    depth = index.node_depth[nodes].clamp(max=index.num_levels - 1)
    children, allowed = allowed_children(index, lists.rows, nodes, written)
    codes = index.node_code[children]
    logits = level_logits(hidden, code_heads, depth).gather(-1, codes)
    log_p = torch.log_softmax(torch.where(allowed, logits, NOT_ALLOWED), dim=-1)
    sampling = lists.sampling
    ordinal = (lists.num_items.unsqueeze(1) + (written >= 0).sum(dim=-1)) * index.num_levels + depth
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
    return children.gather(-1, chosen).squeeze(-1), log_p.gather(-1, chosen).squeeze(-1).exp()
