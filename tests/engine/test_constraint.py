import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.catalog.trie import Trie, trie_order
from service.engine.constraint import BatchConstraint


@given(data=st.data())
def test_allowed_children_are_those_of_the_items_left(data: st.DataObject) -> None:
    """Against sets of tuples, over random walks of two lists."""
    codes = np.array(
        data.draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=20)),
        dtype=np.int32,
    )
    codes = codes[trie_order(codes, np.zeros(len(codes), dtype=int))]
    trie = Trie.build(codes)
    excluded = [data.draw(st.lists(st.integers(0, len(codes) - 1), max_size=8)) for _ in range(2)]
    left = [set(range(len(codes))) - set(rows) for rows in excluded]
    constraint = BatchConstraint(trie, excluded)
    while all(left):
        assert constraint.num_left().tolist() == [len(rows) for rows in left]
        prefixes: list[tuple[int, ...]] = [(), ()]
        rows = None
        for level in range(2):
            nodes, owner = constraint.allowed()
            picked = []
            for i in range(2):
                options = nodes[owner == i]
                fitting = {int(codes[r][level]) for r in left[i] if tuple(codes[r][:level]) == prefixes[i]}
                assert trie.code[options].tolist() == sorted(fitting)
                picked.append(options[data.draw(st.integers(0, len(options) - 1))])
                prefixes[i] += (int(trie.code[picked[i]]),)
            rows = constraint.append(np.array(picked))
        assert rows is not None
        for i, row in enumerate(rows.tolist()):
            assert row == min(r for r in left[i] if tuple(codes[r]) == prefixes[i])
            left[i].remove(row)


def test_select_keeps_the_state_of_the_lists_that_stay() -> None:
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.int32)
    constraint = BatchConstraint(Trie.build(codes), [[0], [], [3, 2]])
    constraint.select(np.array([0, 2]))
    assert len(constraint) == 2
    assert constraint.num_left().tolist() == [3, 2]
