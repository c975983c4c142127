import pytest
import torch

from service.evaluation import weight_read
from service.evaluation.weight_read import weight_read_seconds


def test_half_of_a_copy_and_no_more_memory_than_it_needs(monkeypatch) -> None:
    sizes = []

    def seconds(work, device, repeats) -> float:
        sizes.append(work().numel())
        return 0.5

    monkeypatch.setattr(weight_read, "median_seconds", seconds)
    monkeypatch.setattr(weight_read, "_MOST_BYTES", 1000)
    assert weight_read_seconds(600, torch.device("cpu")) == 0.25
    assert weight_read_seconds(3000, torch.device("cpu")) == pytest.approx(0.75)
    assert sizes == [600, 1000]
