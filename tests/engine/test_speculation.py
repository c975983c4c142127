"""With any draft, any tree and any batch, the engine writes what the reference writes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.engine.engine import Engine
from service.engine.load import Always, TreeChoice
from service.engine.reference import write_list
from service.engine.shapes import Shapes
from service.engine.target_pass import TargetPass
from service.engine.tree import TreeShape
from service.errors import InputError
from service.model.draft import VARIANTS, Draft, DraftConfig
from service.types import DecodedList, DecodeRequest
from tests.engine.conftest import FAMILIES, Setting, assert_equal, random_draft, random_requests

CHAIN = TreeShape(num_passes=4, width=1, num_candidates=1, num_places=12)
TREE = TreeShape(num_passes=3, width=4, num_candidates=7, num_places=11)


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("shape", [CHAIN, TREE], ids=["chain", "tree"])
@pytest.mark.parametrize(
    ("variant", "constrained"),
    [*((variant, True) for variant in VARIANTS), *((v, False) for v in VARIANTS if v != "slots")],
)
def test_equals_the_reference(shop, variant: str, shape: TreeShape, constrained: bool, sampled: bool) -> None:
    requests = random_requests(10, 200, seed=5, sampled=sampled)
    draft = random_draft(shop, variant)
    tree = replace(shape, constrained=constrained)
    engine = Engine(shop.model, shop.catalogue, shop.layout, max_batch=4, draft=draft, trees=Always(tree))
    for request, done in zip(requests, engine.write(requests), strict=True):
        assert_equal(done, write_list(shop.model, shop.catalogue.codes, shop.layout, request))


def random_case(seed: int) -> tuple[Setting, Draft, TreeShape, list[DecodeRequest]]:
    """Any family, windows shorter than the prompt, shared IDs and codes, tiny catalogues, any draft and tree."""
    rng = np.random.default_rng(seed)
    sizes = tuple(rng.integers(1, 7, size=rng.integers(1, 5)).tolist())
    num_items = int(rng.choice([1, 2, 3, 5, 20, 60]))
    codes = np.stack([rng.integers(size, size=num_items) for size in sizes], axis=1)
    catalogue = Catalogue.build([f"i{i}" for i in range(num_items)], codes, [""] * num_items)
    begin = np.full(len(sizes) + 1, 3) if rng.random() < 0.3 else np.cumsum([3, *sizes])
    layout = TokenLayout(
        prefix=(0,) if rng.random() < 0.8 else (),
        list_start=(1,) if rng.random() < 0.8 else (),
        separator=2,
        code_tokens=tuple(tuple(range(b, b + n)) for b, n in zip(begin, sizes, strict=False)),
    )
    family = str(rng.choice(list(FAMILIES)))
    window = {}
    if family != "llama" and rng.random() < 0.6:
        window = {"sliding_window": int(rng.integers(2, 30))}
        if family.startswith("qwen"):
            window |= {"use_sliding_window": True, "max_window_layers": int(rng.integers(0, 3))}
    config_type, model_type = FAMILIES[family]
    config = config_type(
        vocab_size=3 + sum(sizes),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=0,
        tie_word_embeddings=False,
        **window,
    )
    torch.manual_seed(seed)
    model = model_type(config).eval().requires_grad_(False)
    model.lm_head.weight.mul_(20.0)
    variant = str(rng.choice(VARIANTS))
    shape = DraftConfig.like(
        config,
        variant,
        num_levels=len(sizes),
        num_items=num_items,
        max_steps=int(rng.integers(1, 8)),
        features=str(rng.choice(["last", "fused"])),
    )
    draft = Draft(shape).eval().requires_grad_(False)
    passes, width, candidates, guesses = (int(n) for n in rng.integers(1, (8, 6, 9, 30)))
    least, constrained = float(rng.choice([0, 0, 0.01, 0.3])), variant == "slots" or bool(rng.random() < 0.7)
    share = None if rng.random() < 0.5 else int(rng.integers(1, guesses + 1))
    tree = TreeShape(passes, width, candidates, guesses, least, constrained, share)
    requests = []
    history: tuple[int, ...] = ()
    for index in range(int(rng.integers(1, 10))):
        # Now and then the same user comes back.
        known = history if rng.random() < 0.4 else ()
        history = (*known, *rng.integers(num_items, size=rng.integers(not known, 15)).tolist())
        excluded = tuple(rng.integers(num_items, size=rng.choice([0, 2, num_items, 3 * num_items])).tolist())
        request = DecodeRequest(
            f"r{index}", history, int(rng.choice([1, 2, 3, 5, 9, 14])), excluded, seed=index
        )
        if rng.random() < 0.4:
            temperature, top_p = float(rng.uniform(0.05, 1.5)), float(rng.uniform(0.2, 1))
            request = replace(request, temperature=temperature, top_p=top_p)
        if rng.random() < 0.3:
            bits = np.packbits(rng.random(num_items) < 0.5, bitorder="little")
            request = replace(request, allowed=bits.tobytes())
        requests.append(request)
    return Setting(model, catalogue, layout), draft, tree, requests


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("pads", [False, True])
def test_whatever_joins_leaves_and_is_dropped(seed: int, pads: bool, monkeypatch) -> None:
    """Also in the shapes of a GPU, where rows, columns and places are computed in vain."""
    if pads:
        monkeypatch.setattr(Shapes, "of", lambda _: Shapes(16, 64, pads=True))
    setting, draft, tree, requests = random_case(seed)
    rng = np.random.default_rng(seed)
    num_prefixes = int(rng.choice([0, 1, 2, 9]))
    engine = Engine(
        setting.model,
        setting.catalogue,
        setting.layout,
        draft=draft,
        trees=Always(tree),
        num_prefixes=num_prefixes,
    )
    waiting, done = list(requests), dict[str, DecodedList]()
    dropped: set[str] = set()
    while waiting or engine.num_running:
        engine.add([waiting.pop(0) for _ in range(min(int(rng.integers(0, 4)), len(waiting)))])
        if rng.random() < 0.1:
            dropped.add(victim := f"r{rng.integers(10)}")
            engine.drop([victim])
        for _ in range(int(rng.integers(0, 3))):
            done |= {result.request_id: result for result in engine.round()}
    for request in requests:
        if request.request_id in done:
            reference = write_list(setting.model, setting.catalogue.codes, setting.layout, request)
            assert_equal(done[request.request_id], reference)
        else:
            assert request.request_id in dropped


class Anything(TreeChoice):
    """Another tree every round, and now and then none."""

    def __init__(self, shapes: tuple[TreeShape, ...]) -> None:
        self.shapes = shapes
        self.noted: list[tuple[TreeShape | None, int]] = []
        self._draws = np.random.default_rng(0)

    def choose(self, batch: int) -> TreeShape | None:
        return (None, None, *self.shapes)[self._draws.integers(2 + len(self.shapes))]

    def note(self, tree: TreeShape | None, batch: int, num_tokens: int, seconds: float) -> None:
        assert num_tokens >= batch
        assert seconds > 0
        self.noted.append((tree, num_tokens))


@pytest.mark.parametrize("pads", [False, True])
@pytest.mark.parametrize("variant", ["both", "slots"])
def test_trees_may_change_from_round_to_round(shop, variant: str, pads: bool, monkeypatch) -> None:
    if pads:
        monkeypatch.setattr(Shapes, "of", lambda _: Shapes(16, 64, pads=True))
    requests = random_requests(12, 200, seed=6, sampled=True)
    choice = Anything((TREE, CHAIN, replace(TREE, num_passes=1, num_places=3)))
    draft = random_draft(shop, variant)
    engine = Engine(shop.model, shop.catalogue, shop.layout, 5, draft, choice)
    lists = engine.write(requests)
    for request, done in zip(requests, lists, strict=True):
        assert_equal(done, write_list(shop.model, shop.catalogue.codes, shop.layout, request))
    assert {tree for tree, _ in choice.noted} == {None, *choice.shapes}
    assert sum(count for _, count in choice.noted) == sum(done.num_round_tokens for done in lists)


@pytest.mark.parametrize("variant", ["both", "slots"])
def test_guesses_do_not_depend_on_the_batch(shop, variant: str) -> None:
    """A draft that read another list's cache would still give the right lists, of fewer accepted guesses."""
    requests = random_requests(12, 200, seed=11, sampled=False)
    draft = random_draft(shop, variant)

    def counts(engine: Engine) -> dict[str, tuple[int, ...]]:
        waiting, found = list(requests), {}
        while waiting or engine.num_running:
            room = engine.max_batch - engine.num_running
            engine.add([waiting.pop(0) for _ in range(min(room, len(waiting), 2))])
            for done in engine.round():
                spent = done.speculation
                assert sum(spent.accepted_per_position) == sum(spent.accepted_per_slot)
                found[done.request_id] = (done.num_rounds, spent.num_draft_tokens, *spent.accepted_per_slot)
        return found

    alone, together = (
        counts(
            Engine(shop.model, shop.catalogue, shop.layout, max_batch=batch, draft=draft, trees=Always(TREE))
        )
        for batch in (1, 5)
    )
    assert alone == together


@pytest.mark.parametrize("variant", [None, "both", "slots"])
@pytest.mark.parametrize("busy", [False, True])
def test_a_prefill_that_fails_leaves_no_trace(shop, variant: str | None, busy: bool, monkeypatch) -> None:
    requests = random_requests(6, 200, seed=12, sampled=True)
    draft = None if variant is None else random_draft(shop, variant)
    engine = Engine(shop.model, shop.catalogue, shop.layout, draft=draft, trees=Always(TREE))
    if busy:
        engine.add(requests[:2])
        engine.round()

    def out_of_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(TargetPass, "__call__", out_of_memory)
        with pytest.raises(torch.OutOfMemoryError):
            engine.add(requests[2:4])
    engine.drop([request.request_id for request in requests[:4]])
    assert engine.num_running == 0
    for request, done in zip(requests, engine.write(requests), strict=True):
        assert_equal(done, write_list(shop.model, shop.catalogue.codes, shop.layout, request))


def test_a_later_prefill_that_fails_costs_those_before_it_nothing(shop, monkeypatch) -> None:
    monkeypatch.setattr(Shapes, "of", lambda _: Shapes(1, 1, pads=False, most_tokens=1))
    requests = random_requests(4, 200, seed=12, sampled=True)
    engine = Engine(shop.model, shop.catalogue, shop.layout, 8, random_draft(shop, "slots"), Always(TREE))
    forward, calls = TargetPass.__call__, iter([True, True, False])

    def third_fails(self, read, rows):
        if not next(calls):
            raise torch.OutOfMemoryError("no memory")
        return forward(self, read, rows)

    with monkeypatch.context() as patch:
        patch.setattr(TargetPass, "__call__", third_fails)
        with pytest.raises(torch.OutOfMemoryError):
            engine.add(requests)
    assert engine.num_running == 2
    done: dict[str, DecodedList] = {}
    while engine.num_running:
        done |= {result.request_id: result for result in engine.round()}
    assert len(done) == 2
    for request in requests:
        if request.request_id in done:
            reference = write_list(shop.model, shop.catalogue.codes, shop.layout, request)
            assert_equal(done[request.request_id], reference)


def test_what_cannot_guess_is_refused(shop) -> None:
    with pytest.raises(ValueError, match="guesses nothing"):
        replace(TREE, width=0)
    with pytest.raises(InputError, match="needs the constraint"):
        Engine(
            shop.model,
            shop.catalogue,
            shop.layout,
            draft=random_draft(shop, "slots"),
            trees=Always(replace(TREE, constrained=False)),
        )
