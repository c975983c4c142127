"""For any trie, history, exclusions and K: no invalid, repeated or excluded item, and all that there is to write."""

import functools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.catalog.filters import unpacked
from service.engine.engine import Engine
from service.engine.reference import write_list
from service.types import DecodeRequest


@st.composite
def catalogues(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, ...]]:
    """Codes [num_items, L] with sizes: narrow and wide levels, so that shared IDs and forced chains abound."""
    sizes = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    items = draw(st.lists(st.tuples(*(st.integers(0, size - 1) for size in sizes)), min_size=1, max_size=25))
    return np.array(items).reshape(len(items), len(sizes)), sizes


@st.composite
def requests(draw: st.DrawFn, num_items: int) -> DecodeRequest:
    rows = st.integers(0, num_items - 1)
    return DecodeRequest(
        request_id=draw(st.uuids()).hex,
        history=tuple(draw(st.lists(rows, min_size=1, max_size=6))),
        num_items=draw(st.integers(1, 12)),
        excluded=tuple(draw(st.lists(rows, max_size=30))),
        temperature=draw(st.sampled_from([0.0, 0.0, 1e-45, 0.01, 0.7, 2.0])),
        top_p=draw(st.sampled_from([1e-46, 0.001, 0.1, 0.9, 1.0])),
        seed=draw(st.integers(0, 2**64 - 1)),
        allowed=draw(st.none() | st.lists(st.booleans(), min_size=num_items, max_size=num_items).map(packed)),
    )


def packed(allowed: list[bool]) -> bytes:
    return np.packbits(allowed, bitorder="little").tobytes()


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_lists_hold_real_distinct_allowed_items(make_setting, data: st.DataObject) -> None:
    codes, sizes = data.draw(catalogues())
    setting = cached_setting(make_setting, codes.tobytes(), codes.shape, sizes)
    batch = data.draw(st.lists(requests(len(codes)), min_size=1, max_size=4))
    written = Engine(setting.model, setting.catalogue, setting.layout, max_batch=3).write(batch)
    for request, done in zip(batch, written, strict=True):
        rows = [item.row for item in done.items]
        kept = (
            range(len(codes))
            if request.allowed is None
            else np.flatnonzero(unpacked(request.allowed, len(codes)))
        )
        allowed = set(kept) - set(request.excluded)
        assert set(rows) <= allowed
        assert len(rows) == len(set(rows)) == min(request.num_items, len(allowed))
        assert done.exhausted == (len(allowed) < request.num_items)
        reference = write_list(setting.model, setting.catalogue.codes, setting.layout, request)
        assert {item.row for item in reference.items} <= allowed
        assert len(reference.items) == len({item.row for item in reference.items}) == len(rows)
        assert rows == [item.row for item in reference.items]


@functools.lru_cache(maxsize=64)
def cached_setting(make_setting, raw: bytes, shape: tuple[int, int], sizes: tuple[int, ...]):
    return make_setting(np.frombuffer(raw, dtype=np.int64).reshape(shape), sizes)
