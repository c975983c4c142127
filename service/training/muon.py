"""Muon with all matrices of one shape in one go."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import optim

_Coefficients = tuple[float, float, float]


class BatchedMuon(optim.Muon):
    """`torch.optim.Muon` with its scale matched to AdamW's; arguments and state are the same.

    torch's goes from matrix to matrix with some thirty operations for each, and a GPU is done with a small matrix
    before the next operation is asked for. Here they are as many for each shape. On a CPU they are in float32: one that
    has no instructions for bfloat16, in which torch's are, takes fifteen times as long for it.
    """

    def __init__(self, params: Sequence[torch.nn.Parameter], **options: Any) -> None:
        super().__init__(params, adjust_lr_fn="match_rms_adamw", **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """See `torch.optim.Muon`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters: list[torch.Tensor] = []
            gradients: list[torch.Tensor] = []
            averages: list[torch.Tensor] = []
            self._init_group(group, parameters, gradients, averages)
            if not parameters:
                continue
            momentum, rate = group["momentum"], group["lr"]
            torch._foreach_lerp_(averages, gradients, 1 - momentum)
            updates = torch._foreach_lerp(gradients, averages, momentum) if group["nesterov"] else averages
            torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
            for shape, members in _by_shape(parameters).items():
                turned = orthogonalized(
                    torch.stack([updates[member] for member in members]),
                    group["ns_coefficients"],
                    group["ns_steps"],
                    group["eps"],
                )
                torch._foreach_add_(
                    [parameters[member] for member in members],
                    list(turned.to(parameters[members[0]].dtype).unbind()),
                    alpha=-rate * 0.2 * math.sqrt(max(shape)),
                )
        return loss


def orthogonalized(
    matrices: torch.Tensor, coefficients: _Coefficients, steps: int, eps: float
) -> torch.Tensor:
    """The same with singular values near 1, by Newton and Schulz' iteration, [n, rows, columns]; on a GPU bfloat16."""
    a, b, c = coefficients
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if is_tall else matrices).to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def _by_shape(matrices: Sequence[torch.Tensor]) -> dict[torch.Size, list[int]]:
    members = defaultdict(list)
    for number, matrix in enumerate(matrices):
        members[matrix.shape].append(number)
    return members
