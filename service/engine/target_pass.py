"""One pass of the target over the new tokens of many lists, whatever its family.

Its layers are alike, so that what is made faster is one layer for all: each is handed its own part of the cache, and
nothing in it depends on its number.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from service.engine.fusing import Fuse
from service.engine.kv_cache import KvCache
from service.model.attention import additive, for_groups, use_grouped_attention
from service.model.norms import use_fast_norms


class TargetPass:
    """Owns the target and its cache.

    Args:
        model: in evaluation mode on its device.
        feature_layers: indices of the hidden states that a draft fuses; () for the last feature alone.
        fuse: makes the passes of its layers faster.
    """

    def __init__(self, model: PreTrainedModel, feature_layers: tuple[int, ...], fuse: Fuse) -> None:
        config = model.config
        self._num_heads: int = config.num_attention_heads
        self._num_kv_heads: int = getattr(config, "num_key_value_heads", None) or self._num_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.model = model
        self.cache = KvCache(
            config.num_hidden_layers, self._num_kv_heads, head_dim, model.device, model.dtype
        )
        use_grouped_attention(model)
        use_fast_norms(model)
        read = fuse(_read_layer)
        for number, layer in enumerate(model.base_model.layers):
            layer.forward = _with_own_cache(layer, number, read)
        self._feature_layers = feature_layers
        self._window: int | None = getattr(config, "sliding_window", None)
        self._layer_types: set[str] = set(getattr(config, "layer_types", None) or ())
        if self._layer_types and "sliding_attention" not in self._layer_types:
            self._window = None

    def __call__(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        places: torch.Tensor,
        mask: torch.Tensor,
        rows: slice,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Read tokens and write their keys and values.

        Args:
            tokens: int64 [batch, n].
            positions: int64 [batch, n], for the rotary embedding.
            places: int64 [batch, n], where the cache keeps each token.
            mask: bool [batch, n, m], which of the first m places each token may look at; its own among them.
            rows: of the cache.

        Returns:
            What the head reads, [batch, n, hidden], and the hidden states that the draft's features are made of.
        """
        self.cache.reserve(rows.stop, mask.shape[2])
        self.cache.begin_pass(rows, places, mask.shape[2])
        output = self.model.base_model(
            input_ids=tokens,
            attention_mask=self._masks(mask.unsqueeze(1), positions, places),
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            output_hidden_states=bool(self._feature_layers),
        )
        last: torch.Tensor = output.last_hidden_state
        if not self._feature_layers:
            return last, [last]
        return last, [output.hidden_states[layer] for layer in self._feature_layers]

    def _masks(
        self, mask: torch.Tensor, positions: torch.Tensor, places: torch.Tensor
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """The mask, or one for each kind of layer where some attend to a window alone."""

        def grouped(mask: torch.Tensor) -> torch.Tensor:
            return additive(for_groups(mask, self._num_heads, self._num_kv_heads), self.model.dtype)

        if self._window is None:
            return grouped(mask)
        seen = torch.arange(mask.shape[3], device=mask.device).expand(len(mask), -1)
        seen = seen.scatter(1, places, positions)  # guesses of a tree do not stand at their own place
        near = positions.unsqueeze(2) - seen.unsqueeze(1) < self._window
        windowed = mask & near.unsqueeze(1)
        if not self._layer_types:
            return grouped(windowed)
        return {"full_attention": grouped(mask), "sliding_attention": grouped(windowed)}


def _with_own_cache(layer: nn.Module, number: int, read: Callable[..., Any]) -> Callable[..., Any]:
    """A layer's `forward`, which in a pass of ours is `read` with the layer's part of the cache."""
    itself = weakref.ref(layer)  # a layer that held itself would not be freed at once

    def forward(hidden: torch.Tensor, *, past_key_values: Any = None, **others: Any) -> Any:
        owner = itself()
        assert owner is not None
        if not isinstance(past_key_values, KvCache):
            return type(owner).forward(owner, hidden, past_key_values=past_key_values, **others)
        return read(owner, hidden, past_key_values=past_key_values.of_layer(number), **others)

    return forward


def _read_layer(layer: nn.Module, hidden: torch.Tensor, **others: Any) -> Any:
    """One layer of whatever model it is."""
    return type(layer).forward(layer, hidden, **others)
