import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.catalog.trie import Trie
from service.engine.branches import next_choice
from service.engine.constraint import FreeRows, TrieIndex, allowed_children

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
    """Against sets of tuples, over a random walk; the items written count as free."""
    codes, trie = catalogue.codes, catalogue.trie
    excluded = data.draw(st.lists(st.integers(0, len(codes) - 1), max_size=8))
    left = set(range(len(codes))) - set(excluded)
    index = TrieIndex(catalogue, LAYOUT, CPU)
    free = torch.ones(1, len(codes), dtype=torch.bool)
    free[0, excluded] = False
    rows = FreeRows.of(free)
    written: list[int] = []
    while left:
        prefix: tuple[int, ...] = ()
        node = Trie.ROOT
        for level in range(2):
            fitting = sorted({int(codes[r][level]) for r in left if tuple(codes[r][:level]) == prefix})
            places = torch.tensor([[node]]), torch.tensor([[[*written, -1]]])
            children, allowed = allowed_children(index, rows, *places)
            nodes = children[allowed].tolist()
            assert trie.code[nodes].tolist() == fitting
            begin, end = (array[torch.tensor([[node]])] for array in (index.node_begin, index.node_end))
            below = [r for r in sorted(left) if tuple(codes[r][:level]) == prefix]
            assert rows.ends(begin, end, places[1]).flatten().tolist() == [below[0], below[-1]]
            [[first]], [[certain]] = (
                found.tolist()
                for found in next_choice(index, rows, places[0], torch.tensor([[level]]), places[1])
            )
            assert first == below[0]
            assert certain == max(n for n in range(3) if len({tuple(codes[r][:n]) for r in below}) == 1)
            node = nodes[data.draw(st.integers(0, len(nodes) - 1))]
            prefix += (int(trie.code[node]),)
        row = min(r for r in left if tuple(codes[r]) == prefix)
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
