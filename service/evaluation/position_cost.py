"""What a draft's position module costs: parameters, and time in a pass of the draft."""

from collections.abc import Callable
from typing import Any

import torch

from service.engine.tree import TreeShape
from service.evaluation.timing import median_seconds
from service.model.capture import capture_on
from service.model.draft import Draft

CONTEXT = 256  # places that a list's branches look back at
_CALLS = 5  # so that starting a graph, and waiting for it, does not count


@torch.inference_mode()
def position_figures(draft: Draft, shape: TreeShape, batch: int) -> dict[str, Any]:
    """The part of a row of `padrec bench decode` on the position module.

    A pass is timed by itself, on random inputs, as a graph where there are any: what the tokens of all branches become,
    and the layer for the last token of each. The scores of codes or items and the trie are left out, so the share is
    rather too large.

    Args:
        draft: on its device.
        shape: how many branches a pass extends.
        batch: lists.
    """
    config, weight = draft.config, draft.norm.weight
    most = config.num_levels + 1 if shape.constrained else 1  # tokens of a branch, padding included
    width, tokens = shape.width, shape.width * most

    def random(*size: int) -> torch.Tensor:
        return torch.randn(*size, device=weight.device, dtype=weight.dtype)

    features, embeddings = (random(batch, tokens, config.hidden_size) for _ in range(2))
    kv = (batch, config.num_kv_heads, CONTEXT + tokens, config.head_dim)
    keys, values = random(*kv), random(*kv)
    slot = torch.zeros(batch, tokens, dtype=torch.int64, device=weight.device)
    mask = torch.ones(batch, width, CONTEXT + tokens, dtype=torch.bool, device=weight.device)
    u = draft.inputs(features, embeddings, slot, 1)

    def whole_pass() -> None:
        inputs = draft.inputs(features, embeddings, slot, 1)
        draft.keys_and_values(inputs, slot)
        draft(inputs[:, :width], slot[:, :width], keys, values, mask)

    seconds = _median_seconds(lambda: draft.position(u, slot, 1), weight.device)
    return {
        "parameters": draft.num_parameters(),
        "position_parameters": draft.num_position_parameters(),
        "position_ms_per_pass": seconds * 1e3,
        "position_share_of_pass": seconds / _median_seconds(whole_pass, weight.device),
    }


def _median_seconds(function: Callable[[], object], device: torch.device) -> float:
    """Of a call; of one in a graph of many where it can be captured."""

    def many() -> None:
        for _ in range(_CALLS):
            function()

    many()
    capture = capture_on(device)
    return median_seconds(many if capture is None else capture(many).replay, device) / _CALLS
