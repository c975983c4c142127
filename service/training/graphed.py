"""A loss in CUDA graphs: of a small model a GPU has computed each operation before the host asks for the next one."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_Loss = Callable[..., torch.Tensor]


class GraphedLoss:
    """A loss, which on a GPU is captured once for each shape of what it is asked of.

    The gradient is to be taken before the loss is asked for again, and `optimizer.zero_grad` to be called in between:
    graphs write where the last ones did.

    Args:
        model: whose parameters the loss depends on; in training mode.
        loss: a scalar, of tensors that need no gradient; waits for nothing on the device.
    """

    def __init__(self, model: nn.Module, loss: _Loss) -> None:
        self._model, self._loss = model, loss
        self._graphs: dict[tuple[torch.Size, ...], Any] = {}
        self._pool: Any = None

    def __call__(self, *tensors: torch.Tensor) -> torch.Tensor:
        """The loss of these tensors, on the model's device; shapes should be few."""
        if not _captures(tensors[0].device):
            return self._loss(*tensors)
        shapes = tuple(tensor.shape for tensor in tensors)
        if shapes not in self._graphs:
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            # Its inputs are the graph's from now on.
            samples = tuple(tensor.clone() for tensor in tensors)
            self._graphs[shapes] = torch.cuda.make_graphed_callables(
                _LossOf(self._model, self._loss), samples, pool=self._pool
            )
        found: torch.Tensor = self._graphs[shapes](*tensors)
        return found


def _captures(device: torch.device) -> bool:
    return device.type == "cuda"


class _LossOf(nn.Module):
    """What `make_graphed_callables` asks for: a module that owns the parameters and returns the loss."""

    def __init__(self, model: nn.Module, loss: _Loss) -> None:
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return self._loss(*tensors)
