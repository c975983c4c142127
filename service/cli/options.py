"""Options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Dtype(StrEnum):
    """In which numbers target and draft count."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Decoding(StrEnum):
    """How lists are made: item by item, or of the most probable next items."""

    LIST = "list"
    BEAM = "beam"


BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of a bundle.")]
DatasetPath = Annotated[Path, typer.Argument(metavar="DATASET", help="Folder of a dataset.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
DtypeName = Annotated[Dtype, typer.Option("--dtype", help="auto: bfloat16 on a GPU, else float32.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**31, help="Of everything that is random.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the rows to this file as well.")]

# Of those who ask a running gateway.
Url = Annotated[str, typer.Option("--url", help="Where the gateway listens.")]
ApiKey = Annotated[
    str | None, typer.Option("--api-key", envvar="PADREC_API_KEY", help="Of a gateway that asks for one.")
]
CaFile = Annotated[
    Path | None,
    typer.Option("--ca", help="PEM, of the gateway's certificate; default: those that this machine trusts."),
]
CertificateFile = Annotated[
    Path | None,
    typer.Option("--certificate", help="PEM, for a gateway that asks for certificates; goes with --key."),
]
KeyFile = Annotated[Path | None, typer.Option("--key", help="PEM, of --certificate.")]
LOCAL_URL = "http://127.0.0.1:8000"
