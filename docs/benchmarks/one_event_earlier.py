"""A dataset without the last event of each user who has three or more: to choose by.

Targets learn lists for every training history, the one before the validation target among them, so a list for that
history is one they were trained on. One event earlier the test target is what was the validation target, and the
history before it was never trained on, as before the real test target.

    python docs/benchmarks/one_event_earlier.py DATASET OUT
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from service.data.dataset import INFO, INTERACTIONS, ITEMS, Dataset
from service.data.split import MIN_HISTORY


def main() -> None:
    """Write the dataset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    dataset = Dataset.open(given.dataset)
    offsets = dataset.interactions().offsets
    last = offsets[1:][np.diff(offsets) >= MIN_HISTORY] - 1
    kept = np.ones(offsets[-1], dtype=bool)
    kept[last] = False
    given.out.mkdir()
    table = pq.read_table(given.dataset / INTERACTIONS)
    pq.write_table(table.filter(pa.array(kept)), given.out / INTERACTIONS)
    shutil.copy(given.dataset / ITEMS, given.out)
    info = json.loads((given.dataset / INFO).read_text())
    (given.out / INFO).write_text(json.dumps(info | {"num_interactions": int(kept.sum())}))


if __name__ == "__main__":
    main()
