"""The `padrec` command: reads options, wires the parts together, prints results.

Every module of a command imports what it wires inside the command's function, so that `padrec gateway` never loads
torch and `padrec --help` is quick.
"""

import sys

import typer

from service.cli.app import app
from service.errors import PadrecError
from service.processes import leave_last_words

EXIT_INPUT_ERROR = 2
EXIT_INTERRUPTED = 130


def main() -> None:
    """Entry point: what an operator can cause becomes one line on stderr and exit code 2."""
    try:
        code = app(standalone_mode=False, prog_name="padrec")
        if code == EXIT_INTERRUPTED:  # what typer makes of Ctrl-C
            print("padrec: stopped", file=sys.stderr)
        sys.exit(code)
    except typer.TyperException as error:
        _usage_error(error)
    except PadrecError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or 'input/output'}: {error.strerror or error}")


def _usage_error(error: typer.TyperException) -> None:
    """What is wrong with the command line; or, for a bare `padrec`, its help, which typer raises as an error too."""
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    if "Usage:" in message:
        print(message)
        sys.exit(EXIT_INPUT_ERROR)
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "padrec"
    _fail(f"{' '.join(message.split())} (see '{command} --help')")


def _fail(line: str) -> None:
    print(f"padrec: {line}", file=sys.stderr)
    leave_last_words(line)
    sys.exit(EXIT_INPUT_ERROR)
