"""A gradient is the same in graphs; without a GPU a graph is a call, on memory that stands where it stood."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from service.training import graphed
from service.training.graphed import GraphedGradient
from service.training.sasrec import SasRec, SasRecRecipe
from tests.engine.test_graphs import Captured, WaitsForNothing

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NUM_ITEMS = 5000  # as many as kernels for large tables are for
RECIPE = SasRecRecipe(width=16, max_items=40, dropout=0.0)


@pytest.fixture
def num_captured(monkeypatch) -> list[int]:
    """How often something was captured, in its only element."""
    count, capture_on = [0], graphed.capture_on

    def counting(device: torch.device):
        capture = Captured if device.type == "cpu" else capture_on(device)

        def capture_one(function):
            count[0] += 1
            return capture(function)

        return capture_one

    monkeypatch.setattr(graphed, "capture_on", counting)
    return count


def test_each_step_is_what_it_is_without_them(num_captured: list[int]) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    codes = rng.integers(20, size=(NUM_ITEMS, 2)).astype(np.int32)
    plain = SasRec(NUM_ITEMS, RECIPE, codes).to(DEVICE)
    same = copy.deepcopy(plain)
    gather_gradient = GraphedGradient(same, same.loss)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (plain, same)]
    for longest in (
        10,
        30,
        10,
        10,
        30,
    ):  # shapes that come again, each with the same lengths in another order
        lengths = rng.permutation(np.linspace(2, longest, 16).astype(int))
        histories = [rng.integers(NUM_ITEMS, size=length) for length in lengths]
        asked = plain.foreseen(histories)
        with WaitsForNothing():  # else it could not be captured
            loss = plain.loss(*asked)
        optimizers[0].zero_grad()
        loss.backward()
        torch.testing.assert_close(gather_gradient(*asked), loss, rtol=1e-4, atol=1e-5)
        for one, other in zip(plain.parameters(), same.parameters(), strict=True):
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-5)
        for optimizer in optimizers:
            optimizer.step()
    assert num_captured == [2]


def test_dropout_is_drawn_anew(num_captured: list[int]) -> None:
    torch.manual_seed(0)
    model = SasRec(50, SasRecRecipe(width=16, max_items=40, dropout=0.5)).to(DEVICE)
    gather_gradient = GraphedGradient(model, model.loss)
    asked = model.foreseen([np.arange(20)])
    assert len({float(gather_gradient(*asked)) for _ in range(5)}) == 5


def test_without_a_gpu_there_are_none() -> None:
    model = nn.Linear(2, 1)
    gather_gradient = GraphedGradient(model, lambda x: model(x).sum())
    for count in (3, 4):
        x = torch.ones(count, 2)
        torch.testing.assert_close(gather_gradient(x), model(x).sum().detach())
        torch.testing.assert_close(model.weight.grad, torch.full((1, 2), float(count)))
