"""A round's kernels write what the functions do of which they are versions: on a GPU, or in Triton's interpreter."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from service.engine import graphs, passes
from service.engine.engine import Engine
from service.engine.load import Always, ByLoad
from service.engine.reference import write_list
from service.engine.shapes import Shapes
from service.engine.steps import Steps
from service.engine.tree import TreeShape
from service.types import DecodedList, DecodeRequest
from tests.engine.conftest import Setting, assert_equal, random_draft, random_requests, random_setting
from tests.engine.kernel_variants import Variant
from tests.engine.test_graphs import Captured

gpu_steps = pytest.importorskip("service.engine.gpu.steps", reason="Triton is for Linux alone")
gpu_extensions = pytest.importorskip("service.engine.gpu.extensions", reason="Triton is for Linux alone")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
VARIANTS = [  # draft, its features, whether lists are sampled, share of a tree
    (None, "last", False, None),
    ("none", "last", False, None),
    ("slots", "last", False, None),
    ("slots", "last", False, 4),
    ("slots", "fused", True, 5),
]
SHAPES = [(1, 20, 30), (2, 5, 40), (3, 4, 60)]  # levels, codes of each, items
CASES = [(*variant, *shape, 4, 5) for variant in VARIANTS for shape in SHAPES]
if (
    DEVICE == "cpu"
):  # the interpreter takes a millisecond for what takes a GPU less than one of its thousandths
    CASES = [(*variant, *SHAPES[1], 2, 2) for variant in VARIANTS]
    CASES.append((*VARIANTS[3], *SHAPES[1], 2, 3))  # of four rows one is nobody's
TREE = TreeShape(num_passes=3, width=2, num_candidates=5, num_places=14, min_probability=0.001)


@pytest.fixture
def write(monkeypatch) -> Callable[..., list[DecodedList]]:
    """Lists by way of one kind of steps, in the shapes of a GPU, and nothing of it a graph."""
    monkeypatch.setattr(Shapes, "of", lambda _: Shapes(16, 64, pads=True))
    monkeypatch.setattr(passes, "capture_on", lambda _: None)

    def write(
        kind: type[Steps], setting: Setting, requests: list[DecodeRequest], *others
    ) -> list[DecodedList]:
        for name in ("Steps", "KernelSteps"):
            monkeypatch.setattr(passes, name, kind)
        return Engine(setting.model, setting.catalogue, setting.layout, 4, *others).write(requests)

    return write


def as_on_a_gpu(monkeypatch, shapes: Shapes) -> None:
    """Its shapes, its kernels, and graphs, or without a GPU what stands in for them."""
    monkeypatch.setattr(Shapes, "of", lambda _: shapes)
    monkeypatch.setattr(passes, "KernelSteps", gpu_steps.KernelSteps)
    monkeypatch.setattr(passes, "Steps", gpu_steps.KernelSteps)
    if DEVICE == "cpu":
        monkeypatch.setattr(passes, "capture_on", lambda _: Captured)


def untimed(lists: list[DecodedList]) -> list[DecodedList]:
    """Without scores, which differ in their last digits, and what they took."""
    return [
        replace(
            done,
            prefill_seconds=0.0,
            decode_seconds=0.0,
            items=tuple(replace(item, score=0.0) for item in done.items),
        )
        for done in lists
    ]


@pytest.mark.parametrize(
    ("variant", "features", "sampled", "share", "num_levels", "size", "num_items", "longest", "count"), CASES
)
def test_lists_and_guesses_are_those_of_the_plain_steps(
    write,
    variant: str | None,
    features: str,
    sampled: bool,
    share: int | None,
    num_levels: int,
    size: int,
    num_items: int,
    longest: int,
    count: int,
) -> None:
    codes = np.random.default_rng(num_levels).integers(size, size=(num_items, num_levels))
    setting = random_setting(codes, (size,) * num_levels)
    setting.model.to(DEVICE)
    draft = None if variant is None else random_draft(setting, variant, features).to(DEVICE)
    requests = [
        replace(request, num_items=min(request.num_items, longest))
        for request in random_requests(count, num_items, seed=1, sampled=sampled)
    ]
    others = () if draft is None else (draft, Always(replace(TREE, share=share)))
    expected = write(Steps, setting, requests, *others)
    found = write(gpu_steps.KernelSteps, setting, requests, *others)
    assert untimed(found) == untimed(expected)
    for request, done in zip(requests, found, strict=True):
        assert_equal(done, write_list(setting.model, setting.catalogue.codes, setting.layout, request))


def test_a_catalogue_of_more_items_than_one_program_looks_at(write) -> None:
    codes = np.random.default_rng(5).integers(40, size=(2_100, 2))
    setting = random_setting(codes, (40, 40))
    setting.model.to(DEVICE)
    draft = random_draft(setting, "slots").to(DEVICE)
    requests = [replace(request, num_items=2) for request in random_requests(1, 2_100, seed=4, sampled=False)]
    tree = Always(replace(TREE, num_passes=2, width=1, num_candidates=3))
    expected = write(Steps, setting, requests, draft, tree)
    assert untimed(write(gpu_steps.KernelSteps, setting, requests, draft, tree)) == untimed(expected)


@pytest.mark.parametrize("kind", ["Steps", "KernelSteps"])
def test_a_list_that_the_prefill_finished_outlives_those_that_are_dropped_before_it(
    monkeypatch, kind: str
) -> None:
    monkeypatch.setattr(Shapes, "of", lambda _: Shapes(16, 64, pads=True))
    monkeypatch.setattr(passes, "capture_on", lambda _: None)
    monkeypatch.setattr(passes, "Steps", Steps if kind == "Steps" else gpu_steps.KernelSteps)
    monkeypatch.setattr(passes, "KernelSteps", Steps if kind == "Steps" else gpu_steps.KernelSteps)
    setting = random_setting(np.random.default_rng(2).integers(5, size=(40, 2)), (5, 5))
    setting.model.to(DEVICE)
    engine = Engine(setting.model, setting.catalogue, setting.layout, 4)
    forced = DecodeRequest("forced", (1, 2), 1, tuple(range(1, 40)))
    others = [DecodeRequest(f"other-{n}", (n,), 3) for n in range(2)]
    engine.add([*others, forced])
    engine.drop(["other-0"])
    [done] = engine.round()
    assert_equal(done, write_list(setting.model, setting.catalogue.codes, setting.layout, forced))
    assert engine.num_running == 1


def test_what_is_made_ready_before_lists_come_changes_none_of_them(monkeypatch) -> None:
    as_on_a_gpu(monkeypatch, Shapes(16, 64, pads=True))
    setting = random_setting(np.random.default_rng(2).integers(5, size=(40, 2)), (5, 5))
    setting.model.to(DEVICE)
    draft = random_draft(setting, "slots").to(DEVICE)
    tree = TreeShape(num_passes=1, width=1, num_candidates=2, num_places=6, share=2)
    engine = Engine(setting.model, setting.catalogue, setting.layout, 2, draft, Always(tree), max_items=3)
    longest = setting.layout.prompt_length(3)
    engine.reserve(longest)
    assert engine.make_ready(longest) == engine.num_captured > 0
    for number in range(2):  # as it was, and with what the first lists left
        requests = [DecodeRequest(f"{number} {user}", (user, number), 2 + user) for user in range(2)]
        for request, done in zip(requests, engine.write(requests), strict=True):
            assert_equal(done, write_list(setting.model, setting.catalogue.codes, setting.layout, request))


@pytest.mark.parametrize(
    ("num_items", "count", "can"),
    [(100, 24, True), (100, 101, False), (100_000, 24, True), (1_000_000, 24, False)],
)
def test_catalogues_that_are_too_large_for_kernels(num_items: int, count: int, can: bool) -> None:
    assert gpu_extensions.can_extend(num_items, count) == can


@pytest.fixture
def compiled(monkeypatch) -> Callable[..., set[Variant]]:
    """Watches for what a GPU would compile; kernels need not run where nothing is to come of them."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    interpret = interpreter.InterpretedFunction.run

    def watch(*, runs: bool = True) -> set[Variant]:
        seen: set[Variant] = set()

        def run(self, *args: object, **options: object) -> object:
            seen.add(Variant.of(self, args, options))
            return interpret(self, *args, **options) if runs else None

        monkeypatch.setattr(interpreter.InterpretedFunction, "run", run)
        return seen

    return watch


@pytest.mark.skipif(DEVICE == "cuda", reason="the interpreter is asked what would be compiled")
@pytest.mark.parametrize("share", [None, 4])
def test_no_kernel_is_compiled_for_a_caller(compiled, monkeypatch, share: int | None) -> None:
    as_on_a_gpu(monkeypatch, Shapes(16, 16, pads=True))
    # Every shape that is met gets a graph of its own.
    for name, value in {"_OFTEN": 1, "_SHARE_IN_SERVICE": 1e9, "_SHARE_IF_NEEDED": 1e9}.items():
        monkeypatch.setattr(graphs, name, value)
    setting = random_setting(np.random.default_rng(2).integers(5, size=(40, 2)), (5, 5))
    tree = TreeShape(num_passes=3, width=2, num_candidates=3, num_places=12, share=share)
    draft = random_draft(setting, "slots")
    seen = compiled()
    engine = Engine(setting.model, setting.catalogue, setting.layout, 2, draft, Always(tree), max_items=4)
    longest = setting.layout.prompt_length(4)
    engine.reserve(longest)
    engine.make_ready(longest)
    engine.begin_service()
    known, captured = set(seen), engine.num_captured
    waiting = [DecodeRequest(f"{user}", (user, user + 1)[: 1 + user % 2], 1 + user % 4) for user in range(6)]
    waiting.insert(2, DecodeRequest("beam", (3,), 3, decoding="beam"))
    while waiting or engine.num_running:
        engine.add([waiting.pop() for _ in range(min(len(waiting), 2 - engine.num_running))])
        engine.round()
    assert engine.num_captured > captured
    assert seen == known


@pytest.mark.skipif(DEVICE == "cuda", reason="the interpreter is asked what would be compiled")
def test_what_is_made_ready_for_many_lists_and_trees_takes_few_kernels(
    compiled, monkeypatch, tmp_path: Path
) -> None:
    """A first worker waits for each; for an H100's menu and 64 lists there were 219."""
    as_on_a_gpu(monkeypatch, Shapes(16, 128, pads=True))
    for name, filled in {"empty": torch.zeros, "empty_like": torch.zeros_like}.items():
        monkeypatch.setattr(torch, name, filled)
    monkeypatch.setattr(torch.Tensor, "new_empty", torch.Tensor.new_zeros)
    setting = random_setting(np.random.default_rng(2).integers(5, size=(40, 2)), (5, 5))
    draft = random_draft(setting, "slots")
    menu = ByLoad(TreeShape.menu(draft.config, torch.device("cuda")))
    seen = compiled(runs=False)
    engine = Engine(setting.model, setting.catalogue, setting.layout, 64, draft, menu, max_items=4)
    longest = setting.layout.prompt_length(4)
    engine.reserve(longest)
    assert engine.make_ready(longest) > 100
    assert len(seen) < 65

    one_each = {variant.name: variant for variant in sorted(seen, key=repr)}
    assert len(one_each) > 20
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    subprocess.run(
        [sys.executable, "-m", "tests.engine.kernel_variants"],
        input=pickle.dumps(list(one_each.values())),
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        check=True,
    )
