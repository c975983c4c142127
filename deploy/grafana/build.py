"""Writes the dashboards that Grafana reads: `python -m deploy.grafana.build`.

They are committed, and a test checks that they are current.
"""

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.boards.engine import ENGINE
from deploy.grafana.boards.service import SERVICE
from deploy.grafana.boards.speculation import SPECULATION
from deploy.grafana.panels import build

FOLDER = Path(__file__).parent / "dashboards"
BOARDS = (SERVICE, ENGINE, SPECULATION)


def texts() -> dict[Path, str]:
    """What is in each file."""
    return {
        FOLDER / f"{board.name}.json": json.dumps(build(board), cls=JSONEncoder, indent=2) + "\n"
        for board in BOARDS
    }


if __name__ == "__main__":
    for path, text in texts().items():
        path.write_text(text, encoding="utf-8")
