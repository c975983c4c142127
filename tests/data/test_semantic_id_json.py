import errno
import json
from pathlib import Path
from typing import Any

import pytest

from service.data.dataset import Dataset
from service.data.semantic_id_json import import_semantic_id_json
from service.errors import DatasetError, InputError

REAL = Path(__file__).parents[2] / "../shared/data"

HISTORIES = {"anna": [2, 0, 2], "ben": [], "carl": [1]}
TOKENS = {"0": ["<a_3>", "<b_0>"], "1": ["<a_3>", "<b_0>"], "2": ["<a_1>", "<b_9>"], "3": ["<a_0>", "<b_1>"]}


def write_source(folder: Path, histories: Any = HISTORIES, tokens: Any = TOKENS, items: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "interactions.json").write_text(json.dumps(histories))
    (folder / "semantic_ids.json").write_text(json.dumps(tokens))
    if items:
        (folder / "items.jsonl").write_text(items)
    return folder


def assert_refused(src: Path, tmp_path: Path, *words: str) -> None:
    with pytest.raises(DatasetError) as caught:
        import_semantic_id_json(src, tmp_path / "out")
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert {path.name for path in tmp_path.iterdir()} <= {"src"}


def test_import(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src")
    dataset = import_semantic_id_json(src, tmp_path / "out")
    assert (dataset.name, dataset.num_users, dataset.num_items, dataset.num_interactions) == ("src", 2, 4, 4)
    assert dataset.info.source.model_dump() == {"format": "semantic-id-json", "name": "src"}
    assert dataset.info.code_levels == (4, 10)
    assert dataset.info.skipped == {"users_without_interactions": 1}
    assert dataset.items()["codes"].to_pylist() == [[3, 0], [3, 0], [1, 9], [0, 1]]
    assert dataset.items()["title"].to_pylist() == [""] * 4
    interactions = dataset.interactions()
    assert interactions.user_ids == ["anna", "carl"]
    assert interactions.offsets.tolist() == [0, 3, 4]
    assert interactions.items.tolist() == [2, 0, 2, 1]
    assert Dataset.open(tmp_path / "out").info == dataset.info


def test_titles_and_attributes_join_by_item_id(tmp_path: Path) -> None:
    lines = [
        {
            "item_id": "2",
            "title": "Cup &amp; Saucer",
            "brand": "Finch",
            "sizes": ["S", "M"],
            "extra": {"a": 1},
        },
        {"item_id": "9", "title": "No semantic ID"},
        {"item_id": 0, "title": "Pot", "brand": "", "stock": 7, "description": "['Tall.', 'Bl"},
    ]
    src = write_source(tmp_path / "src", items="\n".join(map(json.dumps, lines)) + "\n\n")
    dataset = import_semantic_id_json(src, tmp_path / "out")
    items = dataset.items()
    assert items["title"].to_pylist() == ["Pot", "", "Cup & Saucer", ""]
    missing = {"brand": None, "sizes": None, "stock": None, "description": None}
    attributes = items["attributes"].to_pylist()
    assert attributes[0] == missing | {"stock": 7, "description": "Tall. Bl"}
    assert attributes[2] == missing | {"brand": "Finch", "sizes": ["S", "M"]}
    assert attributes[1] in (None, missing)
    assert dataset.info.skipped["items_without_semantic_id"] == 1


def test_names_of_the_public_repositories(tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.mkdir()
    (src / "Toys.inter.json").write_text(json.dumps({"0": [1, 0]}))
    (src / "Toys.index.json").write_text(json.dumps({"0": ["<a_0>"], "1": ["<a_1>"]}))
    (src / "Toys.item.json").write_text(json.dumps({"1": {"title": "Top", "categories": "Toys,Classic"}}))
    items = import_semantic_id_json(src, tmp_path / "out").items()
    assert items["title"].to_pylist() == ["", "Top"]
    assert items["attributes"].to_pylist()[1] == {"category": ["Toys", "Classic"]}


def test_largest_codes_and_most_levels(tmp_path: Path) -> None:
    tokens = {"0": [f"<{chr(97 + level)}_065535>" for level in range(26)]}
    src = write_source(tmp_path / "src", {"anna": [0]}, tokens)
    assert import_semantic_id_json(src, tmp_path / "out").info.code_levels == (65_536,) * 26


def test_half_a_character_in_a_title_is_replaced(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", items='{"item_id": "0", "title": "Cup \\ud800"}\n')
    assert import_semantic_id_json(src, tmp_path / "out").items()["title"].to_pylist()[0] == "Cup \ufffd"


def test_two_sources_in_one_folder_are_refused(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src")
    (src / "interactions.json").rename(src / "A.inter.json")
    (src / "B.inter.json").write_text("{}")
    assert_refused(src, tmp_path, "more than one", "A.inter.json")


def test_missing_folder_and_files(tmp_path: Path) -> None:
    assert_refused(tmp_path / "src", tmp_path, "no such folder")
    src = write_source(tmp_path / "src")
    (src / "semantic_ids.json").unlink()
    assert_refused(src, tmp_path, "semantic_ids.json is missing")


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ({"0": ["<a_1>"], "1": ["<a_1>", "<b_2>"]}, ["item '1'", "2 code tokens"]),
        ({"0": ["<b_1>"]}, ["item '0'", "<b_1>", "<a_0>"]),
        ({"0": ["<a_1>", "<a_2>"]}, ["item '0'", "<a_2>", "<b_0>"]),
        ({"0": ["a_1"]}, ["item '0'"]),
        ({"0": ["<a_-1>"]}, ["item '0'"]),
        ({"0": ["<a_65536>"]}, ["item '0'", "code 1", "<a_65536>", "the largest is 65535"]),
        ({"0": ["<a_999999999>"]}, ["item '0'", "the largest is 65535"]),
        ({"0": [f"<a_{'9' * 5000}>"]}, ["item '0'", "the largest is 65535"]),
        ({"0": [f"<{chr(97 + level)}_0>" for level in range(27)]}, ["item '0'", "27 code", "at most 26"]),
        ({"0": [7]}, ["item '0'"]),
        ({"0": []}, ["item '0'"]),
        ({"0": "<a_1>"}, ["item '0'"]),
        ({}, ["no items"]),
        ([1], ["not a JSON object"]),
    ],
)
def test_bad_semantic_ids(tmp_path: Path, tokens: Any, words: list[str]) -> None:
    assert_refused(write_source(tmp_path / "src", tokens=tokens), tmp_path, "semantic_ids.json", *words)


@pytest.mark.parametrize(
    ("histories", "words"),
    [
        ({"anna": [0, 8]}, ["user 'anna'", "item '8'", "no semantic ID"]),
        ({"anna": 3}, ["user 'anna'"]),
        ({"anna": [0.5]}, ["user 'anna'", "0.5"]),
        ({"anna": [True]}, ["user 'anna'"]),
        ({"anna": [[0]]}, ["user 'anna'"]),
        ([[0]], ["interactions.json", "not a JSON object"]),
    ],
)
def test_bad_histories(tmp_path: Path, histories: Any, words: list[str]) -> None:
    assert_refused(write_source(tmp_path / "src", histories), tmp_path, *words)


@pytest.mark.parametrize("histories", [{}, {"anna": []}])
def test_no_interactions(tmp_path: Path, histories: Any) -> None:
    assert_refused(write_source(tmp_path / "src", histories), tmp_path, "no interactions")


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("interactions.json", b'{"anna": [0, 1', "not valid JSON"),
        ("semantic_ids.json", b'{"0": ["<a_3>", "<b', "not valid JSON"),
        ("interactions.json", b"", "not valid JSON"),
        ("interactions.json", b'{"\xff": [0]}', "UTF8"),
        ("interactions.json", b'{"anna": [0], "anna": [1]}', "user 'anna' stands twice"),
        ("semantic_ids.json", b'{"0": ["<a_3>"], "0": ["<a_3>"]}', "item '0' stands twice"),
        ("items.jsonl", b'{"item_id": "0"}\n{"item_id": "1", "ti', "line 2"),
        ("items.jsonl", b'{"item_id": "0"}\n[]\n', "line 2"),
        ("items.jsonl", b'{"title": "nameless"}\n', "item_id"),
        ("items.jsonl", b'{"item_id": "\xff"}\n', "not UTF-8"),
        ("items.jsonl", b'{"item_id": true}\n', "'item_id' True"),
        ("items.jsonl", b'{"item_id": "0", "x": ' + b"[" * 100_000, "line 1: nested too deeply"),
        ("interactions.json", b'{"anna": ' + b"[" * 100_000, "nested deeper than 32 levels"),
        ("semantic_ids.json", b'{"0": ' + b'{"a":' * 100_000, "nested deeper than 32 levels"),
        ("items.jsonl", b'{"item_id": "0"}\n{"item_id": "0"}\n', "item '0' stands twice"),
    ],
)
def test_torn_files(tmp_path: Path, name: str, content: bytes, word: str) -> None:
    src = write_source(tmp_path / "src")
    (src / name).write_bytes(content)
    assert_refused(src, tmp_path, name, word)


def test_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = write_source(tmp_path / "src")
    open_file = Path.open

    def refuse(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == "interactions.json":  # root, who runs tests in containers, may read any file
            raise PermissionError(errno.EACCES, "Permission denied")
        return open_file(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    assert_refused(src, tmp_path, "interactions.json", "Permission denied")


def test_folder_in_place_of_a_file(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src")
    (src / "interactions.json").unlink()
    (src / "interactions.json").mkdir()
    assert_refused(src, tmp_path, "interactions.json", "Is a directory")


def test_existing_out_is_kept_unless_told(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src")
    import_semantic_id_json(src, tmp_path / "out")
    with pytest.raises(InputError, match="exists already"):
        import_semantic_id_json(src, tmp_path / "out")
    (src / "interactions.json").write_text("{")
    with pytest.raises(DatasetError):
        import_semantic_id_json(src, tmp_path / "out", overwrite=True)
    assert Dataset.open(tmp_path / "out").num_interactions == 4
    write_source(src, histories={"dora": [3]})
    assert import_semantic_id_json(src, tmp_path / "out", overwrite=True).num_interactions == 1


@pytest.mark.parametrize(
    ("name", "users", "items", "interactions", "distinct", "levels"),
    [
        ("amazon-beauty", 22_363, 12_101, 198_502, 12_088, 4),
        ("amazon-office", 3_231, 3_459, None, 3_444, 3),
    ],
)
def test_real_data(
    tmp_path: Path, name: str, users: int, items: int, interactions: int | None, distinct: int, levels: int
) -> None:
    src = REAL / name
    if not src.is_dir():
        pytest.skip(f"real data is absent: {src}")
    dataset = import_semantic_id_json(src, tmp_path / "out")
    source = json.loads((src / "interactions.json").read_bytes())
    assert (dataset.num_users, dataset.num_items) == (users, items)
    assert dataset.num_interactions == sum(map(len, source.values()))
    assert interactions in (None, dataset.num_interactions)
    assert dataset.info.code_levels is not None
    assert len(dataset.info.code_levels) == levels
    table = dataset.items()
    assert len({tuple(codes) for codes in table["codes"].to_pylist()}) == distinct
    histories = dataset.interactions()
    item_ids = table["item_id"].to_pylist()
    for user in (0, 7, users - 1):
        assert [int(item_ids[row]) for row in histories.history(user)] == source[histories.user_ids[user]]
    if name == "amazon-office":
        assert all(table["title"].to_pylist())
