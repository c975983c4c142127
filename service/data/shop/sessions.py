"""The customers of the synthetic shop: what each takes, session by session.

A customer has a few interests and walks through each as a journey, shelf after shelf, mostly in the brand
liked best. A session goes on where the last one with that interest ended; at a journey's end the interest
moves on, most often to the next category of the department. Now and then a customer compares on the same
shelf or takes a fancy to something else. Interests drift, gardens are for one season, items come into fashion
and go.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.data.shop.items import BRAND_SHARE, SHELVES_PER_CATEGORY, Shop
from service.data.shop.words import CATEGORIES

DAY = 86_400
START = 1_704_067_200
"""2024-01-01, in seconds since the epoch."""
NUM_DAYS = 730

NUM_INTERESTS = 3
INTEREST_STRENGTH = np.array([3.0, 2.0, 1.0])
MEAN_SESSIONS = 4.0
MIN_ITEMS = 5
COMPARE, IMPULSE = 0.12, 0.06
BRAND_LOYALTY = 0.85
SAME_VARIANT = 4.0
INTEREST_DRIFT = 0.1
NEXT_CATEGORY = 0.8

Events = list[tuple[int, int]]
"""Rows with seconds since the epoch, oldest first."""


@dataclass
class _Customer:
    """One customer; all but `liking` changes from session to session.

    Attributes:
        liking: [all brands].
        step: the next step of the journey through each category, [categories].
        interests: categories, the strongest first.
    """

    liking: npt.NDArray[np.float64]
    step: npt.NDArray[np.int64]
    interests: list[int]


class Sessions:
    """Simulates customers one after the other."""

    def __init__(self, shop: Shop, rng: np.random.Generator) -> None:
        self._shop = shop
        self._rng = rng
        self._num_categories = len(shop.shelves) // SHELVES_PER_CATEGORY
        self._category_appeal = rng.lognormal(0.0, 0.5, self._num_categories)
        self._peak_day = rng.uniform(0, 365, self._num_categories)
        self._next_category = _next_categories(self._num_categories)

    def customers(self, num_users: int) -> Iterator[Events]:
        """The events of each customer, at least `MIN_ITEMS`, none with the same item twice."""
        for _ in range(num_users):
            yield self._life(self._new_customer())

    def _new_customer(self) -> _Customer:
        interests = [self._pick(self._category_appeal) for _ in range(NUM_INTERESTS)]
        liking = np.log(BRAND_SHARE) + self._rng.gumbel(0.0, 1.0, len(BRAND_SHARE))
        step = np.where(self._rng.random(self._num_categories) < 0.3, 1, 0)
        return _Customer(liking, step, interests)

    def _life(self, customer: _Customer) -> Events:
        rng, events, seen = self._rng, Events(), set[int]()
        num_sessions = 1 + rng.poisson(MEAN_SESSIONS - 1)
        day = rng.uniform(0, NUM_DAYS * 0.8)
        sessions = 0
        while sessions < num_sessions or len(events) < MIN_ITEMS:
            time = START + int(day * DAY)
            for row in self._session(customer, day, seen):
                events.append((row, time))
                time += int(rng.integers(20, 900))
            sessions += 1
            day += 1 + rng.exponential(20)
            if rng.random() < INTEREST_DRIFT:
                customer.interests[int(rng.integers(NUM_INTERESTS))] = self._pick(self._category_appeal)
        return events

    def _session(self, customer: _Customer, day: float, seen: set[int]) -> Iterator[int]:
        rng = self._rng
        season = 1.2 + np.cos((day - self._peak_day[customer.interests]) * 2 * np.pi / 365)
        interest = self._pick(season * INTEREST_STRENGTH)
        last = -1
        for _ in range(1 + rng.geometric(0.45)):
            chance = rng.random()
            if chance < IMPULSE:
                shelf = int(rng.integers(len(self._shop.shelves)))
            elif last >= 0 and chance < IMPULSE + COMPARE:
                shelf = int(self._shop.shelf[last])
            else:
                shelf = self._step(customer, interest)
            row = self._choose(customer, shelf, last, day, seen)
            if row is None:
                return
            seen.add(row)
            last = row
            yield row

    def _step(self, customer: _Customer, interest: int) -> int:
        """The next shelf of the journey; at its end the interest moves on."""
        category = customer.interests[interest]
        step = int(customer.step[category])
        customer.step[category] = (step + 1) % SHELVES_PER_CATEGORY
        if step == SHELVES_PER_CATEGORY - 1:
            moves_next = self._rng.random() < NEXT_CATEGORY
            following = self._next_category[category] if moves_next else self._pick(self._category_appeal)
            customer.interests[interest] = following
        return category * SHELVES_PER_CATEGORY + step

    def _choose(self, customer: _Customer, shelf: int, last: int, day: float, seen: set[int]) -> int | None:
        """A row of `shelf` that is not in `seen`; None where there is none."""
        shop = self._shop
        rows = np.array([row for row in shop.shelves[shelf].tolist() if row not in seen], dtype=np.int64)
        if len(rows) == 0:
            return None
        if self._rng.random() < BRAND_LOYALTY:
            liking = customer.liking[shop.brand[rows]]
            rows = rows[liking == liking.max()]
        appeal = shop.appeal[rows] * np.exp(shop.trend[rows] * day / NUM_DAYS)
        if last >= 0:
            appeal = appeal * np.where(shop.variant[rows] == shop.variant[last], SAME_VARIANT, 1.0)
        return int(rows[self._pick(appeal)])

    def _pick(self, weights: npt.NDArray[np.floating]) -> int:
        ends = np.cumsum(weights)
        return min(int(np.searchsorted(ends, self._rng.random() * ends[-1], side="right")), len(ends) - 1)


def _next_categories(num_categories: int) -> list[int]:
    """For each category the next one of its department, the first one after the last."""
    categories = CATEGORIES[:num_categories]
    following = []
    for place, category in enumerate(categories):
        department = [n for n, other in enumerate(categories) if other.department == category.department]
        following.append(department[(department.index(place) + 1) % len(department)])
    return following
