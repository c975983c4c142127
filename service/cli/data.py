"""`padrec data`: datasets from files of the world, or from nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.display import bar
from service.errors import InputError

if TYPE_CHECKING:
    from service.data.dataset import Dataset
    from service.data.write import Progress

app = typer.Typer(help="Import or synthesise a dataset.", no_args_is_help=True)

Out = Annotated[Path, typer.Option("--out", help="Folder of the dataset; must not exist.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is at --out.")]


class Format(StrEnum):
    """What `padrec data import` reads."""

    SEMANTIC_ID_JSON = "semantic-id-json"
    AMAZON_REVIEWS = "amazon-reviews"
    CSV = "csv"
    PARQUET = "parquet"


_TABLES = (Format.CSV, Format.PARQUET)
_FORMATS_OF = {
    "user_column": _TABLES,
    "item_column": _TABLES,
    "timestamp_column": _TABLES,
    "items": _TABLES,
    "item_id_column": _TABLES,
    "title_column": _TABLES,
    "min_interactions": _TABLES,
    "metadata": (Format.AMAZON_REVIEWS,),
    "k_core": (Format.AMAZON_REVIEWS,),
}


@app.command("import")
def import_(
    ctx: typer.Context,
    fmt: Annotated[Format, typer.Argument(metavar="FORMAT", help="Layout of SRC.")],
    src: Annotated[Path, typer.Argument(help="File or folder to read.")],
    out: Out,
    user_column: Annotated[str, typer.Option(help="csv, parquet: column of user IDs.")] = "user_id",
    item_column: Annotated[str, typer.Option(help="csv, parquet: column of item IDs.")] = "item_id",
    timestamp_column: Annotated[
        str, typer.Option(help="csv, parquet: column of times; empty: rows are in order.")
    ] = "timestamp",
    items: Annotated[Path | None, typer.Option(help="csv, parquet: a file of items with titles.")] = None,
    item_id_column: Annotated[str, typer.Option(help="Column of item IDs in --items.")] = "item_id",
    title_column: Annotated[str, typer.Option(help="Column of titles in --items.")] = "title",
    min_interactions: Annotated[
        int, typer.Option(min=1, help="csv, parquet: leave out users with fewer interactions.")
    ] = 1,
    metadata: Annotated[Path | None, typer.Option(help="amazon-reviews: the metadata file.")] = None,
    k_core: Annotated[
        int, typer.Option(min=1, help="amazon-reviews: every user and item has at least this many.")
    ] = 5,
    overwrite: Overwrite = False,
) -> None:
    """Read interactions, and items where there are any, into a dataset."""
    from service.data.amazon_reviews import import_amazon_reviews
    from service.data.semantic_id_json import import_semantic_id_json
    from service.data.tabular import import_tabular

    _refuse_foreign_options(ctx, fmt)
    for source in filter(None, (src, items, metadata)):
        _refuse_overlap(out, source)
    with _shown(f"importing {src.name}") as progress:
        if fmt is Format.SEMANTIC_ID_JSON:
            dataset = import_semantic_id_json(src, out, overwrite=overwrite, progress=progress)
        elif fmt is Format.AMAZON_REVIEWS:
            dataset = import_amazon_reviews(
                src, out, metadata=metadata, k_core=k_core, overwrite=overwrite, progress=progress
            )
        else:
            dataset = import_tabular(
                src,
                out,
                kind="csv" if fmt is Format.CSV else "parquet",
                user_column=user_column,
                item_column=item_column,
                timestamp_column=timestamp_column or None,
                items=items,
                item_id_column=item_id_column,
                title_column=title_column,
                min_interactions=min_interactions,
                overwrite=overwrite,
                progress=progress,
            )
    _report(dataset)


@app.command()
def synthesize(
    out: Out,
    num_items: Annotated[int, typer.Option(min=50, help="Items of the shop.")] = 2_000,
    num_users: Annotated[int, typer.Option(min=10, help="Users of the shop.")] = 4_000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same shop.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Make a believable shop: titled items with brands and categories, users with interests that drift."""
    from service.data.synthesize import synthesize

    with _shown(f"synthesising {out.name}") as progress:
        dataset = synthesize(
            out, num_items=num_items, num_users=num_users, seed=seed, overwrite=overwrite, progress=progress
        )
    _report(dataset)


def _refuse_foreign_options(ctx: typer.Context, fmt: Format) -> None:
    given = {name for name in _FORMATS_OF if _is_given(ctx, name)}
    for name, formats in _FORMATS_OF.items():
        if name in given and fmt not in formats:
            raise InputError(f"{_flag(name)} is an option of {' and '.join(formats)}, not of {fmt}")
    for name in ("item_id_column", "title_column"):
        if name in given and "items" not in given:
            raise InputError(f"{_flag(name)} names a column of the file --items, which is not given")


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _refuse_overlap(out: Path, source: Path) -> None:
    one, other = out.resolve(), source.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise InputError(f"--out {out} and {source} overlap; choose an --out apart from what is read")


@contextmanager
def _shown(name: str) -> "Iterator[Progress]":
    with bar(name) as shown:
        yield lambda stage, rows: shown.update(rows, note=stage)


def _report(dataset: "Dataset") -> None:
    info = dataset.info
    codes = f", {len(info.code_levels)} code levels" if info.code_levels else ""
    skipped = "".join(f", {count} {what} left out" for what, count in info.skipped.items() if count)
    print(
        f"dataset {dataset.path}: {info.num_users} users, {info.num_items} items, "
        f"{info.num_interactions} interactions{codes}{skipped}"
    )
