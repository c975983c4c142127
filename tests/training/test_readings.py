"""What the target makes of lists is the same, read once and kept, or read again for every batch."""

import numpy as np
import pytest
import torch

from service.catalog.layout import TokenLayout
from service.model.presets import Preset, preset_named
from service.model.target import build_target
from service.training import readings
from service.training.readings import Reader, Readings
from service.training.written_lists import WrittenBatches, WrittenLists

LAYOUT = TokenLayout(prefix=(1,), list_start=(2,), separator=3, code_tokens=((4, 5, 6), (7, 8, 9, 10)))
CODES = np.stack(np.unravel_index(np.arange(12), (3, 4)), axis=1).astype(np.int32)
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture
def batches() -> WrittenBatches:
    rng = np.random.default_rng(0)
    orders = [rng.permutation(12) for _ in range(10)]
    histories = [order[: 1 + n % 4] for n, order in enumerate(orders)]
    excluded = [history if n % 2 else history[:0] for n, history in enumerate(histories)]
    return WrittenBatches(
        WrittenLists(histories, excluded, np.stack([order[6:9] for order in orders]), 10), CODES, LAYOUT
    )


@pytest.mark.parametrize("feature_layers", [(), (0, 1, 2)])
@pytest.mark.parametrize("memory", [1 << 30, 0])
def test_kept_or_not_readings_are_the_target_s(batches, feature_layers, memory: int, monkeypatch) -> None:
    tiny = preset_named("tiny")
    preset = Preset("toy", SHAPE, max_history_items=4, list_items=3, training=tiny.training, draft=tiny.draft)
    target = build_target(preset, 11, 64, seed=0).eval().requires_grad_(False)
    monkeypatch.setattr(readings, "memory_of", lambda _: memory)
    reader, read = Reader(target, feature_layers, CODES, LAYOUT), []
    kept = Readings(reader, batches, 4, read.append)
    assert read == ([4, 8, 10] if memory else [])
    for indices in (np.array([7, 2, 9]), np.array([4])):
        batch = batches.of(indices)
        got, expected = kept.of(indices, batch), reader.read(batch)
        assert len(got.states) == max(1, len(feature_layers))
        for ours, theirs in zip(got.states, expected.states, strict=True):
            is_real = torch.as_tensor(batch.attention)
            torch.testing.assert_close(ours[is_real], theirs[is_real])
        assert torch.equal(got.allowed, expected.allowed)
        torch.testing.assert_close(got.probabilities, expected.probabilities)
