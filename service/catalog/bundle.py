"""A bundle: the folder with everything one model version needs.

    manifest.json      versions, sha256 of every file, code levels, token layout, decoding defaults,
                       training record
    items.parquet      the catalogue
    popular.json       item IDs, most popular first: the fallback list
    target/            a transformers checkpoint
    draft/             the draft, in bundles that have one

A bundle is written once, beside its final place, and sealed by its manifest; it never changes after that.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.errors import BundleError
from service.files import digest_of, sha256_of, write_json
from service.types import Decoding

MANIFEST = "manifest.json"
ITEMS = "items.parquet"
POPULAR = "popular.json"
TARGET = "target"
DRAFT = "draft"

FORMAT_VERSION: Final = 1

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
NumCodes = Annotated[int, Field(ge=1, le=65_536)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LayoutRecord(_Frozen):
    """`TokenLayout` as JSON.

    A vocabulary with one end token for everything may repeat it in `prefix`, `list_start` and `separator`, and one with
    the same code tokens at every level may repeat those; else a code token means one code and nothing else.
    """

    prefix: tuple[TokenId, ...]
    list_start: tuple[TokenId, ...]
    separator: TokenId
    code_tokens: tuple[tuple[TokenId, ...], ...] = Field(min_length=1)
    between: tuple[TokenId, ...] | None = None

    @model_validator(mode="after")
    def _code_tokens_are_distinct(self) -> Self:
        meanings: dict[int, int | None] = dict.fromkeys(
            (*self.prefix, *self.list_start, self.separator, *(self.between or ()))
        )
        for level in self.code_tokens:
            for code, token in enumerate(level):
                if meanings.setdefault(token, code) != code:
                    raise ValueError(f"code token {token} has another meaning too")
        return self


class DecodingDefaults(_Frozen):
    """How lists of this bundle are asked for."""

    max_history_items: int = Field(
        ge=1, le=100_000, description="the latest items of a history that the target reads"
    )
    max_num_items: int = Field(ge=1, le=10_000, description="longest list that fits the target's positions")
    decoding: Decoding = Field("list", description="how lists are made where a request does not say")


class Manifest(_Frozen):
    """What `manifest.json` holds."""

    format_version: Literal[1] = FORMAT_VERSION
    model_version: str
    catalog_version: str
    created: datetime
    num_items: int = Field(ge=1)
    code_levels: tuple[NumCodes, ...] = Field(min_length=1, max_length=26, description="codes at each level")
    layout: LayoutRecord
    decoding: DecodingDefaults
    training: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, str] = Field(description="path inside the bundle to sha256")

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        num_tokens = tuple(len(tokens) for tokens in self.layout.code_tokens)
        if num_tokens != self.code_levels:
            raise ValueError(
                f"layout.code_tokens has {_numbers(num_tokens)} tokens by level, code_levels says "
                f"{_numbers(self.code_levels)}"
            )
        for name in (ITEMS, POPULAR):
            if name not in self.files:
                raise ValueError(f"files does not list {name}")
        return self


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
            only: files or folders inside the bundle that are checked; None checks everything.

        Raises:
            BundleError: the folder is no bundle, is of another format, or a file is missing, changed or not
                listed in the manifest; the message names the file.
        """
        manifest = _read_manifest(path)
        prefixes = None if only is None else tuple(only)

        def is_checked(name: str) -> bool:
            return prefixes is None or any(name == p or name.startswith(f"{p}/") for p in prefixes)

        for name, expected in filter(lambda listed: is_checked(listed[0]), manifest.files.items()):
            file = path / name
            if not file.is_file():
                raise BundleError(f"bundle {path}: {name} is missing")
            if sha256_of(file) != expected:
                raise BundleError(f"bundle {path}: {name} does not match its sha256 in {MANIFEST}")
        for name in filter(is_checked, _names_of_files(path)):
            if name not in manifest.files:
                raise BundleError(f"bundle {path}: {name} is not listed in {MANIFEST}")
        return cls(path=path, manifest=manifest)

    @property
    def layout(self) -> TokenLayout:
        """How this bundle's semantic IDs become tokens."""
        return TokenLayout(**dict(self.manifest.layout))

    @property
    def target_path(self) -> Path:
        """The transformers checkpoint.

        Raises:
            BundleError: the bundle has none.
        """
        if f"{TARGET}/config.json" not in self.manifest.files:
            raise BundleError(f"bundle {self.path}: {MANIFEST} lists no {TARGET}/config.json")
        return self.path / TARGET

    @property
    def target_digest(self) -> str:
        """What `service.model.target.target_digest` says of the target; nothing is read for it."""
        files = {Path(name): digest for name, digest in self.manifest.files.items()}
        return digest_of(
            {
                file.name: digest
                for file, digest in files.items()
                if file.parent == Path(TARGET) and file.suffix == ".safetensors"
            }
        )

    @property
    def draft_path(self) -> Path | None:
        """The draft, or None for a bundle without one."""
        return self.path / DRAFT if f"{DRAFT}/config.json" in self.manifest.files else None

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
    except OSError as error:
        raise BundleError(f"bundle {path}: {MANIFEST}: {error.strerror}") from error
    except ValidationError as error:
        raise BundleError(f"bundle {path}: {MANIFEST}: {_first_fault(error)}") from error


def _first_fault(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{name}: {message}" if name else message


def _numbers(values: Iterable[int]) -> str:
    return " ".join(map(str, values))


def _names_of_files(folder: Path) -> list[str]:
    """What a manifest lists: paths inside the bundle, without the manifest's own."""
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if not file.is_dir())
    return [name for name in names if name != MANIFEST]


def seal(
    folder: Path,
    *,
    num_items: int,
    layout: TokenLayout,
    decoding: DecodingDefaults,
    training: Mapping[str, Any],
) -> Manifest:
    """Write the manifest of a folder that holds all the other files of a bundle.

    Raises:
        BundleError: a file is missing, or the layout contradicts itself or is too large.
    """
    files = {name: sha256_of(folder / name) for name in _names_of_files(folder)}
    try:
        manifest = Manifest(
            model_version=_version(files, TARGET, DRAFT),
            catalog_version=_version(files, ITEMS),
            created=datetime.now(UTC).replace(microsecond=0),
            num_items=num_items,
            code_levels=tuple(len(tokens) for tokens in layout.code_tokens),
            layout=LayoutRecord(**asdict(layout)),
            decoding=decoding,
            training=dict(training),
            files=files,
        )
    except ValidationError as error:
        raise BundleError(f"bundle {folder}: {_first_fault(error)}") from error
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return manifest


def _version(files: Mapping[str, str], *prefixes: str) -> str:
    """Changes when any of the files does."""
    return digest_of({name: digest for name, digest in files.items() if name.startswith(prefixes)})
