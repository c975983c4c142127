"""The layout of the public generative-recommendation repositories: JSON objects of histories and code tokens.

interactions.json   or *.inter.json   {user: [item number, ...]}, oldest first
semantic_ids.json   or *.index.json   {item: ["<a_12>", "<b_7>", ...]}, one token per level
items.jsonl                           optional: item_id, title and any other fields
                    or *.item.json    {item: {field: value, ...}}
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from service.data.code_tokens import read_semantic_ids
from service.data.dataset import Dataset, Source
from service.data.history_json import Histories
from service.data.item_records import Record, attribute_types, distinct, item_table, record_id
from service.data.reading import json_lines, json_object
from service.data.write import Progress, new_dataset, no_progress
from service.errors import DatasetError

FORMAT = "semantic-id-json"


def import_semantic_id_json(
    src: Path, out: Path, *, overwrite: bool = False, progress: Progress = no_progress
) -> Dataset:
    """Import the folder `src`.

    The items are those with a semantic ID, in the order of that file; others in the item file are left out
    and counted. Users with an empty list are left out and counted.

    Raises:
        DatasetError: a file is missing or torn, a code token is not of its level, items differ in their
            number of levels, a user or item stands twice, or an interaction's item has no semantic ID.
        InputError: `out` exists and `overwrite` is not set.
    """
    if not src.is_dir():
        raise DatasetError(f"no such folder: {src}")
    interactions = _find(src, "interactions.json", "*.inter.json")
    semantic_ids = _find(src, "semantic_ids.json", "*.index.json")
    if interactions is None or semantic_ids is None:
        missing = "interactions.json" if interactions is None else "semantic_ids.json"
        raise DatasetError(f"{src}: {missing} is missing")
    records = _find(src, "items.jsonl", "*.item.json")

    source = Source(format=FORMAT, name=src.resolve().name)
    with new_dataset(out, source, overwrite=overwrite, progress=progress) as writer:
        items = read_semantic_ids(semantic_ids)
        if records is not None:
            items, without_id = _add_records(items, records)
            writer.skipped["items_without_semantic_id"] = without_id
        writer.write_items(items)
        histories = Histories(interactions, semantic_ids, items["item_id"].combine_chunks())
        writer.write_interactions(histories)
        writer.skipped["users_without_interactions"] = histories.num_empty_users
    return Dataset.open(out)


def _find(src: Path, name: str, pattern: str) -> Path | None:
    if (src / name).exists():
        return src / name
    found = sorted(src.glob(pattern))
    if len(found) > 1:
        raise DatasetError(f"{src}: more than one {pattern}: {found[0].name}, {found[1].name}")
    return found[0] if found else None


def _add_records(items: pa.Table, file: Path) -> tuple[pa.Table, int]:
    """`items` with titles and attributes, and how many records have no semantic ID."""
    table = distinct(item_table(_records(file), attribute_types(_records(file))), file)
    rows = pc.index_in(items["item_id"], value_set=table["item_id"])
    matched = table.take(rows)
    without_id = len(table) - (len(rows) - rows.null_count)
    joined = items.set_column(1, "title", pc.fill_null(matched["title"], ""))
    return joined.add_column(2, "attributes", matched["attributes"]), without_id


def _records(file: Path) -> Iterator[Record]:
    if file.name.endswith(".jsonl"):
        for fields in json_lines(file):
            yield record_id(file, fields, "item_id"), fields
    else:
        for item_id, fields in json_object(file):
            if not isinstance(fields, dict):
                raise DatasetError(f"{file}: item '{item_id}': not a JSON object")
            yield item_id, fields
