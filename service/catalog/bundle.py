"""A bundle: the folder with everything one model version needs.

    manifest.json      versions, sha256 of every file, code levels, token layout, decoding defaults,
                       training record
    items.parquet      the catalogue
    popular.json       item IDs, most popular first: the fallback list
    target/            a transformers checkpoint
    draft/             the draft, once one is trained

A bundle is written once, beside its final place, and sealed by its manifest; it never changes after that.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.errors import BundleError
from service.files import sha256_of, write_json

MANIFEST = "manifest.json"
ITEMS = "items.parquet"
POPULAR = "popular.json"
TARGET = "target"

FORMAT_VERSION: Final = 1


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LayoutRecord(_Frozen):
    """`TokenLayout` as JSON."""

    prefix: tuple[int, ...]
    list_start: tuple[int, ...]
    separator: int
    code_tokens: tuple[tuple[int, ...], ...] = Field(min_length=1)


class DecodingDefaults(_Frozen):
    """How lists of this bundle are asked for."""

    max_history_items: int = Field(ge=1, description="the latest items of a history that the target reads")
    max_num_items: int = Field(ge=1, description="longest list that fits the target's positions")


class Manifest(_Frozen):
    """What `manifest.json` holds."""

    format_version: Literal[1] = FORMAT_VERSION
    model_version: str
    catalog_version: str
    created: datetime
    num_items: int = Field(ge=1)
    code_levels: tuple[int, ...] = Field(min_length=1, description="codes at each level")
    layout: LayoutRecord
    decoding: DecodingDefaults
    training: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, str] = Field(description="path inside the bundle to sha256")


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its manifest is valid and the files it was opened for are intact."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path, *, only: Iterable[str] | None = None) -> "Bundle":
        """Open and check a bundle.

        Args:
            path: the bundle's folder.
            only: files or folders inside the bundle whose bytes are checked; None checks everything.

        Raises:
            BundleError: the folder is no bundle, is of another format, or a file is missing or changed; the
                message names the file.
        """
        manifest = _read_manifest(path)
        prefixes = None if only is None else tuple(only)
        for name, expected in manifest.files.items():
            if prefixes is not None and not any(name == p or name.startswith(f"{p}/") for p in prefixes):
                continue
            file = path / name
            if not file.is_file():
                raise BundleError(f"bundle {path}: {name} is missing")
            if sha256_of(file) != expected:
                raise BundleError(f"bundle {path}: {name} does not match its sha256 in {MANIFEST}")
        return cls(path=path, manifest=manifest)

    @property
    def layout(self) -> TokenLayout:
        """How this bundle's semantic IDs become tokens."""
        record = self.manifest.layout
        return TokenLayout(record.prefix, record.list_start, record.separator, record.code_tokens)

    @property
    def target_path(self) -> Path:
        """The transformers checkpoint."""
        return self.path / TARGET

    def read_catalogue(self) -> Catalogue:
        """The catalogue.

        Raises:
            BundleError: `items.parquet` is not what the manifest says.
        """
        try:
            catalogue = Catalogue.read(self.path / ITEMS)
        except (ValueError, pa.ArrowException, OSError) as error:
            raise BundleError(f"bundle {self.path}: {ITEMS}: {error}") from error
        if len(catalogue) != self.manifest.num_items:
            raise BundleError(f"bundle {self.path}: {ITEMS} holds another number of items than {MANIFEST}")
        if catalogue.trie.num_levels != len(self.manifest.code_levels) or any(
            catalogue.codes.max(axis=0) >= self.manifest.code_levels
        ):
            raise BundleError(f"bundle {self.path}: {ITEMS} has codes outside the levels in {MANIFEST}")
        return catalogue

    def read_popular(self) -> list[str]:
        """Item IDs, most popular first.

        Raises:
            BundleError: `popular.json` is not a list of strings.
        """
        try:
            popular = json.loads((self.path / POPULAR).read_bytes())
        except (OSError, ValueError) as error:
            raise BundleError(f"bundle {self.path}: {POPULAR}: {error}") from error
        if not isinstance(popular, list) or not all(isinstance(item, str) for item in popular):
            raise BundleError(f"bundle {self.path}: {POPULAR} is not a list of item IDs")
        return popular


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    if not path.is_dir():
        raise BundleError(f"no such bundle: {path}")
    if not file.is_file():
        raise BundleError(f"bundle {path}: {MANIFEST} is missing")
    try:
        return Manifest.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"bundle {path}: {MANIFEST}: {name or 'content'}: {first['msg']}") from error


def seal(
    folder: Path,
    *,
    num_items: int,
    layout: TokenLayout,
    decoding: DecodingDefaults,
    training: Mapping[str, Any],
) -> Manifest:
    """Write the manifest of a folder that holds all the other files of a bundle."""
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    files = {name: sha256_of(folder / name) for name in names if name != MANIFEST}
    manifest = Manifest(
        model_version=_version(files, TARGET, "draft"),
        catalog_version=_version(files, ITEMS),
        created=datetime.now(UTC).replace(microsecond=0),
        num_items=num_items,
        code_levels=tuple(len(tokens) for tokens in layout.code_tokens),
        layout=LayoutRecord(
            prefix=layout.prefix,
            list_start=layout.list_start,
            separator=layout.separator,
            code_tokens=layout.code_tokens,
        ),
        decoding=decoding,
        training=dict(training),
        files=files,
    )
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return manifest


def _version(files: Mapping[str, str], *prefixes: str) -> str:
    """Twelve hex digits that change when any of the files does."""
    lines = [f"{name} {digest}" for name, digest in sorted(files.items()) if name.startswith(prefixes)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
