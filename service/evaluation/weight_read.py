"""The least that a pass of the target can take: reading its weights once from the device's memory."""

import torch

from service.evaluation.timing import median_seconds

_MOST_BYTES = 1 << 30  # of what is copied; far more than any cache holds
_REPEATS = 10


def weight_read_seconds(num_bytes: int, device: torch.device) -> float:
    """What reading so many bytes takes, as fast as this device copies: a copy reads each once and writes it once."""
    count = min(num_bytes, _MOST_BYTES)
    source = torch.zeros(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copying = median_seconds(lambda: target.copy_(source), device, _REPEATS)
    return copying / 2 * num_bytes / count
