"""The ways of writing lists that are compared: the engine with and without a draft, and `transformers` by itself."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from transformers import PreTrainedModel

from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.engine.engine import Engine
from service.types import DecodedList, DecodeRequest

AUTOREGRESSIVE, TRANSFORMERS = "autoregressive", "transformers"

TreeKind = Literal["chain", "tree"]

# Writes one batch to the end; lists in the order of the requests, or none where what was written need not be items.
Write = Callable[[Sequence[DecodeRequest]], Sequence[DecodedList]]


@dataclass(frozen=True, slots=True)
class Shape:
    """How much a draft guesses in a round, as a row reports it.

    Attributes:
        tree: `chain` or `tree`.
        steps: passes of the draft.
        width: branches that each pass extends.
        guesses: the most guesses that the target verifies.
        constrained: guesses are kept inside the trie.
    """

    tree: TreeKind
    steps: int
    width: int
    guesses: int
    constrained: bool


@dataclass(frozen=True, slots=True)
class Method:
    """A way to write lists.

    Attributes:
        name: `autoregressive`, `transformers` or `draft-VARIANT`.
        start: makes ready to write batches of so many lists.
        draft: the draft's name, where there is one.
        shape: of its guesses.
        constrained: what is written is kept inside the trie by this method; for a draft, what it guesses.
        weights: bytes of the models that it uses.
    """

    name: str
    start: Callable[[int], Write]
    draft: str | None = None
    shape: Shape | None = None
    constrained: bool = True
    weights: int = 0


def autoregressive_method(model: PreTrainedModel, catalogue: Catalogue, layout: TokenLayout) -> Method:
    """The engine without a draft."""

    def start(batch: int) -> Write:
        return Engine(model, catalogue, layout, max_batch=batch).write

    return Method(AUTOREGRESSIVE, start, weights=num_bytes(model.parameters()))


def transformers_method(model: PreTrainedModel, catalogue: Catalogue, layout: TokenLayout) -> Method:
    """`model.generate` of as many tokens as a list has: greedy, the prompts padded on the left.

    Nothing keeps it inside the trie. A constraint would be one more thing to do for each token and so only make it
    slower; what it costs to write tokens one by one in Python is what this row is for.
    """

    def start(batch: int) -> Write:
        return write

    def write(requests: Sequence[DecodeRequest]) -> list[DecodedList]:
        prompts = [layout.prompt(catalogue.codes[list(request.history)]) for request in requests]
        longest = max(map(len, prompts))
        tokens = np.zeros((len(prompts), longest), dtype=np.int64)
        real = np.zeros_like(tokens)
        for i, prompt in enumerate(prompts):
            tokens[i, longest - len(prompt) :] = prompt
            real[i, longest - len(prompt) :] = 1
        model.generate(
            input_ids=torch.as_tensor(tokens, device=model.device),
            attention_mask=torch.as_tensor(real, device=model.device),
            max_new_tokens=max(request.num_items for request in requests) * layout.tokens_per_item,
            do_sample=False,
            num_beams=1,
            eos_token_id=None,  # a list ends by its length
            pad_token_id=0,
        )
        return []

    return Method(TRANSFORMERS, start, constrained=False, weights=num_bytes(model.parameters()))


def num_bytes(parameters: Iterable[torch.Tensor]) -> int:
    """Bytes of a model's weights."""
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)
