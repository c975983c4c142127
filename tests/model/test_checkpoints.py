from pathlib import Path

import torch
from torch import nn

from service.model.checkpoints import load_meta, load_state, save_state


def build() -> tuple[nn.Module, list[torch.optim.Optimizer]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1))
    # In another order than the model's own, in several groups and optimisers, as training has them.
    vectors = [p for p in model.parameters() if p.ndim < 2]
    first, last = [p for p in model.parameters() if p.ndim >= 2]
    return model, [
        torch.optim.Muon([first], lr=0.1),
        torch.optim.AdamW([{"params": [last]}, {"params": vectors}], lr=0.1),
    ]


def step(model: nn.Module, optimizers: list[torch.optim.Optimizer], seed: int) -> None:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
    model(x).square().mean().backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def test_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    file = tmp_path / "work" / "state.safetensors"
    whole, whole_optimizers = build()
    for seed in range(6):
        step(whole, whole_optimizers, seed)
        if seed == 2:
            save_state(file, whole, whole_optimizers, {"step": 3})
    resumed, resumed_optimizers = build()
    assert load_meta(file) == {"step": 3}
    load_state(file, resumed, resumed_optimizers)
    for seed in range(3, 6):
        step(resumed, resumed_optimizers, seed)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_no_state_or_a_torn_one_is_none(tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    assert load_meta(file) is None
    model, optimizers = build()
    save_state(file, model, optimizers, {"step": 1})
    file.write_bytes(file.read_bytes()[:50])
    assert load_meta(file) is None
