"""Semantic IDs from code tokens: `<a_12>` is code 12 of the first level, `<b_7>` code 7 of the second."""

import re
import reprlib
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from service.data.reading import json_object
from service.errors import DatasetError

MAX_LEVELS = 26
MAX_CODE = 65_535

_TOKEN = re.compile(r"<([a-z])_0*([0-9]+)>")


def read_semantic_ids(file: Path) -> pa.Table:
    """Columns `item_id`, `title` (all empty) and `codes`, in the order of `file`.

    Raises:
        DatasetError: the file is torn, an item stands twice, a token is not of its level, a code is above
            `MAX_CODE`, or items differ in their number of levels or have more than `MAX_LEVELS`.
    """
    item_ids: list[str] = []
    seen: set[str] = set()
    codes = array("i")
    num_levels = 0
    for item, tokens in json_object(file):
        if item in seen:
            raise DatasetError(f"{file}: item '{item}' stands twice")
        own = _parse(file, item, tokens)
        num_levels = num_levels or len(own)
        if len(own) != num_levels:
            raise DatasetError(f"{file}: item '{item}' has {len(own)} code tokens, others have {num_levels}")
        seen.add(item)
        item_ids.append(item)
        codes.extend(own)
    if not item_ids:
        raise DatasetError(f"{file}: there are no items")
    offsets = np.arange(0, len(codes) + 1, num_levels, dtype=np.int32)
    return pa.table(
        {
            "item_id": pa.array(item_ids, pa.string()),
            "title": pa.array([""] * len(item_ids), pa.string()),
            "codes": pa.ListArray.from_arrays(offsets, np.frombuffer(codes, dtype=np.int32)),
        }
    )


def _parse(file: Path, item: str, tokens: Any) -> list[int]:
    if not isinstance(tokens, list) or not tokens:
        raise DatasetError(f"{file}: item '{item}': not a list of code tokens")
    if len(tokens) > MAX_LEVELS:
        raise DatasetError(
            f"{file}: item '{item}' has {len(tokens)} code tokens; at most {MAX_LEVELS} levels are supported"
        )
    codes = []
    for level, token in enumerate(tokens):
        match = _TOKEN.fullmatch(token) if isinstance(token, str) else None
        if match is None or ord(match[1]) - ord("a") != level:
            example = f"<{chr(ord('a') + level)}_0>"
            raise DatasetError(
                f"{file}: item '{item}': code {level + 1} is {token!r}, not one like {example}"
            )
        if len(match[2]) > len(str(MAX_CODE)) or int(match[2]) > MAX_CODE:
            raise DatasetError(
                f"{file}: item '{item}': code {level + 1} is {reprlib.repr(token)}; the largest is {MAX_CODE}"
            )
        codes.append(int(match[2]))
    return codes
