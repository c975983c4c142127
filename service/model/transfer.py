"""Numbers on their way to the device."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


def sent(numbers: npt.NDArray[Any] | Iterable[int], device: torch.device) -> torch.Tensor:
    """An array, or integers as int64 [n], on the device; the host does not wait until they are there, nor for
    anything before them.
    """
    array = numbers if isinstance(numbers, np.ndarray) else np.array(list(numbers), dtype=np.int64)
    host = torch.as_tensor(np.ascontiguousarray(array))  # else a copy is made that is not pinned
    return host if device.type == "cpu" else host.pin_memory().to(device, non_blocking=True)


def sent_together(*integers: Sequence[int], device: torch.device) -> tuple[torch.Tensor, ...]:
    """As many integers each time, in one go, which takes as long as for one; int64 [n] each.

    Kernels are compiled anew for memory that does not begin at a multiple of 16 bytes, so these do.
    """
    count = len(integers[0])
    numbers = np.zeros((len(integers), count + count % 2), dtype=np.int64)
    numbers[:, :count] = integers
    return sent(numbers, device)[:, :count].unbind()
