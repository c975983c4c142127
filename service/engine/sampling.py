"""Choosing a token. Randomness is a request's own: draw n of a list depends on its seed and n, not on its batch."""

import numpy as np
import numpy.typing as npt
import torch


def uniforms(seed: int, count: int) -> npt.NDArray[np.float64]:
    """The draws of a request, in [0, 1): one for each code token of its list, [count]."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def choose(probabilities: torch.Tensor, temperature: float, top_p: float, draw: float) -> int:
    """The index of the chosen token among the allowed ones; the slow twin of `choose_batch`.

    Args:
        probabilities: the target's, over the allowed tokens, [num_allowed].
        temperature: 0 takes the most probable.
        top_p: keep the fewest most probable tokens whose probabilities sum to this.
        draw: a uniform number in [0, 1).
    """
    if temperature == 0:
        return int(probabilities.argmax())
    log_probabilities = torch.log(probabilities)
    # Less the largest, so that the best token stays finite at any temperature.
    tempered = torch.softmax((log_probabilities - log_probabilities.max()) / temperature, dim=-1)
    order = torch.argsort(tempered, descending=True, stable=True)
    before = torch.cumsum(tempered[order], dim=-1) - tempered[order]
    num_kept = max(1, int((before < top_p).sum()))
    kept = order[:num_kept]
    cumulative = torch.cumsum(tempered[kept], dim=-1)
    index = int(torch.searchsorted(cumulative, draw * cumulative[-1], right=True))
    return int(kept[min(index, len(kept) - 1)])


def choose_batch(
    log_probabilities: torch.Tensor, temperature: torch.Tensor, top_p: torch.Tensor, draws: torch.Tensor
) -> torch.Tensor:
    """The index of each list's chosen token.

    Args:
        log_probabilities: over each list's allowed tokens, -inf on padding, [batch, most_allowed].
        temperature: [batch]; 0 takes the most probable.
        top_p: [batch].
        draws: uniform numbers in [0, 1), [batch].

    Returns:
        Indices into the second dimension, int64 [batch].
    """
    greedy = log_probabilities.argmax(dim=-1)
    sampled_lists = temperature > 0
    if not bool(sampled_lists.any()):
        return greedy
    divisor = torch.where(sampled_lists, temperature, 1.0).unsqueeze(-1)
    best = log_probabilities.amax(dim=-1, keepdim=True)
    tempered = torch.softmax((log_probabilities - best) / divisor, dim=-1)
    ordered, order = torch.sort(tempered, dim=-1, descending=True, stable=True)
    before = torch.cumsum(ordered, dim=-1) - ordered
    kept = before < top_p.unsqueeze(-1)
    kept[:, 0] = True
    ordered = torch.where(kept, ordered, 0.0)
    cumulative = torch.cumsum(ordered, dim=-1)
    threshold = draws.to(cumulative.dtype).unsqueeze(-1) * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, threshold, right=True)
    last_kept = (ordered > 0).sum(dim=-1, keepdim=True) - 1
    sampled = order.gather(-1, torch.minimum(index, last_kept)).squeeze(-1)
    return torch.where(sampled_lists, sampled, greedy)
