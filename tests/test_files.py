from pathlib import Path

import pytest

from service.errors import InputError
from service.files import new_folder, sha256_of, write_atomic, write_json


def test_a_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with new_folder(out, marker="a") as folder:
        (folder / "a").write_text("1")
        assert not out.exists()
    assert (out / "a").read_text() == "1"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_of_a_folder_that_failed(tmp_path: Path, error: type[BaseException]) -> None:
    def write() -> None:
        with new_folder(tmp_path / "out", marker="a") as folder:
            (folder / "a").write_text("1")
            raise error

    with pytest.raises(error):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_only_on_request_and_only_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    with pytest.raises(InputError, match="exists already"), new_folder(out, marker="old"):
        pass
    with new_folder(out, marker="old", overwrite=True) as folder:
        assert (out / "old").exists()
        (folder / "new").touch()
    assert [path.name for path in out.iterdir()] == ["new"]


def test_only_a_folder_of_the_same_kind_is_ever_replaced(tmp_path: Path) -> None:
    folder, file, link = (tmp_path / name for name in ("folder", "file", "link"))
    folder.mkdir()
    (folder / "precious").touch()
    file.touch()
    link.symlink_to(folder)
    refused = [folder, file, link, Path(), Path(".."), tmp_path / "missing" / "out"]
    for out in refused:
        with pytest.raises(InputError), new_folder(out, marker="manifest.json", overwrite=True):
            pass
    assert (folder / "precious").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "file", "link"}


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_atomic(tmp_path / "taken", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_what_a_killed_writer_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "torn").touch()
    with new_folder(tmp_path / "out", marker="a") as folder:
        assert list(folder.iterdir()) == []


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"one")
    write_atomic(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    write_json(tmp_path / "b.json", {"ü": 1})
    assert "ü" in (tmp_path / "b.json").read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b.json"]
    assert sha256_of(tmp_path / "a").startswith("3fc4ccfe745870e2")
