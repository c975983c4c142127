"""Writing files and folders so that a reader sees all of one or none of it."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.errors import InputError


@contextmanager
def new_folder(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A scratch folder beside `out` that becomes `out` when the block ends well, and is removed otherwise.

    A process that was killed in the block leaves a scratch folder; the next writer of `out` removes it.

    Raises:
        InputError: `out` exists and `overwrite` is not set, or its parent cannot be written.
    """
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists already; choose another --out or pass --overwrite")
    scratch = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from error
    try:
        yield scratch
        if out.exists():
            shutil.rmtree(out)
        scratch.rename(out)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data`; after a crash the file holds all of the old or all of the new."""
    scratch = path.with_name(f".{path.name}.partial")
    with scratch.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    scratch.rename(path)


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of `value` as indented JSON."""
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
