"""The synthetic shop as a dataset: what the demo and the tests run on where there is no real data."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from service.data.dataset import INTERACTION_SCHEMA, Dataset, Source
from service.data.shop.items import MIN_ITEMS_PER_CATEGORY, build_shop
from service.data.shop.sessions import Events, Sessions
from service.data.write import Progress, new_dataset, no_progress
from service.errors import InputError

USERS_PER_BATCH = 1_000


def synthesize(
    out: Path,
    *,
    num_items: int = 2_000,
    num_users: int = 4_000,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Dataset:
    """Make up a shop and its customers; the same arguments give the same bytes in both tables.

    Items have titles, brands, a category tree of three levels and prices, but no semantic IDs: those are
    learned.
    A user has at least five interactions and none with an item twice.

    Raises:
        InputError: `num_items` is below 10, `num_users` below 1, or `out` exists and `overwrite` is not set.
    """
    if num_items < MIN_ITEMS_PER_CATEGORY:
        raise InputError(f"num_items must be at least {MIN_ITEMS_PER_CATEGORY}, not {num_items}")
    if num_users < 1:
        raise InputError(f"num_users must be at least 1, not {num_users}")
    rng = np.random.default_rng(seed)
    source = Source(format="synthetic", name=f"synthetic-shop-{seed}")
    with new_dataset(out, source, overwrite=overwrite, progress=progress) as writer:
        shop = build_shop(num_items, rng)
        writer.write_items(shop.table)
        customers = Sessions(shop, rng).customers(num_users)
        writer.write_interactions(_batches(customers, shop.table["item_id"].combine_chunks()))
    return Dataset.open(out)


def _batches(customers: Iterator[Events], item_ids: pa.Array) -> Iterator[pa.RecordBatch]:
    users: list[str] = []
    events: Events = []
    for number, own in enumerate(customers):
        users += [f"user-{number:05d}"] * len(own)
        events += own
        if (number + 1) % USERS_PER_BATCH == 0:
            yield _batch(users, events, item_ids)
            users, events = [], []
    if users:
        yield _batch(users, events, item_ids)


def _batch(users: list[str], events: Events, item_ids: pa.Array) -> pa.RecordBatch:
    rows, times = zip(*events, strict=True)
    columns = [pa.array(users), item_ids.take(pa.array(rows)), pa.array(times, pa.int64()).cast(pa.float64())]
    return pa.RecordBatch.from_arrays(columns, schema=INTERACTION_SCHEMA)
