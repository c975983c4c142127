"""The benchmark with writers that are as slow and as wrong as a test wants them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from service.data.split import Case
from service.engine.reference import write_list
from service.engine.tree import TreeShape
from service.evaluation.decode_bench import (
    COLUMNS,
    Question,
    in_batches,
    measure_decode,
    meet_all_shapes,
    requests_of,
    with_speed_ups,
)
from service.evaluation.decode_methods import Method, Writer, shape_of, transformers_method
from service.model.draft_config import DraftConfig
from service.types import DecodedList, DecodeRequest, SpeculationCounts


@dataclass
class FakeEngine:
    """The reference's lists, or the same backwards, and the counts of a draft; user i's list took 3 + i rounds."""

    lists: list[DecodedList]
    name: str = "engine"
    log: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    backwards: bool = False

    def start(self, batch: int) -> Writer:
        return Writer(self.write)

    def write(self, requests: Sequence[DecodeRequest]) -> list[DecodedList]:
        self.log.append((self.name, tuple(request.request_id for request in requests)))
        return [self.one(request.seed) for request in requests]

    def one(self, user: int) -> DecodedList:
        done = self.lists[user]
        return replace(
            done,
            items=done.items[::-1] if self.backwards else done.items,
            num_rounds=3 + user,
            num_round_tokens=12,
            num_round_forced_tokens=6,
            speculation=SpeculationCounts(2, 8, (2, 1, 1), (4, 0)),
        )


@pytest.fixture(scope="module")
def lists(shop) -> list[DecodedList]:
    return [write_list(shop.model, shop.catalogue.codes, shop.layout, request) for request in shop.requests]


@pytest.fixture
def question(shop) -> Question:
    return Question(shop.model, shop.catalogue, shop.layout, shop.requests, num_checked=3, seed=0)


SHAPE = TreeShape(num_passes=4, width=8, num_candidates=24, num_places=48, constrained=False)


def test_a_row_for_each_batch_and_method(shop, lists, question: Question) -> None:
    plain, draft = FakeEngine(lists), FakeEngine(lists)
    methods = [
        Method("autoregressive", plain.start),
        Method("draft-both", draft.start, draft="seed-1", tree="tree", shape=SHAPE, constrained=False),
        transformers_method(shop.model, shop.catalogue, shop.layout),
    ]
    shown: list[tuple[int, int, str]] = []
    rows = measure_decode(
        question, methods, batches=[1, 3], repeats=2, on_progress=lambda *at: shown.append(at)
    )
    assert [(row["method"], row["batch"]) for row in rows] == [
        (name, batch) for batch in (1, 3) for name in ("autoregressive", "draft-both", "transformers")
    ]
    assert {tuple(row) for row in rows} == {COLUMNS}
    json.dumps(rows, allow_nan=False)
    assert shown[:3] == [(i, 3, "lists of the reference") for i in (1, 2, 3)]
    assert shown[-1] == (2 * 3 * 3, 2 * 3 * 3, "batches of 3")

    for alone, drafted, theirs in (rows[:3], rows[3:]):
        assert alone["speed_up"] == 1.0
        assert drafted["speed_up"] == drafted["lists_per_second"] / alone["lists_per_second"]
        assert alone["draft"] is alone["tree"] is alone["accepted_by_step"] is alone["passes"] is None
        assert (drafted["draft"], drafted["tree"], drafted["constrained"]) == ("seed-1", "tree", False)
        assert (drafted["passes"], drafted["width"], drafted["places"]) == (4, 8, 48)
        # Users' rounds are 3 to 9; the two that fill up the last batch of three do not count.
        assert drafted["users"] == 7
        assert drafted["rounds_per_list"] == 6
        assert drafted["ms_per_pass"] == drafted["ms_per_list_p50"] / 7
        assert drafted["weight_reads_per_pass"] > 0
        assert drafted["accepted_length"] == 2.0
        assert drafted["accepted_length_without_forced"] == 1.0
        assert drafted["accepted_by_step"] == [1.0, 0.5, 0.5]
        assert drafted["accepted_by_slot"] == [2.0, 0.0]
        assert drafted["draft_tokens_per_round"] == 8 / 6
        assert drafted["equal_to_reference"] == 1.0
        assert [drafted[name] for name in ("num_different", "largest_gap", "num_wide", "not_allowed")] == [
            0,
            None,
            0,
            0,
        ]
        assert (theirs["accepted_length"], theirs["equal_to_reference"]) == (None, None)
        assert theirs["ms_per_pass"] is None
        assert (theirs["constrained"], theirs["temperature"]) == (False, 0.0)
        for row in (alone, drafted, theirs):
            assert 0 < row["ms_per_list_p50"] <= row["ms_per_list_p99"]
            assert row["peak_memory_bytes"] is None  # no GPU


def test_lists_of_an_engine_that_is_wrong_show(lists, question: Question) -> None:
    engine = FakeEngine(lists, backwards=True)
    [row] = measure_decode(question, [Method("autoregressive", engine.start)], batches=[2], repeats=1)
    assert row["equal_to_reference"] == 0.0
    assert row["num_different"] == 3
    assert row["num_wide"] + row["not_allowed"] == 3


def test_methods_take_turns_batch_by_batch(lists, question: Question) -> None:
    log: list[tuple[str, tuple[str, ...]]] = []
    methods = [Method(name, FakeEngine(lists, name, log).start) for name in "abc"]
    measure_decode(question, methods, batches=[3], repeats=4)
    warm_up, timed = log[:9], log[9:]
    assert [name for name, _ in warm_up] == list("aaabbbccc")
    cold: list[tuple[str, tuple[str, ...]]] = []
    methods = [Method(name, FakeEngine(lists, name, cold).start) for name in "abc"]
    measure_decode(question, methods, batches=[3], repeats=4, warms_up=False)
    assert cold == timed
    orders = set()
    for begin in range(0, len(timed), 3):
        names, batches = zip(*timed[begin : begin + 3], strict=True)
        assert sorted(names) == list("abc")
        assert len(set(batches)) == 1
        orders.add(names)
    assert len(orders) > 1


@pytest.mark.parametrize(("num_new", "turns"), [((5, 2, 0, 1, 0, 0, 9), 6), ((0, 0), 2), ((1,) * 50, 12)])
def test_lists_are_timed_when_no_shape_is_new(shop, num_new: tuple[int, ...], turns: int) -> None:
    written: list[DecodeRequest] = []
    work = in_batches(shop.requests, 7)

    def write(requests: Sequence[DecodeRequest]) -> list[DecodedList]:
        written.extend(requests)
        return []

    meet_all_shapes(write, lambda: sum(num_new[: len(written) // 7]), work)
    assert written == work[0] * turns


@pytest.mark.parametrize(("batch", "count"), [(1, 7), (3, 3), (7, 1), (16, 1)])
def test_batches_are_of_equal_size(shop, batch: int, count: int) -> None:
    batches = in_batches(shop.requests, batch)
    assert [len(requests) for requests in batches] == [batch] * count
    together = [request for requests in batches for request in requests]
    assert len({request.request_id for request in together}) == len(together)
    assert [request.history for request in together] == [
        shop.requests[place % 7].history for place in range(len(together))
    ]


def test_requests_are_the_gateway_s() -> None:
    history = np.array([5, 6, 5, 7], dtype=np.int32)
    options = {"num_items": 3, "max_history_items": 2, "temperature": 0.5, "top_p": 0.9, "seed": 40}
    cases = [Case(0, history, 1), Case(1, history[:1], 1)]
    first, second = requests_of(cases, exclude_seen=True, **options)
    assert first == DecodeRequest("0", (5, 7), 3, (5, 6, 7), temperature=0.5, top_p=0.9, seed=40)
    assert second == DecodeRequest("1", (5,), 3, (5,), temperature=0.5, top_p=0.9, seed=41)
    assert requests_of(cases, exclude_seen=False, **options)[0].excluded == ()


def test_without_the_autoregressive_row_there_is_no_speed_up() -> None:
    rows = [
        {"method": "draft-none", "lists_per_second": 4.0},
        {"method": "autoregressive", "lists_per_second": 2.0},
    ]
    assert [row["speed_up"] for row in with_speed_ups(rows)] == [2.0, 1.0]
    assert with_speed_ups(rows[:1])[0]["speed_up"] is None


def test_transformers_writes_whole_lists_from_padded_prompts(shop, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[torch.Tensor] = []
    generate = shop.model.generate

    def recording(**options):
        written.append(generate(**options))

    monkeypatch.setattr(shop.model, "generate", recording)
    method = transformers_method(shop.model, shop.catalogue, shop.layout)
    assert method.weights == 4 * shop.model.num_parameters()
    assert list(method.start(7).write(shop.requests)) == []
    prompts = [shop.layout.prompt(shop.catalogue.codes[list(request.history)]) for request in shop.requests]
    # The separator is this model's end token, and yet a list is written to its end.
    assert written[0].shape == (7, max(map(len, prompts)) + 4 * 3)
    for prompt, tokens in zip(prompts, written[0], strict=True):
        context = torch.tensor(prompt).unsqueeze(0)
        for token in tokens[-12:]:
            assert int(token) == int(shop.model(input_ids=context).logits[0, -1].argmax())
            context = torch.cat([context, token.view(1, 1)], dim=1)


def test_sampled_lists_have_their_temperature_and_no_gaps(shop, lists, question: Question) -> None:
    question = replace(
        question, requests=[replace(request, temperature=0.7, top_p=0.01) for request in shop.requests]
    )
    for backwards in (False, True):
        method = Method("draft-both", FakeEngine(lists, backwards=backwards).start)
        [row] = measure_decode(question, [method], batches=[7], repeats=1)
        # So small a top_p leaves the greedy list.
        assert row["temperature"] == 0.7
        assert row["equal_to_reference"] == (0.0 if backwards else 1.0)
        assert row["largest_gap"] is None


def test_shapes_are_the_draft_s_own_unless_said(shop) -> None:
    def config(variant):
        return DraftConfig.like(shop.model.config, variant, num_levels=2, num_items=80, max_steps=6)

    assert shape_of("tree", config("both"), constrained=True) == TreeShape.tree(config("both"))
    chain = shape_of("chain", config("slots"), constrained=False, passes=3, width=5)
    assert (chain.num_passes, chain.width, chain.num_places, chain.constrained) == (3, 1, 9, False)
    tree = shape_of("tree", config("none"), constrained=True, passes=2, width=40, places=7)
    assert (tree.num_passes, tree.width, tree.num_candidates, tree.num_places) == (2, 40, 40, 7)
