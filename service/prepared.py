"""A dataset as training and evaluation read it: in the rows of a catalogue, and split."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.catalog.items import Catalogue
from service.data.dataset import Dataset, Interactions
from service.data.split import Case, LeaveOneOut, Split
from service.errors import InputError
from service.training.item_ids import SemanticIds


@dataclass(frozen=True, slots=True)
class Prepared:
    """A dataset in catalogue rows.

    Attributes:
        interactions: all of them.
        split: of those.
    """

    catalogue: Catalogue
    interactions: Interactions
    split: LeaveOneOut

    @classmethod
    def of(cls, dataset: Dataset, catalogue: Catalogue) -> "Prepared":
        """Turn the dataset's items into rows of `catalogue`.

        Raises:
            InputError: an item of the dataset is not in the catalogue.
        """
        item_ids = dataset.items()["item_id"].to_pylist()
        rows = np.array(
            [-1 if (row := catalogue.row_of(i)) is None else row for i in item_ids], dtype=np.int32
        )
        if (rows < 0).any():
            missing = item_ids[int(np.argmin(rows))]
            raise InputError(f"dataset {dataset.path}: item '{missing}' is not in the bundle's catalogue")
        raw = dataset.interactions()
        interactions = dataclasses.replace(raw, items=rows[raw.items])
        return cls(catalogue, interactions, LeaveOneOut(interactions))

    def fingerprint(self, *what: Any) -> str:
        """Changes when the data or `what`, plain data, does."""
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
        digest.update(self.catalogue.codes.tobytes())
        digest.update(self.interactions.items.tobytes())
        digest.update(self.interactions.offsets.tobytes())
        return digest.hexdigest()

    def validation_cases(self, at_most: int, seed: int) -> list[Case]:
        """Users to validate on, in an order of the seed.

        Raises:
            InputError: there are none.
        """
        cases = self.split.cases("valid")
        if not cases:
            raise InputError("no user has three interactions, so there is nothing to validate on")
        picked = np.random.default_rng(seed).permutation(len(cases))[:at_most]
        return [cases[index] for index in picked]


def prepared_cases(dataset: Dataset, catalogue: Catalogue, split: Split) -> tuple[Prepared, list[Case]]:
    """A dataset in catalogue rows, and whose targets are asked for.

    Raises:
        InputError: as `Prepared.of`, or there is nobody to ask for.
    """
    prepared = Prepared.of(dataset, catalogue)
    cases = prepared.split.cases(split)
    if not cases:
        raise InputError(
            f"dataset {dataset.path}: no user has three interactions, so there is nothing to ask"
        )
    return prepared, cases


def build_catalogue(dataset: Dataset, ids: SemanticIds) -> Catalogue:
    """The dataset's items in trie order; of items that share an ID the more popular in training comes first."""
    items = dataset.items()
    train = LeaveOneOut(dataset.interactions()).train
    return Catalogue.build(
        items["item_id"].to_pylist(),
        ids.codes,
        items["title"].to_pylist(),
        items["attributes"].combine_chunks() if "attributes" in items.column_names else None,
        np.bincount(train.items, minlength=len(ids.codes)),
    )
