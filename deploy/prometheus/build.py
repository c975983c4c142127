"""Writes the rules for clusters with the Prometheus operator: `python -m deploy.prometheus.build`.

They are the rules of deploy/prometheus/rules, as they stand, in a PrometheusRule. The file is committed, and a test
checks that it is current.
"""

from pathlib import Path
from textwrap import indent

RULES = Path(__file__).parent / "rules"
FILE = Path(__file__).parents[1] / "k8s" / "components" / "monitoring" / "prometheus-rules.yaml"

_HEAD = """\
# Made by `python -m deploy.prometheus.build` of deploy/prometheus/rules; change them there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: padrec
spec:
  groups:
"""


def text() -> str:
    """What is in the file."""
    return _HEAD + "".join(_groups(path) for path in sorted(RULES.glob("*.yml")))


def _groups(path: Path) -> str:
    """What stands below `groups` in a file of rules, after the comment at its head."""
    comment, _, groups = path.read_text(encoding="utf-8").partition("groups:\n")
    return indent(comment, "    ") + indent(groups, "  ")


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
