"""Generates `service/rpc/generated/` from `proto/`: `python -m service.rpc.generate`."""

from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

from service.errors import InputError

ROOT = Path(__file__).parents[2]
PACKAGE = "service/rpc/generated"


def generate(out: Path = ROOT) -> None:
    """Write the code of every file under `proto/` to `out / PACKAGE`.

    `proto/` is mapped onto the package, so that the generated modules import each other by the names under
    which the service imports them.

    Raises:
        InputError: protoc refuses a file; it has said why on stderr.
    """
    sources = sorted(str(file.relative_to(ROOT / "proto")) for file in (ROOT / "proto").rglob("*.proto"))
    arguments = [
        "protoc",
        f"-I{PACKAGE}={ROOT / 'proto'}",
        f"-I{files('grpc_tools') / '_proto'}",  # protobuf's own types
        f"--python_out={out}",
        f"--pyi_out={out}",
        f"--grpc_python_out={out}",
        *(f"{PACKAGE}/{source}" for source in sources),
    ]
    if protoc.main(arguments) != 0:
        raise InputError("protoc refuses proto/")


if __name__ == "__main__":
    generate()
