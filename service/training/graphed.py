"""A gradient in CUDA graphs: of a small model a GPU has computed each operation before the host asks for the next."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from service.model.capture import Graph, capture_on


class GraphedGradient:
    """The gradient of a loss; on a GPU it is captured once for each shape of what the loss is asked of.

    Args:
        model: whose parameters the loss depends on, each of them; on its device.
        loss: a scalar, of tensors that need no gradient; waits for nothing on the device.
    """

    def __init__(self, model: nn.Module, loss: Callable[..., torch.Tensor]) -> None:
        self._parameters = list(model.parameters())
        self._loss_of = loss
        # What graphs write into stands where it stood, and so do the inputs that each reads.
        self._gradients = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._loss = torch.zeros((), device=self._parameters[0].device)
        self._graphs: dict[tuple[torch.Size, ...], tuple[list[torch.Tensor], Graph]] = {}
        self._capture = capture_on(self._loss.device)

    def __call__(self, *tensors: torch.Tensor) -> torch.Tensor:
        """The loss of these tensors, whose gradient is in the parameters' `grad` then, in place of what was there.

        Both are overwritten when it is asked for again. Tensors are on the model's device; shapes should be few.
        """
        self._compute(tensors)
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._loss

    def _compute(self, tensors: tuple[torch.Tensor, ...]) -> None:
        if self._capture is None:
            self._gather(tensors)
            return
        shapes = tuple(tensor.shape for tensor in tensors)
        if shapes in self._graphs:
            inputs, graph = self._graphs[shapes]
            for place, tensor in zip(inputs, tensors, strict=True):
                place.copy_(tensor)
            graph.replay()
            return
        inputs = [tensor.clone() for tensor in tensors]
        self._gather(inputs)  # which makes ready what a capture must not
        self._graphs[shapes] = inputs, self._capture(lambda: self._gather(inputs))

    def _gather(self, tensors: Sequence[torch.Tensor]) -> None:
        loss = self._loss_of(*tensors)
        torch._foreach_copy_(self._gradients, list(torch.autograd.grad(loss, self._parameters)))
        self._loss.copy_(loss.detach())
