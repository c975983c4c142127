"""The batched engine writes what the reference writes, whatever else is in the batch."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from service.engine.engine import Engine
from service.engine.reference import write_list
from service.errors import InputError
from service.model.memory import memory_of
from service.types import DecodedList, DecodeRequest
from tests.engine.conftest import assert_equal, random_draft, random_requests, rows_of


@pytest.mark.parametrize("sampled", [False, True])
def test_equals_the_reference(shop, sampled: bool) -> None:
    requests = random_requests(24, 200, seed=3, sampled=sampled)
    engine = Engine(shop.model, shop.catalogue, shop.layout, max_batch=7)
    for request, done in zip(requests, engine.write(requests), strict=True):
        assert done.request_id == request.request_id
        assert_equal(done, write_list(shop.model, shop.catalogue.codes, shop.layout, request))


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_equals_the_reference_for_every_family(family: str, make_setting) -> None:
    codes = np.random.default_rng(1).integers(6, size=(60, 3))
    setting = make_setting(codes, (6, 6, 6), family=family)
    requests = random_requests(6, 60, seed=4, sampled=True)
    engine = Engine(setting.model, setting.catalogue, setting.layout)
    for request, done in zip(requests, engine.write(requests), strict=True):
        assert_equal(done, write_list(setting.model, setting.catalogue.codes, setting.layout, request))


def test_requests_join_and_leave_between_rounds(shop) -> None:
    requests = random_requests(9, 200, seed=8, sampled=True)
    engine = Engine(shop.model, shop.catalogue, shop.layout)
    done: dict[str, DecodedList] = {}
    waiting = list(requests)
    while waiting or engine.num_running:
        engine.add([waiting.pop(0) for _ in range(min(2, len(waiting)))])
        for _ in range(3):
            done.update((result.request_id, result) for result in engine.round())
    for request in requests:
        reference = write_list(shop.model, shop.catalogue.codes, shop.layout, request)
        assert rows_of(done[request.request_id]) == rows_of(reference)


def test_dropped_requests_are_gone_and_change_nothing_for_the_others(shop) -> None:
    requests = random_requests(6, 200, seed=9, sampled=True)
    engine = Engine(shop.model, shop.catalogue, shop.layout)
    requests = [replace(request, num_items=12, excluded=()) for request in requests]
    engine.add(requests)
    done = {result.request_id: result for result in engine.round()}
    assert not done
    engine.drop({"r1", "r4", "of another worker"})
    while engine.num_running:
        done.update((result.request_id, result) for result in engine.round())
    assert set(done) == {"r0", "r2", "r3", "r5"}
    for request in requests:
        if request.request_id in done:
            reference = write_list(shop.model, shop.catalogue.codes, shop.layout, request)
            assert rows_of(done[request.request_id]) == rows_of(reference)


def test_forced_tokens_cost_no_round(make_setting) -> None:
    # Every item is alone under its first code: one choice an item, the other two codes and the separator forced.
    codes = np.stack([np.arange(8), np.arange(8) % 3, np.zeros(8, dtype=int)], axis=1)
    setting = make_setting(codes, (8, 3, 1))
    [done] = Engine(setting.model, setting.catalogue, setting.layout).write([DecodeRequest("a", (0,), 5)])
    assert done.num_rounds == 4  # the first item was decided by the prefill
    assert done.num_forced_tokens == 15


def test_what_does_not_fit_is_refused_with_the_arithmetic(shop, monkeypatch) -> None:
    engine = Engine(shop.model, shop.catalogue, shop.layout, 16, random_draft(shop, "slots"), num_prefixes=4)
    monkeypatch.setattr("service.model.memory.memory_of", lambda _: 3 << 20)
    with pytest.raises(InputError) as refused:
        engine.reserve(400)
    assert re.fullmatch(
        r"0\.0 GiB for 32 rows of \d+ places in the target's cache \+ 0\.0 GiB for 32 rows of \d+ places in the "
        r"draft's cache \+ 0\.0 GiB for kept prompts are more than 90% of the 0\.0 GiB that are there; "
        r"lower worker\.max_batch or worker\.kept_prompts",
        str(refused.value),
    )
    monkeypatch.setattr("service.model.memory.memory_of", lambda _: 1 << 30)
    engine.reserve(400)


def test_what_is_reserved_is_enough(shop) -> None:
    """No cache moves while the longest lists are written for the longest histories."""
    engine = Engine(
        shop.model, shop.catalogue, shop.layout, 3, random_draft(shop, "slots"), max_items=9, num_prefixes=2
    )
    engine.reserve(shop.layout.prompt_length(30))
    caches = engine._passes.caches.values()
    held = [cache._data for cache in caches]
    engine.write([DecodeRequest(str(n), tuple(range(n, n + 30)), 9) for n in range(7)])
    assert all(cache._data is before for cache, before in zip(caches, held, strict=True))


def test_memory_is_read_off_the_machine() -> None:
    assert memory_of(torch.device("cpu")) > 1 << 28
