"""Numbers arrive as they were, where kernels want them."""

import numpy as np
import pytest
import torch

from service.model.transfer import sent, sent_together

CPU = torch.device("cpu")


def test_what_is_sent_arrives() -> None:
    assert sent(np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::2], CPU).tolist() == [[0, 2], [3, 5]]
    assert sent({4: "a", 2: "b"}, CPU).tolist() == [4, 2]
    assert sent([], CPU).dtype == torch.int64


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7])
def test_what_is_sent_together_arrives_apart_and_begins_where_kernels_want_it(count: int) -> None:
    given = [list(range(begin, begin + count)) for begin in (0, 10, 20)]
    arrived = sent_together(*given, device=CPU)
    assert [part.tolist() for part in arrived] == given
    assert all(part.is_contiguous() for part in arrived)
    assert {(part.data_ptr() - arrived[0].data_ptr()) % 16 for part in arrived} == {0}
