"""The `padrec` command: reads options, wires the parts together, prints results.

Every module of a command imports what it wires inside the command's function, so that `padrec gateway` never loads
torch and `padrec --help` is quick.
"""

import sys

from service.cli.app import app
from service.errors import PadrecError


def main() -> None:
    """Entry point: errors on purpose become one line on stderr and exit code 2."""
    try:
        app()
    except PadrecError as error:
        print(f"padrec: {error}", file=sys.stderr)
        sys.exit(2)
