import numpy as np
import torch

from service.engine.constraint import NOT_ALLOWED
from service.engine.sampling import (
    Sampling,
    choose,
    choose_batch,
    gumbel_noise,
    noise_of,
    perturbed_log_softmax,
)
from service.model.kernels import move_rows
from service.types import DecodeRequest


def test_noise_depends_on_seed_and_place_alone() -> None:
    np.testing.assert_array_equal(gumbel_noise(7, 5, 4), gumbel_noise(7, 50, 4)[:5])
    assert not np.array_equal(gumbel_noise(7, 5, 4), gumbel_noise(8, 5, 4))


def test_batch_equals_one_by_one() -> None:
    rng = np.random.default_rng(0)
    logits = torch.as_tensor(rng.normal(size=(400, 9)), dtype=torch.float32)
    widths = rng.integers(1, 10, size=400)
    for row, width in enumerate(widths):
        logits[row, width:] = NOT_ALLOWED
    log_probabilities = torch.log_softmax(logits, dim=-1)
    temperature = torch.as_tensor(
        rng.choice([0.0, 1e-45, 0.01, 0.5, 1.0, 1.7], size=400), dtype=torch.float32
    )
    top_p = torch.as_tensor(
        rng.choice([0.0, 1e-46, 0.05, 0.3, 0.8, 0.999, 1.0], size=400), dtype=torch.float32
    )
    noise = torch.as_tensor(gumbel_noise(3, 400, 9))
    together = choose_batch(log_probabilities, temperature, top_p, noise).tolist()
    for row, width in enumerate(widths):
        probabilities = log_probabilities[row, :width].exp()
        alone = choose(probabilities, float(temperature[row]), float(top_p[row]), noise[row, :width])
        assert together[row] == alone


def test_sampling_follows_the_distribution() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    noise = torch.as_tensor(gumbel_noise(0, 20_000, 4))
    counts = np.bincount([choose(probabilities, 1.0, 1.0, row) for row in noise], minlength=4) / len(noise)
    np.testing.assert_allclose(counts, probabilities, atol=0.015)


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    probabilities = torch.tensor([0.1, 0.5, 0.4])
    noise = torch.as_tensor(gumbel_noise(1, 50, 3))
    assert {choose(probabilities, 1.0, 0.45, row) for row in noise} == {1}
    assert {choose(probabilities, 1.0, 0.6, row) for row in noise} == {1, 2}


def test_a_draft_that_knows_the_target_guesses_the_token_that_is_drawn() -> None:
    logits = torch.as_tensor(np.random.default_rng(2).normal(size=(300, 8)), dtype=torch.float32)
    allowed = torch.as_tensor(np.random.default_rng(3).random((300, 8)) < 0.7)
    allowed[:, 0] = True
    noise = torch.as_tensor(gumbel_noise(4, 300, 8))
    temperature = torch.full((300,), 0.8)
    log_p = torch.log_softmax(torch.where(allowed, logits, NOT_ALLOWED), dim=-1)
    drawn = choose_batch(log_p, temperature, torch.ones(300), noise)
    ones = torch.ones(300)
    guessed = perturbed_log_softmax(logits, allowed, ones, temperature, noise).argmax(dim=-1)
    assert guessed.tolist() == drawn.tolist()


def test_lists_join_and_leave_with_their_noise() -> None:
    device = torch.device("cpu")
    greedy = DecodeRequest("g", (0,), 2)
    sampled = DecodeRequest("s", (0,), 3, temperature=0.5, seed=9)
    batch = Sampling.buffers(3, device)
    batch.put_noise(0, noise_of([greedy], 2, 4), 1, num_positions=8)
    assert batch.first(1, with_noise=True).noise is None
    batch.put_noise(1, noise_of([sampled], 2, 4), 1, num_positions=8)
    batch.put(torch.tensor([1]), torch.tensor([0.5]), torch.tensor([0.9]))
    assert batch.noise is not None
    assert batch.noise.shape == (3, 8, 4)
    assert batch.temperature.tolist() == [0.0, 0.5, 0.0]
    np.testing.assert_allclose(batch.top_p, [1.0, 0.9, 1.0])
    np.testing.assert_array_equal(batch.noise[1, :6], gumbel_noise(9, 6, 4))
    assert not batch.noise[0].any()
    assert batch.first(2, with_noise=False).noise is None
    move_rows(batch.parts(), [1], [0])
    at = batch.first(1, with_noise=True).at(torch.tensor([[5, 0]]))
    assert at is not None
    np.testing.assert_array_equal(at[0], gumbel_noise(9, 6, 4)[[5, 0]])
    batch.put_noise(0, noise_of([greedy], 2, 4), 1, num_positions=8)
    assert not batch.noise[0].any()
