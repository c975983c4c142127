"""List and beam decoding, slow and obvious: one list, one token per pass, a KV cache, no data structure but arrays.

This is the oracle: every fast path must write the same list, token for token, in float32. It finds the allowed codes
by looking at all items, so that it shares nothing with the trie it is there to check.
"""

import time

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from service.catalog.allowed import allowed_rows
from service.catalog.layout import TokenLayout
from service.catalog.trie import Int32Array, Int64Array
from service.engine.sampling import choose, gumbel_noise
from service.types import DecodedItem, DecodedList, DecodeRequest


@torch.inference_mode()
def write_list(
    model: PreTrainedModel, codes: Int32Array, layout: TokenLayout, request: DecodeRequest
) -> DecodedList:
    """Write one list.

    Args:
        model: the target, in evaluation mode.
        codes: [num_items, L], every item's codes, in trie order.
        layout: how codes become tokens.
        request: what to write.
    """
    started = time.perf_counter()
    cache = DynamicCache(config=model.config)

    def next_logits(tokens: Int64Array) -> torch.Tensor:
        """Append `tokens` [n] to the context; logits [vocabulary] of the token that follows them."""
        input_ids = torch.as_tensor(tokens, device=model.device).unsqueeze(0)
        logits: torch.Tensor = model(input_ids=input_ids, past_key_values=cache, use_cache=True).logits
        return logits[0, -1].float()

    num_codes = layout.table.shape[1]
    noise = iter(gumbel_noise(request.seed, request.num_items * layout.num_levels, num_codes))
    allowed_items = allowed_rows(request, len(codes))
    items: list[DecodedItem] = []
    num_passes = num_forced = 0

    logits = next_logits(layout.prompt(codes[list(request.history)]))
    prefilled = time.perf_counter()
    while len(items) < request.num_items and allowed_items.any():
        matching = allowed_items.copy()
        score = 1.0
        for level in range(layout.num_levels):
            allowed_codes = np.unique(codes[matching, level])
            allowed_tokens = layout.table[level, allowed_codes]
            probabilities = torch.softmax(logits[torch.as_tensor(allowed_tokens)], dim=-1)
            of_codes = torch.as_tensor(next(noise)[allowed_codes], device=model.device)
            chosen = choose(probabilities, request.temperature, request.top_p, of_codes)
            score *= float(probabilities[chosen])
            matching &= codes[:, level] == allowed_codes[chosen]
            logits = next_logits(allowed_tokens[[chosen]])
            num_forced += len(allowed_codes) == 1
        # Items that share these codes are told apart by their order in the catalogue, most popular first.
        row = int(np.flatnonzero(matching)[0])
        items.append(DecodedItem(row, score))
        allowed_items[row] = False
        logits = next_logits(np.array([layout.separator]))
        num_forced += 1
        num_passes += layout.tokens_per_item
    return DecodedList(
        request_id=request.request_id,
        items=tuple(items),
        exhausted=len(items) < request.num_items,
        num_rounds=num_passes,
        num_forced_tokens=num_forced,
        prefill_seconds=prefilled - started,
        decode_seconds=time.perf_counter() - prefilled,
    )


@torch.inference_mode()
def find_items(
    model: PreTrainedModel, codes: Int32Array, layout: TokenLayout, request: DecodeRequest, num_beams: int
) -> DecodedList:
    """The most probable next items, by beam search: all beams read anew at every level.

    Args:
        model: the target, in evaluation mode.
        codes: [num_items, L], every item's codes, in trie order.
        layout: how codes become tokens.
        request: what to find.
        num_beams: beginnings of an item that are kept at each level.
    """
    started = time.perf_counter()
    prompt = layout.prompt(codes[list(request.history)])
    allowed_items = allowed_rows(request, len(codes))
    beams: list[tuple[float, list[int]]] = [(0.0, [])] if allowed_items.any() else []
    for level in range(layout.num_levels):
        longer: list[tuple[float, list[int]]] = []
        for score, of_beam in beams:
            tokens = np.concatenate([prompt, layout.table[np.arange(level), of_beam]]).astype(np.int64)
            logits = model(input_ids=torch.as_tensor(tokens, device=model.device).unsqueeze(0)).logits[0, -1]
            matching = allowed_items & (codes[:, :level] == of_beam).all(axis=1)
            allowed_codes = np.unique(codes[matching, level])
            of_codes = logits.float()[torch.as_tensor(layout.table[level, allowed_codes])]
            log_p = torch.log_softmax(of_codes, dim=-1)
            longer += [
                (score + float(p), [*of_beam, int(code)])
                for p, code in zip(log_p, allowed_codes, strict=True)
            ]
        beams = sorted(longer, key=lambda beam: -beam[0])[:num_beams]
    # Items that share codes are as probable, and told apart by their order in the catalogue.
    items = [
        DecodedItem(int(row), float(np.exp(score)))
        for score, of_beam in beams
        for row in np.flatnonzero(allowed_items & (codes == of_beam).all(axis=1))
    ]
    return DecodedList(
        request_id=request.request_id,
        items=tuple(items[: request.num_items]),
        exhausted=len(items) < request.num_items,
        num_rounds=layout.num_levels - 1,
        num_forced_tokens=0,
        prefill_seconds=time.perf_counter() - started,
        decode_seconds=0.0,
    )
