"""A loss and its gradient are the same in graphs; without a GPU there are none."""

import copy

import numpy as np
import torch

from service.training.graphed import GraphedLoss
from service.training.sasrec import SasRec, SasRecRecipe
from tests.engine.test_graphs import WaitsForNothing

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NUM_ITEMS = 5000  # as many as kernels for large tables are for
RECIPE = SasRecRecipe(width=16, max_items=40, dropout=0.0)


def test_each_step_is_what_it_is_without_them() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    codes = rng.integers(20, size=(NUM_ITEMS, 2)).astype(np.int32)
    plain = SasRec(NUM_ITEMS, RECIPE, codes).to(DEVICE)
    graphed = copy.deepcopy(plain)
    loss_of = GraphedLoss(graphed, graphed.loss)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (plain, graphed)]
    for longest in (10, 30, 10, 10, 30):  # shapes that come again
        histories = [rng.integers(NUM_ITEMS, size=rng.integers(2, longest)) for _ in range(16)]
        asked = plain.foreseen(histories)
        with WaitsForNothing():  # else it could not be captured
            plain.loss(*asked).backward()
        optimizers[0].zero_grad()
        losses = plain.loss(*asked), loss_of(*graphed.foreseen(histories))
        torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
        for loss, optimizer in zip(losses, optimizers, strict=True):
            loss.backward()
            optimizer.step()
        for one, other in zip(plain.parameters(), graphed.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5)
        for optimizer in optimizers:
            optimizer.zero_grad()
