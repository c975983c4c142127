import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.errors import InputError, PermissionDeniedError, RateLimitError, UnauthenticatedError
from service.gateway.keys import KeyRing, add_key, read_keys, remove_key
from tests.gateway.test_rate import Clock


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def lets_in(ring: KeyRing, key: str) -> bool:
    try:
        ring.caller_of(key.encode())
    except UnauthenticatedError:
        return False
    return True


class TestFile:
    def test_it_holds_hashes_and_only_its_owner_reads_it(self, file: Path) -> None:
        keys = [add_key(file, name, ["read", "read"], 5, 9) for name in ("shop", "app")]
        assert len(set(keys)) == 2
        assert all(key.startswith("padrec_") and len(key) >= 50 for key in keys)
        assert not any(key in file.read_text() for key in keys)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        first, second = read_keys(file)
        assert (first.name, second.name, first.scopes) == ("shop", "app", ("read",))
        assert (first.requests_per_second, first.full_burst) == (5, 9)
        assert [path.name for path in file.parent.iterdir()] == ["keys.json"]

    def test_what_there_is_not_is_told(self, file: Path) -> None:
        with pytest.raises(InputError, match=r"keys\.json: No such file"):
            remove_key(file, "shop")
        add_key(file, "shop", ["read"])
        with pytest.raises(InputError, match="has a key 'shop' already"):
            add_key(file, "shop", ["admin"])
        with pytest.raises(InputError, match="has no key 'app'"):
            remove_key(file, "app")
        remove_key(file, "shop")
        assert read_keys(file) == ()

    @pytest.mark.parametrize(
        ("name", "rate", "burst", "what"),
        [
            ("a b", None, None, "name: "),
            ("a", 0.0, None, "requests_per_second: "),
            ("a", None, 3, "burst needs"),
        ],
    )
    def test_what_is_out_of_range_is_named(
        self, file: Path, name: str, rate: float | None, burst: int | None, what: str
    ) -> None:
        with pytest.raises(InputError, match=what):
            add_key(file, name, ["read"], rate, burst)
        assert not file.exists()

    @pytest.mark.parametrize(
        ("content", "what"),
        [
            ("{", "Invalid JSON"),
            ("{}", "keys: Field required"),
            ('{"keys": [{"name": "a"}]}', r"keys\.0\.sha256: Field required"),
            ('{"keys": [{"name": "a", "sha256": "%s", "scopes": ["write"]}]}' % ("0" * 64), r"keys\.0\.scopes\.0: "),
            ('{"keys": [{"name": "a", "sha256": "padrec_abc", "scopes": ["read"]}]}', r"keys\.0\.sha256: "),
            (json.dumps({"keys": [{"name": n, "sha256": "0" * 64, "scopes": ["read"]} for n in "ab"]}), "same sha256"),
            (json.dumps({"keys": [{"name": "a", "sha256": n * 64, "scopes": ["read"]} for n in "01"]}), "same name"),
        ],
    )  # fmt: skip
    def test_a_file_that_is_none_is_one_line(self, file: Path, content: str, what: str) -> None:
        file.write_text(content)
        with pytest.raises(InputError, match=what) as caught:
            KeyRing(file)
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_two_who_add_at_once_lose_nothing(self, file: Path) -> None:
        code = "import sys; from pathlib import Path; from service.gateway.keys import add_key\n"
        code += "[add_key(Path(sys.argv[1]), f'{sys.argv[2]}-{n}', ['read']) for n in range(20)]"
        adding = [subprocess.Popen([sys.executable, "-c", code, str(file), name]) for name in "ab"]
        assert [process.wait() for process in adding] == [0, 0]
        assert len(read_keys(file)) == 40


class TestRing:
    def test_a_key_lets_in_whom_it_names(self, file: Path) -> None:
        key = add_key(file, "shop", ["read"])
        ring = KeyRing(file)
        assert ring.caller_of(key.encode()).key.name == "shop"
        for wrong in (b"", key.encode()[:-1], b"\xff", read_keys(file)[0].sha256.encode()):
            with pytest.raises(UnauthenticatedError, match="no such API key"):
                ring.caller_of(wrong)
        with pytest.raises(UnauthenticatedError, match="give an API key"):
            ring.caller_of(None)

    def test_admin_includes_the_others(self, file: Path) -> None:
        keys = {scope: add_key(file, scope, [scope]) for scope in ("read", "events", "admin")}
        ring = KeyRing(file)
        for scope, key in keys.items():
            caller = ring.caller_of(key.encode())
            for needed in keys:
                if needed == scope or scope == "admin":
                    caller.check(needed)
                else:
                    with pytest.raises(PermissionDeniedError, match=f"'{scope}'.*scope '{needed}'"):
                        caller.check(needed)

    def test_a_changed_file_counts_within_a_second_and_is_looked_at_no_more_often(self, file: Path) -> None:
        clock = Clock()
        first = add_key(file, "first", ["read"])
        ring = KeyRing(file, clock)
        second = add_key(file, "second", ["read"])
        remove_key(file, "first")
        clock.now += 0.9
        assert (lets_in(ring, first), lets_in(ring, second)) == (True, False)
        clock.now += 0.2
        assert (lets_in(ring, first), lets_in(ring, second)) == (False, True)

    def test_a_file_that_became_unusable_changes_nothing_and_is_logged_once(self, file: Path) -> None:
        clock = Clock()
        key = add_key(file, "first", ["read"])
        ring = KeyRing(file, clock)
        for spoil in (lambda: file.write_text("{"), file.unlink):
            spoil()
            with capture_logs() as logs:
                for _ in range(3):
                    clock.now += 2
                    assert lets_in(ring, key)
            [line] = logs
            assert (line["log_level"], line["event"]) == ("error", "the API keys stay as they were")
            assert str(file) in line["error"]
        added = add_key(file, "second", ["read"])
        clock.now += 2
        assert (lets_in(ring, key), lets_in(ring, added)) == (False, True)

    def test_reading_again_refills_nothing_unless_the_rate_changed(self, file: Path) -> None:
        clock = Clock()
        key = add_key(file, "shop", ["read"], 0.001, 1)
        ring = KeyRing(file, clock)
        ring.caller_of(key.encode()).charge()
        add_key(file, "another", ["read"])
        clock.now += 2
        with pytest.raises(RateLimitError):
            ring.caller_of(key.encode()).charge()
        content = json.loads(file.read_text())
        content["keys"][0]["burst"] = 2
        file.write_text(json.dumps(content))
        os.utime(file, ns=(0, 0))
        clock.now += 2
        ring.caller_of(key.encode()).charge(2)
