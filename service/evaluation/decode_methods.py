"""The ways of writing lists that are compared: the engine with and without a draft, and `transformers` by itself."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedModel

from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.engine.engine import Engine
from service.engine.load import Always, ByLoad, warm_up
from service.engine.tree import TreeShape
from service.evaluation.position_cost import position_figures
from service.model.draft import Draft
from service.model.draft_config import DraftConfig
from service.types import DecodedList, DecodeRequest

_WARM_UP_SECONDS = 120.0

AUTOREGRESSIVE, TRANSFORMERS = "autoregressive", "transformers"

TreeKind = Literal["chain", "tree", "auto"]

# Writes one batch to the end; lists in the order of the requests, or none where what was written need not be items.
Write = Callable[[Sequence[DecodeRequest]], Sequence[DecodedList]]


@dataclass(frozen=True, slots=True)
class Writer:
    """A method that is ready for batches of one size.

    Attributes:
        write: one batch.
        num_captured: graphs so far, each of which took longer than it ever will again; None: it has none.
    """

    write: Write
    num_captured: Callable[[], int] | None = None

    @classmethod
    def of(cls, engine: Engine) -> "Writer":
        """An engine."""
        return cls(engine.write, lambda: engine.num_captured)


@dataclass(frozen=True, slots=True)
class Method:
    """A way to write lists.

    Attributes:
        name: `autoregressive`, `transformers` or `draft-VARIANT`.
        start: makes ready to write batches of so many lists.
        draft: the draft's name, where there is one.
        tree: what its guesses form.
        shape: how much it guesses.
        constrained: what is written is kept inside the trie by this method; for a draft, what it guesses.
        weights: bytes of the models that it uses.
        draft_figures: what there is to say of the draft itself, for batches of so many lists.
    """

    name: str
    start: Callable[[int], Writer]
    draft: str | None = None
    tree: TreeKind | None = None
    shape: TreeShape | None = None
    constrained: bool = True
    weights: int = 0
    draft_figures: Callable[[int], dict[str, Any]] = lambda _: {}


def autoregressive_method(model: PreTrainedModel, catalogue: Catalogue, layout: TokenLayout) -> Method:
    """The engine without a draft."""

    def start(batch: int) -> Writer:
        return Writer.of(Engine(model, catalogue, layout, max_batch=batch))

    return Method(AUTOREGRESSIVE, start, weights=num_bytes(model.parameters()))


def draft_method(
    model: PreTrainedModel,
    catalogue: Catalogue,
    layout: TokenLayout,
    draft: Draft,
    *,
    name: str,
    tree: TreeKind,
    shape: TreeShape,
    requests: Sequence[DecodeRequest],
) -> Method:
    """The engine with a draft.

    Args:
        model: the target.
        catalogue: of the same bundle.
        layout: how codes become tokens.
        draft: of the target's dtype, on its device.
        name: tells this draft from others of its variant.
        tree: what its guesses form.
        shape: how much it guesses; the largest of those it may choose from where the tree is `auto`.
        requests: what it learns from then.
    """

    def start(batch: int) -> Writer:
        if tree != "auto":
            return Writer.of(Engine(model, catalogue, layout, batch, draft, Always(shape)))
        choice = ByLoad(TreeShape.menu(draft.config, model.device))
        engine = Engine(model, catalogue, layout, batch, draft, choice)
        warm_up(engine, choice, requests, _WARM_UP_SECONDS)
        return Writer.of(engine)

    return Method(
        name=f"draft-{draft.config.variant}",
        start=start,
        draft=name,
        tree=tree,
        shape=shape,
        constrained=shape.constrained,
        weights=num_bytes(model.parameters()) + num_bytes(draft.parameters()),
        draft_figures=lambda batch: position_figures(draft, shape, batch),
    )


def shape_of(
    tree: Literal["chain", "tree"],
    draft: DraftConfig,
    *,
    constrained: bool,
    passes: int | None = None,
    width: int | None = None,
    places: int | None = None,
    share: int | None = None,
) -> TreeShape:
    """What suits a draft, with the given numbers in place of its own; a chain has no width."""
    if passes is not None:
        draft = replace(draft, max_steps=passes)
    shape = TreeShape.chain(draft) if tree == "chain" else TreeShape.tree(draft)
    if width is not None and tree == "tree":
        shape = replace(shape, width=width, num_candidates=max(width, shape.num_candidates))
    if places is not None:
        shape = replace(shape, num_places=places)
    return replace(shape, constrained=constrained, share=share)


def transformers_method(model: PreTrainedModel, catalogue: Catalogue, layout: TokenLayout) -> Method:
    """`model.generate` of as many tokens as a list has: greedy, the prompts padded on the left.

    Nothing keeps it inside the trie. A constraint would be one more thing to do for each token and so only make it
    slower; what it costs to write tokens one by one in Python is what this row is for.
    """

    def start(batch: int) -> Writer:
        return Writer(write)

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
