"""What visitors ask: drawn call by call, by the profile's shares."""

import itertools
import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.profile import Profile
from loadtest.zipf import Zipf

RECOMMEND, STREAM, BATCH, EVENTS = "recommend", "recommend_stream", "recommend_batch", "record_events"
LISTS = (RECOMMEND, STREAM, BATCH)

_REMEMBERED_LISTS = 1_000
_EVENTS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Call:
    """One call.

    Attributes:
        name: as the gateway's metrics have it.
        body: as REST takes it.
        num_lists: that it asks for.
    """

    name: str
    body: dict[str, Any]
    num_lists: int


@dataclass(frozen=True, slots=True)
class Shop:
    """What is known of the catalogue.

    Attributes:
        item_ids: at least one.
        filters: that some item meets, as REST takes them.
    """

    item_ids: tuple[str, ...]
    filters: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, items: Sequence[dict[str, Any]]) -> "Shop":
        """What a list says of the catalogue: its items, and conditions that they meet.

        Raises:
            ValueError: there are no items.
        """
        if not items:
            raise ValueError("the service lists nothing for a new user, so nothing is known of its catalogue")
        filters: list[dict[str, Any]] = []
        for item in items:
            for name, value in item["attributes"].items():
                if isinstance(value, str | bool):
                    filters.append({"attribute": name, "op": "==", "value": value})
                elif isinstance(value, int | float):
                    filters.append({"attribute": name, "op": "<=", "value": value})
        distinct = {str(wanted): wanted for wanted in filters}
        return cls(tuple(item["item_id"] for item in items), tuple(distinct.values()))


class Traffic:
    """Draws calls; the same ones for the same seed, but for events that name lists, which come from answers.

    Args:
        profile: what to draw.
        shop: of what.
        generator: of the profile's `generators`, from 0; each draws calls of its own.
    """

    def __init__(self, profile: Profile, shop: Shop, generator: int = 0) -> None:
        self._profile = profile
        self._shop = shop
        self._random = random.Random(profile.seed + generator)
        self._ranks = Zipf(profile.users, profile.zipf_exponent, profile.seed + generator)
        self._newcomers = itertools.count(generator, profile.generators)
        self._listed: OrderedDict[str, tuple[str, tuple[str, ...]]] = OrderedDict()

    def histories(self) -> list[list[dict[str, Any]]]:
        """Events that give users their histories, in lots for one call each; sent again they change nothing."""
        fewest, most = self._profile.history_items
        draw = random.Random(self._profile.seed)
        events = [
            {
                "user_id": _user(rank),
                "item_id": draw.choice(self._shop.item_ids),
                "event_id": f"load-{rank}-{place}",
            }
            for rank in range(self._profile.users)
            for place in range(draw.randint(fewest, most))
        ]
        return [events[i : i + _EVENTS_AT_ONCE] for i in range(0, len(events), _EVENTS_AT_ONCE)]

    def next(self) -> Call:
        """The next call."""
        profile, drawn = self._profile, self._random.random()
        if drawn < profile.event_share:
            return Call(EVENTS, {"events": [self._event()]}, 0)
        drawn -= profile.event_share
        if drawn < profile.batch_share:
            asked = [self._list() for _ in range(profile.batch_lists)]
            return Call(BATCH, {"requests": asked}, len(asked))
        name = STREAM if drawn < profile.batch_share + profile.stream_share else RECOMMEND
        return Call(name, self._list(), 1)

    def listed(self, answer: dict[str, Any]) -> None:
        """Keep a list, so that an event may name it; the oldest goes first."""
        if answer["items"]:
            item_ids = tuple(item["item_id"] for item in answer["items"])
            self._listed[answer["user_id"]] = (answer["recommendation_id"], item_ids)
        if len(self._listed) > _REMEMBERED_LISTS:
            self._listed.popitem(last=False)

    def _list(self) -> dict[str, Any]:
        profile, draw = self._profile, self._random
        is_new = draw.random() < profile.new_user_share
        body: dict[str, Any] = {
            "user_id": f"load-new-{next(self._newcomers)}" if is_new else _user(self._ranks.draw()),
            "num_items": draw.choice(profile.list_sizes),
            "deadline_ms": profile.deadline_ms,
        }
        if self._shop.filters and draw.random() < profile.filter_share:
            body["filter"] = draw.choice(self._shop.filters)
        return body

    def _event(self) -> dict[str, Any]:
        if self._listed and self._random.random() < self._profile.joined_share:
            user, (recommendation_id, item_ids) = self._listed.popitem(last=False)
            item = self._random.choice(item_ids)
            return {"user_id": user, "item_id": item, "recommendation_id": recommendation_id}
        return {"user_id": _user(self._ranks.draw()), "item_id": self._random.choice(self._shop.item_ids)}


def _user(rank: int) -> str:
    return f"load-{rank}"
