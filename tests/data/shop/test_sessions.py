from itertools import pairwise

import numpy as np

from service.data.shop.items import build_shop
from service.data.shop.sessions import MIN_ITEMS, START, Sessions


def test_each_customer_takes_distinct_items_in_time_order() -> None:
    rng = np.random.default_rng(3)
    customers = list(Sessions(build_shop(400, rng), rng).customers(40))
    assert len(customers) == 40
    for events in customers:
        rows, times = zip(*events, strict=True)
        assert len(events) >= MIN_ITEMS
        assert len(set(rows)) == len(rows)
        assert list(times) == sorted(times)
        assert times[0] >= START


def test_most_steps_lead_to_the_next_shelf() -> None:
    rng = np.random.default_rng(4)
    shop = build_shop(800, rng)
    steps = [
        int(shop.shelf[row] - shop.shelf[before])
        for events in Sessions(shop, rng).customers(200)
        for (before, _), (row, _) in pairwise(events)
    ]
    assert np.mean(np.array(steps) == 1) > 0.4
