"""`padrec bench`: what things cost."""

from typing import Annotated

import typer

from service.cli.options import JsonFile, Seed
from service.cli.reporting import check_json, command_line, print_rows

app = typer.Typer(help="Measure.", no_args_is_help=True)


@app.command("trie")
def bench_trie(
    items: Annotated[int, typer.Option(min=1, help="Size of the catalogue.")] = 1_000_000,
    levels: Annotated[int, typer.Option(min=1, max=8, help="Codes per item.")] = 4,
    codebook_size: Annotated[int, typer.Option(min=2, help="Codes at each level.")] = 256,
    seed: Seed = 0,
    json_file: JsonFile = None,
) -> None:
    """Build a trie of random semantic IDs and ask it for children."""
    import torch

    from service.evaluation.report import write_report
    from service.evaluation.trie_bench import measure_trie

    check_json(json_file)
    rows = measure_trie(items, levels, codebook_size, seed)
    print_rows(rows)
    if json_file is not None:
        write_report(json_file, command_line(), torch.device("cpu"), rows)
