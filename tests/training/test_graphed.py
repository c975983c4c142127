"""A loss and its gradient are the same in graphs; without a GPU what graphs do to memory is done by hand."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from service.training import graphed
from service.training.graphed import GraphedLoss
from service.training.sasrec import SasRec, SasRecRecipe
from tests.engine.test_graphs import WaitsForNothing

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NUM_ITEMS = 5000  # as many as kernels for large tables are for
RECIPE = SasRecRecipe(width=16, max_items=40, dropout=0.0)


class InPlace:
    """In place of `make_graphed_callables`: inputs, loss and gradients stand where they stood at the last call."""

    def __init__(self) -> None:
        self.shapes: list[tuple[torch.Size, ...]] = []

    def __call__(self, module: nn.Module, samples: tuple[torch.Tensor, ...], pool: object) -> object:
        self.shapes.append(tuple(sample.shape for sample in samples))
        parameters = tuple(module.parameters())
        gradients = [torch.empty_like(parameter) for parameter in parameters]
        loss = torch.empty(())

        class Replayed(torch.autograd.Function):
            @staticmethod
            def forward(ctx, *inputs: torch.Tensor) -> torch.Tensor:
                for sample, given in zip(samples, inputs, strict=False):
                    sample.copy_(given)
                with torch.enable_grad():
                    found = module(*samples)
                loss.copy_(found.detach())
                for place, gradient in zip(gradients, torch.autograd.grad(found, parameters), strict=True):
                    place.copy_(gradient)
                return loss.detach()

            @staticmethod
            def backward(ctx, _):
                return (None,) * len(samples) + tuple(gradient.detach() for gradient in gradients)

        return lambda *inputs: Replayed.apply(*inputs, *parameters)


@pytest.fixture
def captures(monkeypatch) -> InPlace:
    made = InPlace()
    if DEVICE.type == "cpu":
        monkeypatch.setattr(graphed, "_captures", lambda _: True)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
        monkeypatch.setattr(torch.cuda, "make_graphed_callables", made)
    return made


def test_each_step_is_what_it_is_without_them(captures: InPlace) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    codes = rng.integers(20, size=(NUM_ITEMS, 2)).astype(np.int32)
    plain = SasRec(NUM_ITEMS, RECIPE, codes).to(DEVICE)
    same = copy.deepcopy(plain)
    loss_of = GraphedLoss(same, same.loss)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (plain, same)]
    for length in (10, 30, 10, 10, 30):  # shapes that come again
        histories = [rng.integers(NUM_ITEMS, size=length) for _ in range(16)]
        asked = plain.foreseen(histories)
        with WaitsForNothing():  # else it could not be captured
            plain.loss(*asked).backward()
        optimizers[0].zero_grad()
        losses = plain.loss(*asked), loss_of(*asked)
        torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
        for loss, optimizer in zip(losses, optimizers, strict=True):
            loss.backward()
            optimizer.step()
        for one, other in zip(plain.parameters(), same.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5)
        for optimizer in optimizers:
            optimizer.zero_grad()
    if DEVICE.type == "cpu":
        assert len(captures.shapes) == len(set(captures.shapes)) == 2


def test_without_a_gpu_there_are_none() -> None:
    model = nn.Linear(2, 1)
    loss = GraphedLoss(model, lambda x: model(x).sum())
    x = torch.ones(3, 2)
    torch.testing.assert_close(loss(x), model(x).sum())
