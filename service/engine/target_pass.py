"""One pass of the target over the new tokens of many lists, whatever its family."""

import torch
from transformers import PreTrainedModel

from service.engine.kv_cache import KvCache
from service.model.attention import mask_of_groups, use_grouped_attention
from service.model.kernels import mask_for, rms_norm
from service.model.layers import layers_of, norm_of

_FULL, _WINDOWED = "full_attention", "sliding_attention"


class TargetPass:
    """Owns the target and its cache.

    Args:
        model: in evaluation mode on its device.
        feature_layers: indices of the hidden states that a draft fuses; () for the last feature alone.
    """

    def __init__(self, model: PreTrainedModel, feature_layers: tuple[int, ...]) -> None:
        config = model.config
        self._num_heads: int = config.num_attention_heads
        self._num_kv_heads: int = getattr(config, "num_key_value_heads", None) or self._num_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.model = model
        self.cache = KvCache(
            config.num_hidden_layers, self._num_kv_heads, head_dim, model.device, model.dtype
        )
        self._layers = layers_of(model)
        self._norm = None if self._layers is None else norm_of(model)
        if self._layers is None:
            use_grouped_attention(model)
        self._feature_layers = feature_layers
        self._window: int | None = getattr(config, "sliding_window", None)
        kinds = (
            getattr(config, "layer_types", None)
            or [_WINDOWED if self._window else _FULL] * config.num_hidden_layers
        )
        self._kinds: list[str] = list(kinds)
        if _WINDOWED not in self._kinds:
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
        masks = self._masks(mask, positions, places)
        if self._layers is None:
            return self._by_transformers(tokens, positions, masks)
        hidden = self.model.get_input_embeddings()(tokens)
        ends = places[:, -1] + 1
        prepared = {
            kind: mask_for(mask, self._num_heads, self._num_kv_heads, hidden.dtype)
            for kind, mask in masks.items()
        }
        states: dict[int, torch.Tensor] = {}
        for number, (layer, kind) in enumerate(zip(self._layers, self._kinds, strict=True)):
            if number in self._feature_layers:
                states[number] = hidden.clone()
            hidden = layer.read(hidden, positions, self.cache.part(number), prepared[kind], ends)
        assert self._norm is not None
        last = rms_norm(hidden, *self._norm)
        states[len(self._layers)] = last
        return last, [states[number] for number in self._feature_layers or (len(self._layers),)]

    def _by_transformers(
        self, tokens: torch.Tensor, positions: torch.Tensor, masks: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The same, for a model whose layers we do not know."""
        dtype = self.model.dtype
        grouped = {
            kind: mask_of_groups(mask, self._num_heads, self._num_kv_heads, dtype)
            for kind, mask in masks.items()
        }
        # A model that tells its layers apart wants a mask for each kind; one that does not, the mask itself.
        tells = bool(getattr(self.model.config, "layer_types", None))
        output = self.model.base_model(
            input_ids=tokens,
            attention_mask=grouped if tells else next(iter(grouped.values())),
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
    ) -> dict[str, torch.Tensor]:
        """A mask for each kind of layer; some attend to a window alone."""
        if self._window is None:
            return dict.fromkeys(self._kinds, mask)
        seen = torch.arange(mask.shape[2], device=mask.device).expand(len(mask), -1)
        # Guesses of a tree do not stand at their own place; what is nobody's may stand past all there are.
        seen = seen.scatter(1, places.clamp(max=mask.shape[2] - 1), positions)
        near = positions.unsqueeze(2) - seen.unsqueeze(1) < self._window
        return {_FULL: mask, _WINDOWED: mask & near}
