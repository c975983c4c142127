"""`padrec keys`: the file of API keys that a gateway reads."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from service.cli.display import say

app = typer.Typer(help="API keys: make, list and revoke them.", no_args_is_help=True)


class ScopeName(StrEnum):
    """What a key is for."""

    READ = "read"
    EVENTS = "events"
    ADMIN = "admin"


KeysFile = Annotated[
    Path,
    typer.Option(
        "--file", envvar="PADREC_GATEWAY__KEYS_FILE", help="The file, as in the setting 'gateway.keys_file'."
    ),
]
KeyName = Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is, e.g. of a service.")]


@app.command()
def new(
    name: KeyName,
    file: KeysFile,
    scope: Annotated[
        list[ScopeName],
        typer.Option(
            "--scope",
            help="What it is for: read (lists, items, histories), events (record events, delete histories), "
            "admin (everything). May be given several times.",
        ),
    ],
    rate: Annotated[
        float | None, typer.Option("--rate", help="Requests per second, on average; default: no limit.")
    ] = None,
    burst: Annotated[
        int | None,
        typer.Option("--burst", help="Requests that may come at once; default: those of a second."),
    ] = None,
) -> None:
    """Make a key, print it, and add its hash to the file: nobody can read the key again."""
    from service.gateway.keys import add_key

    print(add_key(file, name, [one.value for one in scope], rate, burst))
    say("keep it now: the file has only its hash")


@app.command("list")
def list_keys(file: KeysFile) -> None:
    """Print the keys of the file, without what would let anybody in."""
    from service.cli.reporting import print_rows
    from service.gateway.keys import read_keys

    rows = [
        {
            "name": key.name,
            "scopes": ", ".join(key.scopes),
            "requests per second": "no limit"
            if key.requests_per_second is None
            else f"{key.requests_per_second:g}",
            "at once": None if key.requests_per_second is None else key.full_burst,
        }
        for key in read_keys(file)
    ]
    if rows:
        print_rows(rows)
    else:
        say(f"{file} has no keys: nobody gets in")


@app.command()
def revoke(name: KeyName, file: KeysFile) -> None:
    """Take a key out of the file: within a second no gateway that reads it lets it in."""
    from service.gateway.keys import remove_key

    remove_key(file, name)
