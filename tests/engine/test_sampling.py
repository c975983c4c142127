import numpy as np
import torch

from service.engine.sampling import choose, choose_batch, uniforms


def test_draws_depend_on_the_seed_alone_and_not_on_the_length() -> None:
    np.testing.assert_array_equal(uniforms(7, 5), uniforms(7, 50)[:5])
    assert not np.array_equal(uniforms(7, 5), uniforms(8, 5))


def test_batch_equals_one_by_one() -> None:
    rng = np.random.default_rng(0)
    logits = torch.as_tensor(rng.normal(size=(400, 9)), dtype=torch.float32)
    widths = rng.integers(1, 10, size=400)
    for row, width in enumerate(widths):
        logits[row, width:] = -torch.inf
    log_probabilities = torch.log_softmax(logits, dim=-1)
    temperature = torch.as_tensor(
        rng.choice([0.0, 1e-45, 0.01, 0.5, 1.0, 1.7], size=400), dtype=torch.float32
    )
    top_p = torch.as_tensor(
        rng.choice([0.0, 1e-46, 0.05, 0.3, 0.8, 0.999, 1.0], size=400), dtype=torch.float32
    )
    draws = torch.as_tensor(rng.random(400))
    together = choose_batch(log_probabilities, temperature, top_p, draws).tolist()
    for row, width in enumerate(widths):
        probabilities = log_probabilities[row, :width].exp()
        alone = choose(probabilities, float(temperature[row]), float(top_p[row]), float(draws[row]))
        assert together[row] == alone


def test_sampling_follows_the_distribution() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    draws = uniforms(0, 20_000)
    counts = np.bincount([choose(probabilities, 1.0, 1.0, draw) for draw in draws], minlength=4) / len(draws)
    np.testing.assert_allclose(counts, probabilities, atol=0.015)


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    probabilities = torch.tensor([0.1, 0.5, 0.4])
    assert {choose(probabilities, 1.0, 0.45, draw) for draw in np.linspace(0, 0.999, 50)} == {1}
    assert {choose(probabilities, 1.0, 0.6, draw) for draw in np.linspace(0, 0.999, 50)} == {1, 2}
