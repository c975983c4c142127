import numpy as np

from service.catalog.layout import TokenLayout, code_token_names

LAYOUT = TokenLayout(prefix=(1,), list_start=(2,), separator=3, code_tokens=((10, 11, 12), (20, 21)))


def test_prompt_is_prefix_items_and_list_start() -> None:
    prompt = LAYOUT.prompt(np.array([[2, 0], [0, 1]]))
    assert prompt.tolist() == [1, 12, 20, 3, 10, 21, 3, 2]
    assert LAYOUT.prompt_length(2) == len(prompt)


def test_table_marks_codes_that_a_level_does_not_have() -> None:
    assert LAYOUT.table.tolist() == [[10, 11, 12], [20, 21, -1]]


def test_code_tokens_are_named_as_in_public_datasets() -> None:
    assert code_token_names([2, 1]) == [["<a_0>", "<a_1>"], ["<b_0>"]]
