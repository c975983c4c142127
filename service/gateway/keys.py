"""API keys: a file that lists them, by name, and who calls with which.

Only hashes are kept. A key is 256 random bits, which nobody finds by trying, so a plain SHA-256 keeps it as well as
the slow hashes that passwords need, and a lookup by the hash tells nothing about a key by the time that it takes.
"""

import fcntl
import hashlib
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import structlog
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from service.errors import InputError, PermissionDeniedError, UnauthenticatedError
from service.files import write_atomic
from service.gateway.rate import TokenBucket

Scope = Literal["read", "events", "admin"]

# Scanners of leaked secrets know keys by such a beginning.
_PREFIX = "padrec_"
_MODE = 0o600
_CHECK_SECONDS = 1.0

_log = structlog.get_logger(__name__)


class ApiKey(BaseModel):
    """One key of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] = Field(description="Of the key.")
    scopes: tuple[Scope, ...] = Field(min_length=1, description="What it is for; admin includes the others.")
    requests_per_second: float | None = Field(None, gt=0, description="On average; null: no limit.")
    burst: int | None = Field(
        None, ge=1, description="Requests that may come at once; null: those of one second, at least one."
    )

    @model_validator(mode="after")
    def _burst_of_a_rate(self) -> Self:
        if self.burst is not None and self.requests_per_second is None:
            raise ValueError("burst needs requests_per_second")
        return self

    @property
    def full_burst(self) -> int:
        """Requests that may come at once, of a key that has a rate."""
        return self.burst or max(1, math.ceil(self.requests_per_second or 1))


class _KeysFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[ApiKey, ...]

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for what in ("name", "sha256"):
            values = [getattr(key, what) for key in self.keys]
            if len(set(values)) < len(values):
                raise ValueError(f"two keys have the same {what}")
        return self


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys of a file.

    Raises:
        InputError: it cannot be read, or is no file of keys.
    """
    try:
        return _KeysFile.model_validate_json(path.read_bytes()).keys
    except OSError as error:
        raise InputError(f"keys file {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        what = first["msg"].removeprefix("Value error, ")
        raise InputError(f"keys file {path}: {place + ': ' if place else ''}{what}") from error


def add_key(
    path: Path,
    name: str,
    scopes: Sequence[Scope],
    requests_per_second: float | None = None,
    burst: int | None = None,
) -> str:
    """Make a key and add its hash to the file, which is made if it is missing; the key, which nobody can read again.

    Raises:
        InputError: there is a key of this name, an argument is out of range, or the file cannot be used.
    """
    key = _PREFIX + secrets.token_urlsafe(32)
    try:
        added = ApiKey(
            name=name,
            sha256=_sha256(key.encode()),
            scopes=tuple(dict.fromkeys(scopes)),
            requests_per_second=requests_per_second,
            burst=burst,
        )
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "key"
        raise InputError(f"{place}: {first['msg'].removeprefix('Value error, ')}") from error
    with _alone(path):
        keys = read_keys(path) if path.exists() else ()
        if any(one.name == name for one in keys):
            raise InputError(
                f"keys file {path} has a key '{name}' already; revoke it first, or take another name"
            )
        _write(path, (*keys, added))
    return key


def remove_key(path: Path, name: str) -> None:
    """Take a key out of the file.

    Raises:
        InputError: there is no such key, or the file cannot be used.
    """
    with _alone(path):
        keys = read_keys(path)
        left = tuple(one for one in keys if one.name != name)
        if len(left) == len(keys):
            raise InputError(f"keys file {path} has no key '{name}'")
        _write(path, left)


def _write(path: Path, keys: Sequence[ApiKey]) -> None:
    content = {"keys": [key.model_dump(mode="json", exclude_none=True) for key in keys]}
    write_atomic(path, (json.dumps(content, indent=2) + "\n").encode(), _MODE)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """While no other process changes a file of this folder in the same way."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InputError(f"no such folder: {path.parent}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _sha256(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the key that was given, and what is left of its rate."""

    key: ApiKey
    bucket: TokenBucket | None

    def check(self, scope: Scope) -> None:
        """Raise `PermissionDeniedError` unless the key is for this."""
        if not {scope, "admin"} & set(self.key.scopes):
            raise PermissionDeniedError(
                f"the API key '{self.key.name}' is not for this: it needs scope '{scope}'"
            )

    def charge(self, count: int = 1) -> None:
        """Count so many requests; raises `RateLimitError`, and then counts none."""
        if self.bucket is not None:
            self.bucket.take(count)

    def charge_instead_of_one(self, count: int) -> None:
        """As `charge`, for what was counted as one request and turns out to be as many; refused, it costs nothing."""
        if self.bucket is not None:
            self.bucket.give_back(1)
            self.bucket.take(count)


class KeyRing:
    """The keys of a file, which is read again when it changes: a second after a key is revoked nobody gets in with it.

    A file that became unusable changes nothing, and is logged once.

    Args:
        path: the file.
        clock: seconds that only rise.

    Raises:
        InputError: the file cannot be read, or is no file of keys.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._stamp = _stamp(path)
        self._checked_at = clock()
        self._callers: dict[str, Caller] = {}
        self._take(read_keys(path))

    def caller_of(self, key: bytes | None) -> Caller:
        """Who calls with this key.

        Raises:
            UnauthenticatedError: nobody.
        """
        self._read_again()
        if key is None:
            raise UnauthenticatedError("give an API key, as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")
        caller = self._callers.get(_sha256(key))
        if caller is None:
            raise UnauthenticatedError("there is no such API key")
        return caller

    def _read_again(self) -> None:
        now = self._clock()
        if now - self._checked_at < _CHECK_SECONDS:
            return
        self._checked_at = now
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._take(read_keys(self._path))
        except InputError as error:
            _log.error("the API keys stay as they were", error=str(error))
        else:
            _log.info("API keys read again", num_keys=len(self._callers))

    def _take(self, keys: Sequence[ApiKey]) -> None:
        before = self._callers
        self._callers = {key.sha256: self._caller(key, before.get(key.sha256)) for key in keys}

    def _caller(self, key: ApiKey, before: Caller | None) -> Caller:
        if key.requests_per_second is None:
            return Caller(key, None)
        if before is not None and before.bucket is not None and _rate(before.key) == _rate(key):
            return Caller(key, before.bucket)  # reading the file again refills nothing
        return Caller(key, TokenBucket(key.requests_per_second, key.full_burst, self._clock))


def _rate(key: ApiKey) -> tuple[float | None, int]:
    return key.requests_per_second, key.full_burst


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes with the file; None: there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
