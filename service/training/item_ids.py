"""A dataset's semantic IDs: given with it, learned from it, or kept in a file."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from service.data.dataset import Dataset
from service.data.split import LeaveOneOut
from service.errors import InputError, first_line
from service.files import write_atomic
from service.training.item_vectors import item_vectors
from service.training.semantic_ids import (
    IntArray,
    SemanticIdReport,
    default_codebook_size,
    learn_semantic_ids,
)

VECTOR_DIMENSIONS = 64


@dataclass(frozen=True, slots=True)
class SemanticIds:
    """Codes of a dataset's items, in the order of its items table.

    Attributes:
        codes: [num_items, L].
        sizes: codes at each level.
    """

    codes: IntArray
    sizes: tuple[int, ...]
    report: SemanticIdReport


def given_semantic_ids(dataset: Dataset) -> SemanticIds | None:
    """The semantic IDs that came with a dataset, if any."""
    sizes = dataset.info.code_levels
    if sizes is None:
        return None
    codes = np.array(dataset.items()["codes"].to_pylist(), dtype=np.int64)
    return SemanticIds(codes, sizes, SemanticIdReport.of(codes, sizes))


def train_semantic_ids(
    dataset: Dataset,
    *,
    num_levels: int = 3,
    codebook_size: int | None = None,
    seed: int = 0,
    on_level: Callable[[int, int], None],
) -> SemanticIds:
    """Learn semantic IDs from the dataset's text and training interactions.

    Args:
        dataset: items and interactions.
        num_levels: codes per item.
        codebook_size: codes at each level; None: by the size of the catalogue.
        seed: of the vectors and the clustering.
        on_level: called with the levels learned so far, and all there are.

    Raises:
        InputError: the items have neither text nor company to learn from.
    """
    size = codebook_size or default_codebook_size(dataset.num_items)
    train = LeaveOneOut(dataset.interactions()).train
    vectors = item_vectors(dataset.items(), train, dimensions=VECTOR_DIMENSIONS, seed=seed)
    if dataset.num_items == 1:
        vectors = np.zeros((1, 1), dtype=np.float32)  # alone, it needs no likeness
    if not vectors.shape[1]:
        raise InputError(f"dataset {dataset.path}: items have neither text nor co-occurrence to learn from")
    codes, report = learn_semantic_ids(
        vectors, num_levels=num_levels, codebook_size=size, seed=seed, on_level=on_level
    )
    return SemanticIds(codes, (size,) * num_levels, report)


def write_semantic_ids(ids: SemanticIds, dataset: Dataset, out: Path) -> None:
    """Write columns `item_id` and `codes`, with the code sizes in the file's metadata."""
    codes = pa.array(list(ids.codes.astype(np.int32)), type=pa.list_(pa.int32()))
    table = pa.table({"item_id": dataset.items()["item_id"], "codes": codes})
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({"code_sizes": json.dumps(ids.sizes)}), sink)
    write_atomic(out, sink.getvalue().to_pybytes())


def read_semantic_ids(file: Path, dataset: Dataset) -> SemanticIds:
    """Read what `write_semantic_ids` wrote.

    Raises:
        InputError: the file is torn or is not about this dataset's items.
    """
    try:
        table = pq.read_table(file)
        sizes = tuple(json.loads(table.schema.metadata[b"code_sizes"]))
        codes = np.array(table["codes"].to_pylist(), dtype=np.int64)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} does not hold semantic IDs: {first_line(error)}") from error
    if table["item_id"].to_pylist() != dataset.items()["item_id"].to_pylist():
        raise InputError(f"{file} holds the semantic IDs of another dataset's items")
    return SemanticIds(codes, sizes, SemanticIdReport.of(codes, sizes))


def describe(report: SemanticIdReport) -> str:
    """A report in a line."""
    usage = ", ".join(f"{share:.0%}" for share in report.code_usage)
    return (
        f"semantic IDs: {report.num_items} items, {report.num_distinct} distinct IDs, "
        f"{report.num_sharing} items share theirs; codes used by level: {usage}"
    )
