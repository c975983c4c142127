"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

DatasetPath = Annotated[Path, typer.Argument(metavar="DATASET", help="Folder of a dataset.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**31, help="Of everything that is random.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the rows to this file as well.")]
