"""Training a draft on a toy: every variant learns, nothing is left without a gradient, and it resumes to the bit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from service.catalog.layout import TokenLayout
from service.model.draft import Draft
from service.model.draft_config import VARIANTS, DraftConfig, guesses_items
from service.model.presets import DraftRecipe, Preset, preset_named
from service.model.target import build_target
from service.training.draft import Lesson, train_draft
from service.training.loop import Progress
from service.training.optimizers import decays, optimizers_for
from service.training.readings import Reader
from service.training.written_lists import WrittenBatches, WrittenLists

RECIPE = DraftRecipe(
    steps=8,
    batch_size=6,
    micro_batch_size=4,
    learning_rate=3e-3,
    num_lists=24,
    anchors=3,
    unroll=6,
    greedy_loss=0.5,
    validate_every=3,
)
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
PRESET = Preset(
    "toy", SHAPE, max_history_items=4, list_items=5, training=preset_named("tiny").training, draft=RECIPE
)
LAYOUT = TokenLayout(
    prefix=(1,), list_start=(2,), separator=3, code_tokens=((4, 5, 6), (7, 8, 9, 10), (11, 12))
)
# 3 x 4 x 2 codes without every fifth, so that some codes are forced; two items share an ID.
CODES = np.stack(np.unravel_index(np.arange(24), (3, 4, 2)), axis=1).astype(np.int32)
CODES = CODES[np.sort(np.append(np.flatnonzero(np.arange(24) % 5), 7))]


class StoppedError(Exception):
    """The power went out."""


@pytest.fixture(scope="module")
def target():
    model = build_target(PRESET, 13, 64, seed=0).eval().requires_grad_(False)
    model.get_output_embeddings().weight.mul_(8)
    return model


@pytest.fixture(scope="module")
def lists() -> WrittenLists:
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(CODES)) for _ in range(RECIPE.num_lists)]
    histories = [order[: 1 + n % 4] for n, order in enumerate(orders)]
    excluded = [history if n % 2 else history[:0] for n, history in enumerate(histories)]
    return WrittenLists(histories, excluded, np.stack([order[6:11] for order in orders]), len(orders))


def make_draft(target, variant="slots", features="last", unroll: int = RECIPE.unroll) -> Draft:
    recipe = replace(RECIPE, unroll=unroll)
    config = DraftConfig.like(
        target.config,
        variant,
        num_levels=3,
        num_items=len(CODES),
        max_steps=recipe.unroll_of(guesses_items(variant)),
        features=features,
    )
    torch.manual_seed(0)
    return Draft(config)


@pytest.fixture
def train(target, lists, tmp_path: Path):
    def run(work: str, *, variant="slots", features="last", stop_at: int | None = None, recipe=RECIPE):
        draft = make_draft(target, variant, features)
        losses: list[float] = []

        def on_progress(progress: Progress) -> None:
            losses.append(progress.loss)
            if progress.step == stop_at:
                raise StoppedError

        record = train_draft(
            draft,
            target,
            lists,
            CODES,
            LAYOUT,
            recipe,
            seed=0,
            work=tmp_path / work,
            fingerprint="f",
            validate=lambda _: {"accepted_length": float(len(losses))},
            metric="accepted_length",
            on_progress=on_progress,
        )
        return draft, record, losses

    return run


def reader_of(draft: Draft, target, codes=CODES) -> Reader:
    return Reader(target, draft.config.feature_layers(target.config.num_hidden_layers), codes, LAYOUT)


def losses_of(draft: Draft, target, lists: WrittenLists, unroll: int = RECIPE.unroll) -> torch.Tensor:
    reader = reader_of(draft, target)
    batch = WrittenBatches(lists, CODES, LAYOUT).of(np.arange(12))
    draws = np.random.default_rng(0).random((12, 20), dtype=np.float32)
    return Lesson(draft, reader, replace(RECIPE, unroll=unroll)).losses(batch, reader.read(batch), draws)


@pytest.mark.parametrize("features", ["last", "fused"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_learns(train, variant, features) -> None:
    recipe = replace(RECIPE, steps=120, validate_every=120)
    _, record, losses = train("w", variant=variant, features=features, recipe=recipe)
    assert losses[-1] < 0.93 * losses[0]
    assert record["best"] == {"step": 120, "metrics": {"accepted_length": 119.0}}
    assert record["recipe"]["unroll"] == RECIPE.unroll


@pytest.mark.parametrize("features", ["last", "fused"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_gets_a_gradient(target, lists, variant, features) -> None:
    draft = make_draft(target, variant, features)
    losses_of(draft, target, lists).sum().backward()
    for name, parameter in draft.named_parameters():
        assert parameter.grad is not None, name
        rows = parameter.grad if name == "position.step" else parameter.grad.flatten().unsqueeze(0)
        assert rows.abs().amax(dim=-1).gt(0).all(), name
    assert all(parameter.grad is None for parameter in target.parameters())


def test_a_stopped_run_ends_where_an_unbroken_one_does(train) -> None:
    unbroken, _, _ = train("one")
    with pytest.raises(StoppedError):
        train("two", stop_at=5)
    resumed, _, losses = train("two")
    assert len(losses) == 5  # from the state of step 3
    for (name, a), b in zip(unbroken.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("variant", ["both", "slots"])
def test_micro_batches_change_nothing(train, variant) -> None:
    _, _, one = train("one", variant=variant, recipe=replace(RECIPE, micro_batch_size=6))
    _, _, many = train("many", variant=variant, recipe=replace(RECIPE, micro_batch_size=1))
    assert one == pytest.approx(many, rel=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_later_guess_costs_what_a_pass_over_the_same_tokens_says(target, lists, variant) -> None:
    """One list, all its anchors: the unrolled guesses again, one by one, each from the whole of what it may see."""
    unroll = 3 if variant == "slots" else 6
    draft = make_draft(target, variant)
    batches = WrittenBatches(lists, CODES, LAYOUT)
    recipe = replace(RECIPE, anchors=1)
    num_guesses = 0
    for index in range(6):
        batch = batches.of(np.array([index]))
        draws = np.random.default_rng(index).random((1, 20), dtype=np.float32)
        reader = reader_of(draft, target)
        got = Lesson(draft, reader, recipe).losses(batch, reader.read(batch), draws).tolist()
        expected = slow_losses(draft, target, lists, index, draws[0], unroll)
        assert got == pytest.approx(expected, rel=1e-4)
        num_guesses += len(expected)
    assert num_guesses > 10


@torch.no_grad()
def slow_losses(draft: Draft, target, lists: WrittenLists, index: int, draws, unroll: int) -> list[float]:
    """As service guesses: a draft without batch, mask or padding, and the constraint by looking at all items."""
    rows, excluded = lists.rows[index].tolist(), set(lists.excluded[index].tolist())
    prompt = LAYOUT.prompt(CODES[lists.histories[index]])
    written = LAYOUT.item_tokens(CODES[rows]).ravel()
    start, tokens = len(prompt), torch.tensor([[*prompt, *written]])
    output = target.model(input_ids=tokens)
    features, logits = output.last_hidden_state[0], target(input_ids=tokens).logits[0]
    embeddings = target.get_input_embeddings()(tokens)[0]
    head = target.get_output_embeddings().weight
    slots = [0] + [(n + 1) % 4 for n in range(4 * len(lists.histories[index]))] + [0]
    slots += [(n + 1) % 4 for n in range(len(written))]

    def free(place: int, depth: int) -> list[int]:
        """Rows that may be written at a place and share the first codes of the item that was."""
        left = [row for row in range(len(CODES)) if row not in excluded and row not in rows[:place]]
        return [row for row in left if (CODES[row, :depth] == CODES[rows[place], :depth]).all()]

    def allowed(at: int) -> list[int]:
        place, level = divmod(at, 4)
        return [] if level == 3 else sorted({int(CODES[row, level]) for row in free(place, level)})

    def wanted(at: int) -> torch.Tensor:
        tokens_ = LAYOUT.table[at % 4, allowed(at)]
        return logits[start + at - 1, tokens_].softmax(-1)

    choices = [at for at in range(len(written)) if len(allowed(at)) > 1]
    begin = max(choices[:-1], key=lambda at: draws[at])

    inputs, positions = [], []

    def read(begin: int, end: int, feature: torch.Tensor | None, step: int) -> torch.Tensor:
        """norm(g) at the last of these tokens of the list."""
        for at in range(begin + start, end + start):
            before = features[at - 1] if at else torch.zeros(32)
            inputs.append(
                draft.inputs(
                    before if feature is None else feature, embeddings[at], torch.tensor(slots[at]), step
                )
            )
            positions.append(at)
        u, where = torch.stack(inputs).unsqueeze(0), torch.tensor([positions])
        keys, values = draft.keys_and_values(u, where)
        mask = torch.tril(torch.ones(1, len(inputs), len(inputs), dtype=torch.bool))
        return draft(u, where, keys, values, mask)[0, -1]

    def greedy_loss(guess: int, slot: int, scores: torch.Tensor, chosen: int) -> torch.Tensor:
        sharpness = draft.sharpness(guess + 1, torch.tensor(slot))
        return -RECIPE.greedy_loss * (scores * sharpness).log_softmax(-1)[chosen]

    read(-start, begin, None, 0)
    feature = features[start + begin - 1]
    losses = []
    for guess in range(unroll):
        if guess and draft.config.guesses_items:
            end = (begin // 4 + 1) * 4
        else:
            end = min([at for at in choices if at > begin], default=len(written))
        if end >= len(written) or end - begin > 4:
            break
        feature = read(begin, end, feature, guess + 1)
        place, slot = divmod(end, 4)
        if not draft.config.guesses_items:
            scores = head[LAYOUT.table[slot, allowed(end)]] @ feature
            chosen = allowed(end).index(CODES[rows[place], slot])
            soft = -(wanted(end) * scores.log_softmax(-1)).sum()
            losses.append(float(soft + greedy_loss(guess, slot, scores, chosen)))
        elif decided := [at for at in range(end, place * 4 + 3) if at in choices]:
            code_embeddings = torch.zeros(3, 4, 32)
            for level, codes in enumerate(LAYOUT.code_tokens):
                code_embeddings[level, : len(codes)] = head[list(codes)]
            vectors = draft.item_vectors(code_embeddings, torch.as_tensor(CODES, dtype=torch.int64))
            scores = draft.item_scores(feature, vectors)
            terms = []
            for at in decided:
                level = at % 4
                left = free(place, level)
                shares = scores[left].softmax(-1)
                implied = torch.stack(
                    [shares[[CODES[row, level] == code for row in left]].sum() for code in allowed(at)]
                )
                terms.append(F.cross_entropy(implied.log().unsqueeze(0), wanted(at).unsqueeze(0)))
            left = free(place, slot)
            greedy = greedy_loss(guess, slot, scores[left], left.index(rows[place]))
            losses.append(float(torch.stack(terms).mean() + greedy))
        begin = end
    return losses


def test_a_catalogue_that_leaves_no_choice_teaches_nothing(target) -> None:
    """Two items, one of them excluded: every token is forced."""
    only = WrittenLists([np.array([0])], [np.array([0])], np.array([[1]]), 1)
    draft = Draft(DraftConfig.like(target.config, "slots", num_levels=3, num_items=2, max_steps=3))
    reader = reader_of(draft, target, CODES[:2])
    batch = WrittenBatches(only, CODES[:2], LAYOUT).of(np.array([0]))
    losses = Lesson(draft, reader, RECIPE).losses(
        batch, reader.read(batch), np.full((1, 4), 0.5, dtype=np.float32)
    )
    assert losses.shape == (0,)


def test_weights_decay_and_nothing_else(target) -> None:
    draft = make_draft(target, "slots", "fused")
    matrices = {"fuse", "project", "q_proj", "kv_proj", "o_proj", "gate_up_proj", "down_proj", "item_query"}
    decayed = {name for name, parameter in draft.named_parameters() if decays(name, parameter)}
    assert decayed == {f"{name}.weight" for name in matrices} | {"slot_heads", "item_rest"}
    of_target = {name for name, parameter in target.named_parameters() if not decays(name, parameter)}
    assert all("norm" in name for name in of_target)


def test_every_parameter_has_one_optimizer(target) -> None:
    draft = make_draft(target, "slots", "fused")
    held = {
        type(optimizer).__name__: {id(p) for group in optimizer.param_groups for p in group["params"]}
        for optimizer in optimizers_for(draft, RECIPE)
    }
    names = {id(parameter): name for name, parameter in draft.named_parameters()}
    by_muon = {"q_proj", "kv_proj", "o_proj", "gate_up_proj", "down_proj"}
    assert {names[key] for key in held["BatchedMuon"]} == {f"{name}.weight" for name in by_muon}
    assert held["BatchedMuon"] | held["AdamW"] == set(names)
    assert not held["BatchedMuon"] & held["AdamW"]
