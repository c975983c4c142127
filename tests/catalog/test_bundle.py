import json
import re
from pathlib import Path

import pytest

from service.catalog.bundle import ITEMS, MANIFEST, POPULAR, Bundle, DecodingDefaults, seal
from service.catalog.layout import TokenLayout
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
    with pytest.raises(BundleError, match=r"manifest\.json: Invalid JSON"):
        Bundle.open(path)
    (path / MANIFEST).unlink()
    with pytest.raises(BundleError, match=r"manifest\.json is missing"):
        Bundle.open(path)


def test_codes_outside_the_levels_are_refused(make_bundle, tmp_path: Path) -> None:
    path = make_bundle(tmp_path)
    layout = json.loads((path / MANIFEST).read_text())["layout"]
    layout["code_tokens"][1] = layout["code_tokens"][1][:2]
    edit_manifest(path, code_levels=[4, 2, 4], layout=layout)
    with pytest.raises(BundleError, match="codes outside the levels"):
        Bundle.open(path).read_catalogue()


LAYOUT = {"prefix": [0], "list_start": [1], "separator": 2, "code_tokens": [[3, 4], [5, 6]]}
DECODING = {"max_history_items": 8, "max_num_items": 5}
FAULTS = [
    ({"code_levels": [2, 2, 2]}, "layout.code_tokens has 2 2 tokens by level, code_levels says 2 2 2"),
    ({"code_levels": [2, 3]}, "layout.code_tokens has 2 2 tokens by level, code_levels says 2 3"),
    ({"code_levels": [2, 0]}, "code_levels.1: Input should be greater than or equal to 1"),
    ({"code_levels": [2, 65_537]}, "code_levels.1: "),
    ({"code_levels": [2] * 27}, "code_levels: "),
    ({"layout": {**LAYOUT, "code_tokens": [[3, 4], [5, 3]]}}, "layout: code token 3 has another meaning"),
    ({"layout": {**LAYOUT, "code_tokens": [[3, 4], [4, 3]]}}, "layout: code token 4 has another meaning"),
    ({"layout": {**LAYOUT, "separator": 4}}, "layout: code token 4 has another meaning"),
    ({"layout": {**LAYOUT, "prefix": [0, 5]}}, "layout: code token 5 has another meaning"),
    ({"layout": {**LAYOUT, "list_start": [6]}}, "layout: code token 6 has another meaning"),
    ({"layout": {**LAYOUT, "separator": -1}}, "layout.separator: "),
    ({"layout": {**LAYOUT, "code_tokens": [[3, 4], [5, 2**31]]}}, "layout.code_tokens.1.1: "),
    ({"decoding": {**DECODING, "max_history_items": 100_001}}, "decoding.max_history_items: "),
    ({"decoding": {**DECODING, "max_num_items": 10_001}}, "decoding.max_num_items: "),
    ({"files": {ITEMS: "0"}}, "files does not list popular.json"),
    ({"files": {POPULAR: "0"}}, "files does not list items.parquet"),
]


@pytest.mark.parametrize(("changes", "message"), FAULTS)
def test_a_manifest_that_contradicts_itself_is_refused(
    make_bundle, tmp_path: Path, changes: dict, message: str
) -> None:
    path = make_bundle(tmp_path)
    edit_manifest(path, **{"layout": LAYOUT, "code_levels": [2, 2], "decoding": DECODING})
    Bundle.open(path, only=())
    edit_manifest(path, **changes)
    with pytest.raises(BundleError, match=re.escape(f"manifest.json: {message}")):
        Bundle.open(path, only=())


def test_a_vocabulary_with_one_end_token_for_all(make_bundle, tmp_path: Path) -> None:
    path = make_bundle(tmp_path)
    edit_manifest(path, code_levels=[2, 2], layout={**LAYOUT, "prefix": [2], "list_start": [2]})
    assert Bundle.open(path).layout.separator == 2


@pytest.mark.parametrize("name", ["notes.txt", "target/adapter.safetensors", "old/manifest.json"])
def test_a_file_that_is_not_listed_is_named(make_bundle, tmp_path: Path, name: str) -> None:
    path = make_bundle(tmp_path)
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).touch()
    with pytest.raises(BundleError, match=f"{name} is not listed in manifest"):
        Bundle.open(path)
    Bundle.open(path, only=[ITEMS, POPULAR])


def test_a_bundle_without_a_target_says_so(make_bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json lists no target/config\.json"):
        _ = Bundle.open(make_bundle(tmp_path)).target_path


def test_a_folder_that_makes_no_bundle_is_not_sealed(tmp_path: Path) -> None:
    layout = TokenLayout((0,), (1,), 2, ((3,),))
    with pytest.raises(BundleError, match=r"files does not list items\.parquet"):
        seal(tmp_path, num_items=1, layout=layout, decoding=DecodingDefaults(**DECODING), training={})
    assert list(tmp_path.iterdir()) == []
