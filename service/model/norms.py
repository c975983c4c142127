"""The norms of a target as one kernel each, where a pass needs no gradient.

`transformers` writes RMSNorm out in eight operators, and there are two of them in a layer. `torch` has it as one, which
rounds once where they round twice, in a type that is not float32.
"""

from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


def use_fast_norms(model: nn.Module) -> None:
    """Have all norms of a model of any family do so; where a gradient is asked for they do as ever."""
    for module in model.modules():
        kind: Any = type(module)
        is_norm = kind.__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon")
        if is_norm and not issubclass(kind, _Fast):
            module.__class__ = _fast(kind)


class _Fast:
    """Marks what is fast already."""


@cache
def _fast(plain: type[Any]) -> type[Any]:
    """A norm of the same family; training goes the family's own way, whether or not there was an engine before."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() or x.dtype != self.weight.dtype:
            told: torch.Tensor = plain.forward(self, x)
            return told
        return F.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon)

    return type(plain.__name__, (_Fast, plain), {"forward": forward})
