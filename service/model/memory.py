"""Whether what is asked for fits into the memory that is there."""

import os
from collections.abc import Mapping

import torch

from service.errors import InputError

# Of the memory that is there; the rest is for what passes need while they run.
_FOR_CACHES = 0.9
_GIB = 1 << 30


def memory_of(device: torch.device) -> int:
    """Bytes that are free on a GPU; on a CPU all that the machine has, as much of what is in use can make way."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(parts: Mapping[str, int], device: torch.device, advice: str) -> None:
    """Check that these parts fit.

    Args:
        parts: bytes that each takes, by what it is.
        device: where.
        advice: what to change where they do not.

    Raises:
        InputError: they do not; with the arithmetic.
    """
    available, needed = memory_of(device), sum(parts.values())
    if needed <= available * _FOR_CACHES:
        return
    sums = " + ".join(f"{count / _GIB:.1f} GiB for {what}" for what, count in parts.items())
    raise InputError(
        f"{sums} are more than {_FOR_CACHES:.0%} of the {available / _GIB:.1f} GiB that are there; {advice}"
    )
