import json
from pathlib import Path

import pytest

from service.catalog.bundle import ITEMS, MANIFEST, POPULAR, Bundle
from service.errors import BundleError


def edit_manifest(bundle: Path, **changes) -> None:
    file = bundle / MANIFEST
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_sealed_bundle_opens(make_bundle, tmp_path: Path) -> None:
    bundle = Bundle.open(make_bundle(tmp_path))
    assert len(bundle.read_catalogue()) == bundle.manifest.num_items == 20
    assert bundle.read_popular()[:2] == ["item-0", "item-1"]
    assert bundle.layout.num_levels == 3


def test_versions_follow_the_content(make_bundle, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    one, two = (Bundle.open(make_bundle(tmp_path / name)).manifest for name in ("one", "two"))
    other = Bundle.open(make_bundle(tmp_path / "three", num_items=21)).manifest
    assert one.catalog_version == two.catalog_version != other.catalog_version


@pytest.mark.parametrize("name", [ITEMS, POPULAR])
def test_a_changed_or_missing_file_is_named(make_bundle, tmp_path: Path, name: str) -> None:
    path = make_bundle(tmp_path)
    with (path / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(BundleError, match=f"{name} does not match its sha256"):
        Bundle.open(path)
    Bundle.open(path, only=[other for other in (ITEMS, POPULAR) if other != name])
    (path / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        Bundle.open(path)


def test_what_is_no_manifest_is_refused(make_bundle, tmp_path: Path) -> None:
    path = make_bundle(tmp_path)
    with pytest.raises(BundleError, match="no such bundle"):
        Bundle.open(tmp_path / "elsewhere")
    edit_manifest(path, format_version=2)
    with pytest.raises(BundleError, match=r"manifest\.json: format_version"):
        Bundle.open(path)
    (path / MANIFEST).write_text("{")
    with pytest.raises(BundleError, match=r"manifest\.json: content"):
        Bundle.open(path)
    (path / MANIFEST).unlink()
    with pytest.raises(BundleError, match=r"manifest\.json is missing"):
        Bundle.open(path)


def test_codes_outside_the_levels_are_refused(make_bundle, tmp_path: Path) -> None:
    path = make_bundle(tmp_path)
    edit_manifest(path, code_levels=[4, 2, 4])
    with pytest.raises(BundleError, match="codes outside the levels"):
        Bundle.open(path).read_catalogue()
