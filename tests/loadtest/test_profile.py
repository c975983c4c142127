from pathlib import Path

import pytest

from loadtest.profile import DEFAULT, Profile, load_profile
from service.errors import InputError


def test_the_file_says_what_the_defaults_are() -> None:
    assert load_profile(DEFAULT) == Profile()
    assert all(f"\n{name} = " in DEFAULT.read_text() for name in Profile.model_fields)


def test_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADTEST_RATE", "40")
    monkeypatch.setenv("LOADTEST_LIST_SIZES", "[1, 2]")
    profile = load_profile()
    assert (profile.rate, profile.list_sizes) == (40.0, (1, 2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rate = 0", "setting 'rate': Input should be greater than 0"),
        ("ramp_growth = 1.0", "setting 'ramp_growth'"),
        ("list_sizes = [0]", "setting 'list_sizes.0'"),
        ("speed = 3", "setting 'speed'"),
        ("event_share = 0.9\nstream_share = 0.2", "more than all calls"),
        ("history_items = [5, 2]", "history_items are the fewest"),
        ("rate = ", "is not valid TOML"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "profile.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        load_profile(file)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such profile"):
        load_profile(tmp_path / "none.toml")


def test_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADTEST_LIST_SIZES", "five")
    with pytest.raises(InputError, match="environment"):
        load_profile()
