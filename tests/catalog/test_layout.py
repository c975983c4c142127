from dataclasses import replace

import numpy as np

from service.catalog.layout import TokenLayout, code_token_names

LAYOUT = TokenLayout(prefix=(1,), list_start=(2,), separator=3, code_tokens=((10, 11, 12), (20, 21)))


def test_prompt_is_prefix_items_and_list_start() -> None:
    prompt = LAYOUT.prompt(np.array([[2, 0], [0, 1]]))
    assert prompt.tolist() == [1, 12, 20, 3, 10, 21, 3, 2]
    assert LAYOUT.prompt_length(2) == len(prompt)


def test_slots_say_what_follows_each_token_of_a_prompt() -> None:
    assert LAYOUT.next_slots(8).tolist() == [0, 1, 2, 0, 1, 2, 0, 0]


def test_items_of_a_history_may_be_joined_in_another_way() -> None:
    codes = np.array([[2, 0], [0, 1], [1, 1]])
    for between, prompt, slots in (
        ((7, 8), [1, 12, 20, 7, 8, 10, 21, 7, 8, 11, 21, 2], [0, 1, 2, 2, 0, 1, 2, 2, 0, 1, 2, 0]),
        ((), [1, 12, 20, 10, 21, 11, 21, 2], [0, 1, 0, 1, 0, 1, 0, 0]),
    ):
        layout = replace(LAYOUT, between=between)
        assert layout.prompt(codes).tolist() == prompt
        assert layout.next_slots(len(prompt)).tolist() == slots
        for count in range(4):
            assert layout.prompt_length(count) == len(layout.prompt(codes[:count]))


def test_table_marks_codes_that_a_level_does_not_have() -> None:
    assert LAYOUT.table.tolist() == [[10, 11, 12], [20, 21, -1]]


def test_code_tokens_are_named_as_in_public_datasets() -> None:
    assert code_token_names([2, 1]) == [["<a_0>", "<a_1>"], ["<b_0>"]]
