import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.engine.constraint import FreeRows, TrieIndex, allowed_children
from service.engine.cursor import Cursor

CPU = torch.device("cpu")
LAYOUT = TokenLayout(prefix=(), list_start=(), separator=0, code_tokens=((1, 2, 3, 4), (5, 6, 7)))


@st.composite
def catalogues(draw: st.DrawFn) -> Catalogue:
    """Two levels of four and three codes; some items share a semantic ID."""
    codes = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=20))
    return Catalogue.build([f"item-{i}" for i in range(len(codes))], np.array(codes), [""] * len(codes))


@given(data=st.data(), catalogue=catalogues())
@settings(deadline=None)
def test_a_walk_sees_the_codes_of_the_items_left(data: st.DataObject, catalogue: Catalogue) -> None:
    """Host and device against sets of tuples, over a random walk; the items written count as free on the device."""
    codes, trie = catalogue.codes, catalogue.trie
    excluded = data.draw(st.lists(st.integers(0, len(codes) - 1), max_size=8))
    left = set(range(len(codes))) - set(excluded)
    cursor = Cursor(catalogue, excluded)
    index = TrieIndex(catalogue, LAYOUT, CPU)
    rows = FreeRows.of(torch.as_tensor(cursor.free.copy()).unsqueeze(0))
    written: list[int] = []
    while left:
        assert cursor.num_free == len(left)
        prefix: tuple[int, ...] = ()
        for level in range(2):
            fitting = sorted({int(codes[r][level]) for r in left if tuple(codes[r][:level]) == prefix})
            places = torch.tensor([[cursor.node]]), torch.tensor([[[*written, -1]]])
            children, allowed = allowed_children(index, rows, *places)
            nodes = children[allowed].tolist()
            assert trie.code[nodes].tolist() == fitting
            assert cursor.forced() == (nodes[0] if len(nodes) == 1 else None)
            begin, end = (
                array[torch.tensor([[cursor.node]])] for array in (index.node_begin, index.node_end)
            )
            below = [r for r in sorted(left) if tuple(codes[r][:level]) == prefix]
            assert rows.ends(begin, end, places[1]).flatten().tolist() == [below[0], below[-1]]
            node = nodes[data.draw(st.integers(0, len(nodes) - 1))]
            prefix += (int(trie.code[node]),)
            row = cursor.append(node)
        assert row == min(r for r in left if tuple(codes[r]) == prefix)
        left.remove(row)
        written.append(row)


def test_paths_lead_from_the_root_to_each_item() -> None:
    codes = np.random.default_rng(0).integers(4, size=(50, 2))
    catalogue = Catalogue.build([f"i{n}" for n in range(50)], codes % [4, 3], [""] * 50)
    index = TrieIndex(catalogue, LAYOUT, CPU)
    for row in range(50):
        path = index.path[row].tolist()
        assert path[0] == 0
        assert catalogue.trie.code[path[1:]].tolist() == catalogue.codes[row].tolist()
        for node, child in itertools.pairwise(path):
            begin, end = catalogue.trie.child_begin[node : node + 2]
            assert begin <= child < end
    assert index.node_depth[index.path].tolist() == [[0, 1, 2]] * 50
