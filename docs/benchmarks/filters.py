"""Random filters over a bundle's attributes: as many items as there are, all of which meet it, and what that costs.

    python docs/benchmarks/filters.py BUNDLE DATASET [--filters 1000] [--device auto]

Each filter is one to three conditions on values that items have. Lists with and without it are written for the same
users in batches of the same size, turn by turn.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from service.catalog.allowed import allowed_rows
from service.catalog.bundle import Bundle
from service.catalog.filters import Filter, Filters
from service.catalog.items import Catalogue
from service.catalog.window import window
from service.data.dataset import Dataset
from service.engine.engine import Engine
from service.model.draft import load_draft
from service.model.target import load_target, pick_device, pick_dtype
from service.prepared import prepared_cases
from service.types import DecodeRequest

NUM_ITEMS, BATCH = 10, 8


def random_filter(catalogue: Catalogue, rng: np.random.Generator) -> Filter:
    """One to three conditions on values of items, all or any of which hold."""
    parts = [random_condition(catalogue, rng) for _ in range(int(rng.integers(1, 4)))]
    return Filter.model_validate({str(rng.choice(["all", "any"])): parts})


def random_condition(catalogue: Catalogue, rng: np.random.Generator) -> dict[str, Any]:
    """On a value that an item has."""
    while True:
        attributes = catalogue.item(int(rng.integers(len(catalogue)))).attributes
        if attributes:
            name, value = list(attributes.items())[int(rng.integers(len(attributes)))]
            break
    if isinstance(value, list):
        value = value[int(rng.integers(len(value)))] if value else ""
    ops = ["==", "!="] if isinstance(value, bool) else ["==", "!=", "<=", ">="]
    return {"attribute": name, "op": str(rng.choice(ops)), "value": value}


def main() -> None:
    """Print how many lists are as they should be, and the time of a list with and without a filter."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--filters", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()

    device, bundle = pick_device(args.device), Bundle.open(args.bundle)
    catalogue = bundle.read_catalogue()
    _, cases = prepared_cases(Dataset.open(args.dataset), catalogue, "test")
    model = load_target(bundle.target_path, device=device, dtype=pick_dtype("auto", device))
    draft = None
    if bundle.draft_path is not None:
        draft = load_draft(bundle.draft_path, device=device, dtype=model.dtype)
    engine = Engine(model, catalogue, bundle.layout, BATCH, draft)
    rng, filters = np.random.default_rng(args.seed), Filters(catalogue)
    drawn = rng.permutation(len(cases))[: args.filters]
    plain = []
    for number in drawn.tolist():
        rows = window(cases[number].history.tolist(), bundle.manifest.decoding.max_history_items)
        plain.append(DecodeRequest(str(number), rows, NUM_ITEMS, rows))
    filtered = [replace(request, allowed=filters.bits(random_filter(catalogue, rng))) for request in plain]

    seconds, num_right, num_items = {"plain": 0.0, "filtered": 0.0}, 0, {"plain": 0, "filtered": 0}
    for begin in range(0, len(plain), BATCH):
        for name, requests in (("plain", plain), ("filtered", filtered)):
            started = time.perf_counter()
            written = engine.write(requests[begin : begin + BATCH])
            seconds[name] += time.perf_counter() - started
            num_items[name] += sum(len(done.items) for done in written)
            if name == "filtered":
                num_right += sum(map(is_right, requests[begin : begin + BATCH], written, [catalogue] * BATCH))
    print(
        f"{num_right} of {len(filtered)} lists hold as many items as there are, and all of these meet the filter"
    )
    for name, total in seconds.items():
        print(
            f"{name}: {1e3 * total / len(plain):.2f} ms a list, {1e3 * total / num_items[name]:.3f} ms an item"
        )


def is_right(request: DecodeRequest, done: Any, catalogue: Catalogue) -> bool:
    """Whether a list is as long as it can be, and holds distinct items that are allowed."""
    allowed = allowed_rows(request, len(catalogue))
    rows = {item.row for item in done.items}
    return len(rows) == len(done.items) == min(NUM_ITEMS, int(allowed.sum())) and bool(
        allowed[list(rows)].all()
    )


if __name__ == "__main__":
    main()
