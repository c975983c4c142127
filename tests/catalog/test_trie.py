import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.catalog.trie import Trie, trie_order


@st.composite
def sorted_codes(draw: st.DrawFn) -> np.ndarray:
    levels = draw(st.integers(1, 4))
    rows = draw(st.lists(st.tuples(*[st.integers(0, 4)] * levels), min_size=1, max_size=40))
    codes = np.array(rows, dtype=np.int32).reshape(len(rows), levels)
    return codes[trie_order(codes, np.zeros(len(codes), dtype=int))]


def prefixes(trie: Trie) -> list[tuple[int, ...]]:
    """The path to every node, by walking down."""
    paths: list[tuple[int, ...]] = [()] * trie.num_nodes
    for node in range(trie.num_nodes):
        for child in range(trie.child_begin[node], trie.child_begin[node + 1]):
            paths[child] = (*paths[node], int(trie.code[child]))
    return paths


@given(sorted_codes())
def test_nodes_are_the_prefixes_and_hold_their_items(codes: np.ndarray) -> None:
    trie = Trie.build(codes)
    items = [tuple(map(int, row)) for row in codes]
    expected = {item[:depth] for item in items for depth in range(codes.shape[1] + 1)}
    paths = prefixes(trie)
    assert len(paths) == len(set(paths)) == len(expected)
    for node, path in enumerate(paths):
        below = [row for row, item in enumerate(items) if item[: len(path)] == path]
        assert below == list(range(trie.item_begin[node], trie.item_end[node]))
    assert trie.num_items == len(items)


def test_order_is_by_codes_then_popularity_then_as_given() -> None:
    codes = np.array([[1, 0], [0, 1], [1, 0], [1, 0]])
    assert trie_order(codes, np.array([5, 1, 9, 5])).tolist() == [1, 2, 0, 3]


def test_unsorted_or_no_items_are_refused() -> None:
    with pytest.raises(ValueError, match="not in trie order"):
        Trie.build(np.array([[1, 0], [0, 1]], dtype=np.int32))
    with pytest.raises(ValueError, match="at least one item"):
        Trie.build(np.zeros((0, 3), dtype=np.int32))


def test_a_large_catalogue_stays_small() -> None:
    """Bytes, unlike seconds, do not depend on the machine: a million items must fit into 200 MB."""
    codes = np.random.default_rng(0).integers(256, size=(100_000, 4)).astype(np.int32)
    trie = Trie.build(codes[trie_order(codes, np.zeros(len(codes), dtype=int))])
    assert trie.nbytes < 20e6
