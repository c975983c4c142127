"""Choosing a token, greedily or by Gumbel-max: the token with the largest log p + noise is a draw from p.

The noise is a request's own: that of code n of a list depends on the request's seed and n, never on the batch. So a
sampled list is as reproducible as a greedy one. A draft that adds the same noise to its own log-probabilities guesses
the very token that the target will draw, as far as it knows the target's distribution.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from service.engine.constraint import NOT_ALLOWED
from service.types import DecodeRequest

FloatArray = npt.NDArray[np.float32]


@dataclass(slots=True)
class Sampling:
    """How the lists of a batch choose.

    Attributes:
        temperature: float32 [batch], 0 for greedy lists.
        top_p: float32 [batch].
        noise: float32 [batch, code positions, C], 0 for greedy lists; None where all are greedy.
    """

    temperature: torch.Tensor
    top_p: torch.Tensor
    noise: torch.Tensor | None

    @classmethod
    def buffers(cls, max_batch: int, device: torch.device) -> "Sampling":
        """Rows for so many lists, for now of greedy ones."""
        return cls(torch.zeros(max_batch, device=device), torch.ones(max_batch, device=device), None)

    def first(self, count: int, *, with_noise: bool) -> "Sampling":
        """The first lists, as views; without noise where none of them needs it."""
        noise = None if self.noise is None or not with_noise else self.noise[:count]
        return Sampling(self.temperature[:count], self.top_p[:count], noise)

    def select(self, rows: torch.Tensor, *, with_noise: bool) -> "Sampling":
        """The lists in these rows, int64 [n]."""
        noise = None if self.noise is None or not with_noise else self.noise[rows]
        return Sampling(self.temperature[rows], self.top_p[rows], noise)

    def put(self, rows: torch.Tensor, temperature: torch.Tensor, top_p: torch.Tensor) -> None:
        """Write how new lists choose, float32 [n] each, into these rows, int64 [n]."""
        self.temperature[rows], self.top_p[rows] = temperature, top_p

    def put_noise(self, begin: int, noise: torch.Tensor | None, num_lists: int, num_positions: int) -> None:
        """Write the noise of new lists, as `noise_of` has it, into rows with room for so many codes."""
        rows = slice(begin, begin + num_lists)
        if noise is not None:
            if self.noise is None:  # a service that is never asked to sample never pays for it
                shape = (len(self.temperature), num_positions, noise.shape[2])
                self.noise = torch.zeros(shape, device=self.temperature.device)
            self.noise[rows, : noise.shape[1]] = noise.to(self.noise.device)
        elif self.noise is not None:
            self.noise[rows] = 0.0

    def parts(self) -> list[torch.Tensor]:
        """All tensors."""
        return [part for part in (self.temperature, self.top_p, self.noise) if part is not None]

    def at(self, ordinal: torch.Tensor) -> torch.Tensor | None:
        """The noise of code positions, [batch, n, C]; positions [batch, n] past a list's end are some other's."""
        if self.noise is None:
            return None
        index = ordinal.clamp(max=self.noise.shape[1] - 1).unsqueeze(-1)
        return self.noise.gather(1, index.expand(-1, -1, self.noise.shape[2]))


def noise_of(requests: Sequence[DecodeRequest], num_levels: int, num_codes: int) -> torch.Tensor | None:
    """The noise of new lists, of `num_levels` codes per item and at most `num_codes` at each level, on the host.

    As `Sampling.noise`; 0 past a list's end.
    """
    if all(request.temperature == 0 for request in requests):
        return None
    longest = max(request.num_items for request in requests) * num_levels
    noise = torch.zeros(len(requests), longest, num_codes)
    for of_list, request in zip(noise, requests, strict=True):
        if request.temperature > 0:
            count = request.num_items * num_levels
            of_list[:count] = torch.as_tensor(gumbel_noise(request.seed, count, num_codes))
    return noise


def gumbel_noise(seed: int, count: int, num_codes: int) -> FloatArray:
    """Standard Gumbel noise for each of `count` code positions of a list and each code, [count, num_codes]."""
    uniform = np.random.Generator(np.random.Philox(key=seed)).random((count, num_codes))
    return -np.log(-np.log(np.maximum(uniform, np.finfo(np.float64).tiny))).astype(np.float32)


def choose(probabilities: torch.Tensor, temperature: float, top_p: float, noise: torch.Tensor) -> int:
    """The index of the chosen token among the allowed ones; the slow twin of `choose_batch`.

    Args:
        probabilities: the target's, over the allowed tokens, [num_allowed].
        temperature: 0 takes the most probable.
        top_p: keep the fewest most probable tokens whose probabilities sum to this.
        noise: Gumbel noise of the allowed tokens, [num_allowed].
    """
    if temperature == 0:
        return int(probabilities.argmax())
    log_probabilities = torch.log(probabilities)
    # Less the largest, so that the best token stays finite at any temperature.
    tempered = torch.softmax((log_probabilities - log_probabilities.max()) / temperature, dim=-1)
    order = torch.argsort(tempered, descending=True, stable=True)
    before = torch.cumsum(tempered[order], dim=-1) - tempered[order]
    kept = order[: max(1, int((before < top_p).sum()))]
    return int(kept[(torch.log(tempered[kept]) + noise[kept]).argmax()])


def choose_batch(
    log_probabilities: torch.Tensor, temperature: torch.Tensor, top_p: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """The index of the chosen token at each place.

    Args:
        log_probabilities: over a place's tokens, float32 [..., n]; `NOT_ALLOWED` or less where there is none.
        temperature: [...]; 0 takes the most probable.
        top_p: [...].
        noise: Gumbel noise, [..., n].

    Returns:
        Indices into the last dimension, int64 [...].
    """
    greedy = log_probabilities.argmax(dim=-1)
    sampled_lists = temperature > 0
    divisor = torch.where(sampled_lists, temperature, 1.0).unsqueeze(-1)
    best = log_probabilities.amax(dim=-1, keepdim=True)
    tempered = torch.softmax((log_probabilities - best) / divisor, dim=-1)
    ordered, order = torch.sort(tempered, dim=-1, descending=True, stable=True)
    before = torch.cumsum(ordered, dim=-1) - ordered
    kept = before < top_p.unsqueeze(-1)
    kept[..., 0] = True
    perturbed = torch.log(ordered) + noise.gather(-1, order)
    # What is impossible stays so: its logarithm is -inf. A lone impossible place takes its first token.
    best_kept = torch.where(kept, perturbed, -torch.inf).argmax(dim=-1, keepdim=True)
    sampled = order.gather(-1, best_kept).squeeze(-1)
    return torch.where(sampled_lists, sampled, greedy)


def perturbed_log_softmax(
    scores: torch.Tensor,
    allowed: torch.Tensor,
    sharpness: torch.Tensor,
    temperature: torch.Tensor,
    noise: torch.Tensor | None,
) -> torch.Tensor:
    """Log-probabilities by which a draft ranks candidates.

    Greedy, they are those that the target writes the candidate. Sampled, the target's choice is certain once its noise
    is known; the perturbed scores rank the candidates as that choice would if draft and target agreed, and by how much
    one leads says how likely they are to. `top_p` is left to the target.

    Args:
        scores: the draft's, float32 [..., n].
        allowed: bool [..., n].
        sharpness: of the scores where a list is greedy, [...].
        temperature: [...], 0 for greedy lists.
        noise: Gumbel noise [..., n], 0 for greedy lists; None: all lists are greedy.
    """
    if noise is None:
        scores = scores * sharpness.unsqueeze(-1)
    else:
        scores = scores * torch.where(temperature > 0, 1 / temperature, sharpness).unsqueeze(-1) + noise
    return torch.log_softmax(torch.where(allowed, scores, NOT_ALLOWED), dim=-1)
