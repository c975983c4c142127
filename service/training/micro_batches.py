"""Which sequences of a batch are read in one pass, so that little is padding, and what a GPU has of it all the same."""

import numpy as np
import numpy.typing as npt
import torch

IntArray = npt.NDArray[np.int64]


def micro_batches(lengths: IntArray, size: int) -> list[IntArray]:
    """Sequences of like length together, as many passes as if each read `size` of them, cut where padding is least.

    Args:
        lengths: in tokens, [batch], at least one.
        size: no pass reads more than so many of the longest would be.

    Returns:
        Indices of sequences, shortest first.
    """
    order = np.argsort(lengths, kind="stable")
    ends = lengths[order]
    most = size * ends[-1]
    count = -(-len(order) // size)
    # least[i]: tokens, padding included, of the first i sequences in so many passes; cuts: where the last one begins.
    place = np.arange(len(order) + 1)
    costs = (place[1:, None] - place[None, :-1]) * ends[:, None]  # of a pass from j up to i, [i - 1, j]
    costs = np.where((costs > 0) & (costs <= most), costs, np.inf)
    least = np.where(place == 0, 0.0, np.inf)
    cuts = []
    for _ in range(count):
        totals = least[None, :-1] + costs
        cuts.append(totals.argmin(axis=1))
        least = np.append(np.inf, totals.min(axis=1))
    parts, end = [], len(order)
    for cut in reversed(cuts):
        begin = int(cut[end - 1])
        parts.append(order[begin:end])
        end = begin
    return parts[::-1]


def rounded(count: int, device: torch.device, grain: int = 16) -> int:
    """How many to compute where there are so many: on a GPU a multiple of `grain`, so that shapes are few.

    There each new shape costs memory of its own and the choosing of kernels, more than a small model takes for padding.
    """
    return -(-count // grain) * grain if device.type == "cuda" else count


def with_room(tokens: IntArray, device: torch.device) -> IntArray:
    """Sequences, [n, length], with token 0 at their ends and sequences of it after them, up to what is `rounded`."""
    rows, columns = (rounded(count, device) for count in tokens.shape)
    return np.pad(tokens, ((0, rows - tokens.shape[0]), (0, columns - tokens.shape[1])))
