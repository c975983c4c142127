"""Models as they serve: of one precision, and nothing of them learns."""

from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def copy_for_inference(model: Model, dtype: torch.dtype) -> Model:
    """A copy of a model that is being trained, as it would be loaded from its checkpoint."""
    return for_inference(deepcopy(model), dtype)


def for_inference(model: Model, dtype: torch.dtype) -> Model:
    """The model itself, changed in place."""
    for parameter in model.parameters():  # not the buffers: rotations need float32
        parameter.data = parameter.data.to(dtype)
    return model.eval().requires_grad_(False)
