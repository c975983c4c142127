"""Numbers on their way to the device."""

from collections.abc import Iterable

import torch


def sent(numbers: Iterable[int], device: torch.device) -> torch.Tensor:
    """Int64 [n] on the device; the host does not wait until they are there, nor for anything before them."""
    host = torch.tensor(list(numbers), dtype=torch.int64, pin_memory=device.type == "cuda")
    return host.to(device, non_blocking=True)
