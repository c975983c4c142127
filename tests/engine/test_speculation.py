"""With any draft, any tree and any batch, the engine writes what the reference writes."""

from dataclasses import replace

import pytest

from service.engine.engine import Engine
from service.engine.reference import write_list
from service.engine.tree import TreeShape
from service.model.draft import VARIANTS
from tests.engine.conftest import assert_equal, random_draft, random_requests

CHAIN = TreeShape(num_steps=4, width=1, num_candidates=1, num_guesses=12)
TREE = TreeShape(num_steps=3, width=4, num_candidates=7, num_guesses=11)


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("constrained", [True, False])
@pytest.mark.parametrize("shape", [CHAIN, TREE], ids=["chain", "tree"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_reference(shop, variant: str, shape: TreeShape, constrained: bool, sampled: bool) -> None:
    requests = random_requests(10, 200, seed=5, sampled=sampled)
    draft = random_draft(shop, variant)
    tree = replace(shape, constrained=constrained)
    engine = Engine(shop.model, shop.catalogue, shop.layout, max_batch=4, draft=draft, tree=tree)
    for request, done in zip(requests, engine.write(requests), strict=True):
        assert_equal(done, write_list(shop.model, shop.catalogue.codes, shop.layout, request))
