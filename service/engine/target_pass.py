"""One pass of the target over the new tokens of many lists, whatever its family."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from service.engine.kv_cache import KvCache
from service.model.attention import mask_of_groups, use_grouped_attention
from service.model.kernels import Spans, mask_for, rms_norm
from service.model.layers import layers_of, norm_of

_FULL, _WINDOWED = "full_attention", "sliding_attention"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a pass reads: t tokens, those of all lists side by side, so that none is padded to the longest.

    Attributes:
        tokens: int64 [t].
        positions: int64 [t], for the rotary embedding.
        places: int64 [t], where the cache keeps each token; of padding, past the last there is.
        mask: bool [t, m], which of the first m places of its row each token may look at; its own among them.
        spans: whose tokens are whose.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    places: torch.Tensor
    mask: torch.Tensor
    spans: Spans


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

    def __call__(self, read: Reading, rows: slice) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Read tokens and write their keys and values.

        Args:
            read: the tokens.
            rows: of the cache, the lists'.

        Returns:
            What the head reads, [t, hidden], and the hidden states that the draft's features are made of.
        """
        num_places = read.mask.shape[1]
        self.cache.reserve(rows.stop, num_places)
        if self._layers is None:
            return self._by_transformers(read, rows)
        self.cache.begin_pass(rows, read.places, num_places)
        hidden = self.model.get_input_embeddings()(read.tokens)
        prepared = {
            kind: mask_for(mask, self._num_heads, self._num_kv_heads, hidden.dtype, read.spans)
            for kind, mask in self._masks(read).items()
        }
        states: dict[int, torch.Tensor] = {}
        for number, (layer, kind) in enumerate(zip(self._layers, self._kinds, strict=True)):
            if number in self._feature_layers:
                states[number] = hidden.clone()
            cache = self.cache.part(number)
            hidden = layer.read(hidden, read.positions, cache, prepared[kind], spans=read.spans)
        assert self._norm is not None
        last = rms_norm(hidden, *self._norm)
        states[len(self._layers)] = last
        return last, [states[number] for number in self._feature_layers or (len(self._layers),)]

    def _by_transformers(self, read: Reading, rows: slice) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The same, for a model whose layers we do not know: it wants each list's tokens apart."""
        dtype, apart = self.model.dtype, read.spans.apart
        self.cache.begin_pass(rows, apart(read.places), read.mask.shape[1])
        grouped = {
            kind: mask_of_groups(apart(mask), self._num_heads, self._num_kv_heads, dtype)
            for kind, mask in self._masks(read).items()
        }
        # A model that tells its layers apart wants a mask for each kind; one that does not, the mask itself.
        tells = bool(getattr(self.model.config, "layer_types", None))
        output = self.model.base_model(
            input_ids=apart(read.tokens),
            attention_mask=grouped if tells else next(iter(grouped.values())),
            position_ids=apart(read.positions),
            past_key_values=self.cache,
            use_cache=True,
            output_hidden_states=bool(self._feature_layers),
        )
        last: torch.Tensor = read.spans.together(output.last_hidden_state)
        if not self._feature_layers:
            return last, [last]
        return last, [read.spans.together(output.hidden_states[layer]) for layer in self._feature_layers]

    def _masks(self, read: Reading) -> dict[str, torch.Tensor]:
        """A mask for each kind of layer; some attend to a window alone."""
        mask, row = read.mask, read.spans.row.clamp(min=0)
        if self._window is None:
            return dict.fromkeys(self._kinds, mask)
        num_places = mask.shape[1]
        # Guesses of a tree do not stand at their own place; padding and what is nobody's may stand past all there are.
        seen = torch.arange(num_places + 1, device=mask.device).repeat(len(read.spans.ends), 1)
        seen[row, read.places.clamp(max=num_places)] = read.positions
        near = read.positions.unsqueeze(1) - seen[row, :num_places] < self._window
        return {_FULL: mask, _WINDOWED: mask & near}
