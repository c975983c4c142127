"""Numbers on their way to the device."""

from collections.abc import Iterable
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
