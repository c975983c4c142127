"""Muon for all matrices of a shape together, held against torch's own."""

import copy

import torch
from torch import nn

from service.training.muon import BatchedMuon, orthogonalized

SHAPES = ((8, 8), (8, 20), (20, 8), (8, 20), (3, 8))


def steps(
    optimizer: type[torch.optim.Optimizer], parameters: list[nn.Parameter], count: int, **options
) -> list:
    made = optimizer(parameters, lr=0.02, weight_decay=0.1, **options)
    gradients = torch.Generator().manual_seed(1)
    for step in range(count):
        made.param_groups[0]["lr"] = 0.02 / (step + 1)
        for parameter in parameters[:-1]:  # of the last nothing is asked
            parameter.grad = torch.randn(parameter.shape, generator=gradients)
        made.step()
    return [made.state_dict()["state"].get(number) for number in range(len(parameters))]


def test_it_does_what_torchs_does(monkeypatch) -> None:
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)  # in which torch's iteration is
    generator = torch.Generator().manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    torchs = copy.deepcopy(ours)
    states = steps(BatchedMuon, ours, 5)
    expected = steps(torch.optim.Muon, torchs, 5, adjust_lr_fn="match_rms_adamw")
    for one, other in zip(ours, torchs, strict=True):
        torch.testing.assert_close(one, other)
    for state, other in zip(states[:-1], expected[:-1], strict=True):
        assert state.keys() == other.keys()
        torch.testing.assert_close(state["momentum_buffer"], other["momentum_buffer"])
    assert states[-1] is expected[-1] is None


def test_nothing_to_do_changes_nothing() -> None:
    parameter = nn.Parameter(torch.ones(2, 3))
    BatchedMuon([parameter], lr=0.1).step()
    assert torch.equal(parameter, torch.ones(2, 3))


def test_matrices_are_made_orthogonal_each_for_itself() -> None:
    matrices = torch.randn(4, 30, 10, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1e-3, 1.0, 10.0, 1e4]
    ).view(-1, 1, 1)
    values = torch.linalg.svdvals(orthogonalized(matrices, (3.4445, -4.7750, 2.0315), 5, 1e-7).float())
    assert values.min() > 0.5
    assert values.max() < 1.3
    nothing = orthogonalized(torch.zeros(1, 3, 2), (3.4445, -4.7750, 2.0315), 5, 1e-7)
    assert not nothing.any()
