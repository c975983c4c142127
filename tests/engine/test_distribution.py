"""Sampled lists follow the target's constrained distribution: every possible list is counted, and chi-square judges."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from service.engine import verify
from service.engine.engine import Engine
from service.engine.load import Always
from service.engine.tree import TreeShape
from service.engine.verify import accept
from service.types import DecodeRequest
from tests.engine.conftest import Setting, random_draft, random_setting

CODES = np.array([[0, 0], [0, 1], [1, 0], [1, 2], [2, 1], [2, 1]])
REQUEST = DecodeRequest("", history=(0, 1), num_items=2, temperature=0.9, top_p=0.95)
TREE = TreeShape(num_passes=3, width=2, num_candidates=3, num_places=4)
CHAIN = TreeShape(num_passes=3, width=1, num_candidates=1, num_places=3, constrained=False)


def possible_lists(setting: Setting, request: DecodeRequest) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every list and its probability, by asking the target about every prefix."""
    codes, layout = setting.catalogue.codes, setting.layout
    prompt = layout.prompt(codes[list(request.history)]).tolist()

    def extend(tokens: list[int], rows: tuple[int, ...], prefix: tuple[int, ...]) -> Iterator:
        if len(rows) == request.num_items:
            yield rows, 1.0
            return
        level = len(prefix)
        left = [r for r in range(len(codes)) if r not in rows and tuple(codes[r][:level]) == prefix]
        if level == layout.num_levels:
            yield from extend([*tokens, layout.separator], (*rows, left[0]), ())
            return
        options = sorted({int(codes[r][level]) for r in left})
        logits = setting.model(torch.tensor([tokens])).logits[0, -1]
        names = [layout.code_tokens[level][code] for code in options]
        for code, name, likely in zip(options, names, distribution(logits[names], request), strict=True):
            if likely > 0:
                for found, probability in extend([*tokens, name], rows, (*prefix, code)):
                    yield found, likely * probability

    yield from extend(prompt, (), ())


def distribution(logits: torch.Tensor, request: DecodeRequest) -> list[float]:
    """Tempered, cut to the fewest that reach top-p, and normalised again."""
    tempered = torch.softmax(logits.double() / request.temperature, dim=-1)
    order = torch.argsort(tempered, descending=True, stable=True)
    kept = order[torch.cumsum(tempered[order], 0) - tempered[order] < request.top_p]
    cut = torch.zeros_like(tempered)
    cut[kept] = tempered[kept]
    return (cut / cut.sum()).tolist()


@pytest.fixture(scope="module")
def tiny() -> Setting:
    return random_setting(CODES, (3, 3), sharpness=4.0)


@pytest.fixture(scope="module")
def expected(tiny: Setting) -> dict[tuple[int, ...], float]:
    return dict(possible_lists(tiny, REQUEST))


def drawn(setting: Setting, variant: str, tree: TreeShape, seeds: range) -> Counter[tuple[int, ...]]:
    draft = random_draft(setting, variant)
    engine = Engine(setting.model, setting.catalogue, setting.layout, 2_000, draft, Always(tree))
    requests = [replace(REQUEST, request_id=str(seed), seed=seed) for seed in seeds]
    return Counter(tuple(item.row for item in done.items) for done in engine.write(requests))


def p_value(counts: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> float:
    """Of the chi-square test; lists that are expected fewer than five times count together."""
    total = counts.total()
    frequent = [rows for rows, probability in expected.items() if probability * total >= 5]
    observed = [counts[rows] for rows in frequent]
    likely = [expected[rows] * total for rows in frequent]
    rest = total - sum(likely)
    if rest > 1e-6 * total:
        observed.append(total - sum(observed))
        likely.append(rest)
    return float(chisquare(observed, np.array(likely) * (sum(observed) / sum(likely))).pvalue)


@pytest.mark.timeout(1_800)
def test_lists_follow_the_targets_distribution(tiny: Setting, expected: dict[tuple[int, ...], float]) -> None:
    """200,000 draws over a token draft, slot heads, and a draft that knows no constraint."""
    assert sum(expected.values()) == pytest.approx(1)
    assert len(expected) > 10
    everything: Counter[tuple[int, ...]] = Counter()
    for variant, tree, seeds in (
        ("both", TREE, range(100_000)),
        ("slots", TREE, range(100_000, 160_000)),
        ("none", CHAIN, range(160_000, 200_000)),
    ):
        counts = drawn(tiny, variant, tree, seeds)
        assert set(counts) <= set(expected)
        assert p_value(counts, expected) > 1e-3
        everything += counts
    assert everything.total() == 200_000
    assert p_value(everything, expected) > 1e-3


def test_the_test_sees_broken_acceptance(
    tiny: Setting, expected: dict[tuple[int, ...], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guess that is accepted although the target chose otherwise, one time in ten, is enough to be seen."""
    draws = np.random.default_rng(0)

    def broken(index, trees, choices, lists, most):
        """For a tenth of the lists, what follows a place is a guess that hangs off it, where there is one."""
        own, nobody = choices.node, trees.num_places
        parent = torch.where(trees.is_guess & trees.is_real, trees.parent, nobody)
        guessed = torch.nn.functional.pad(own, (0, 1)).scatter(1, parent, trees.node)[:, :-1]
        spoilt = torch.as_tensor(draws.random((len(own), 1)) < 0.1)
        return accept(index, trees, replace(choices, node=torch.where(spoilt, guessed, own)), lists, most)

    monkeypatch.setattr(verify, "accept", broken)
    assert p_value(drawn(tiny, "both", TREE, range(40_000)), expected) < 1e-6
