"""Writing files and folders so that a reader sees all of one or none of it."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.errors import InputError


@contextmanager
def new_folder(out: Path, *, marker: str, overwrite: bool = False) -> Iterator[Path]:
    """A scratch folder beside `out` that becomes `out` when the block ends well, and is removed otherwise.

    A process that was killed in the block leaves a scratch folder; the next writer of `out` removes it.

    Args:
        out: the folder to make; its parent must exist.
        marker: a file that every folder of this kind holds; nothing else is ever replaced.
        overwrite: replace a folder of this kind that is there.

    Raises:
        InputError: `out` may not be made or replaced, or cannot be written.
    """
    check_new_folder(out, marker=marker, overwrite=overwrite)
    scratch, old = (out.with_name(f".{out.name}.{what}") for what in ("partial", "old"))
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from error
    try:
        yield scratch
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
            out.rename(old)
        scratch.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def check_new_folder(out: Path, *, marker: str, overwrite: bool) -> None:
    """What `new_folder` asks of `out`, for callers with long work ahead.

    Raises:
        InputError: as `new_folder`.
    """
    if out.name in ("", ".."):
        raise InputError(f"'{out}' is no name for a new folder")
    if not out.parent.is_dir():
        raise InputError(f"no such folder: {out.parent}")
    if not (out.exists() or out.is_symlink()):
        return
    if not overwrite:
        raise InputError(f"{out} exists already; choose another --out or pass --overwrite")
    if out.is_symlink() or not (out / marker).is_file():
        raise InputError(f"{out} is not replaced, because it holds no {marker}; choose another --out")


def check_new_file(file: Path, *, overwrite: bool) -> None:
    """Raise an `InputError` unless `file` may be written: its folder exists, it is no folder, nor there already."""
    if not file.parent.is_dir():
        raise InputError(f"no such folder: {file.parent}")
    if file.is_dir():
        raise InputError(f"{file} is a folder")
    if file.exists() and not overwrite:
        raise InputError(f"{file} exists already; choose another --out or pass --overwrite")


def write_atomic(path: Path, data: bytes, mode: int | None = None) -> None:
    """Replace `path` by `data`; after a crash the file holds all of the old or all of the new.

    Args:
        path: the file.
        data: all of it.
        mode: the file's permissions, which it has before it holds anything; None: the process's usual ones.
    """
    scratch = path.with_name(f".{path.name}.partial")
    try:
        with scratch.open("wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        scratch.rename(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of `value` as indented JSON."""
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(files: Mapping[str, str]) -> str:
    """Twelve hex digits that change when a name or a SHA-256 of `files` does."""
    lines = [f"{name} {digest}" for name, digest in sorted(files.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
