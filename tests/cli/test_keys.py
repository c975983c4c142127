"""`padrec keys`: made once, listed without what lets anybody in, revoked."""

from pathlib import Path

import pytest

from service.gateway.keys import KeyRing, read_keys


def test_a_key_is_printed_once_listed_and_revoked(padrec, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    made = padrec(
        "keys", "new", "shop", "--scope", "read", "--scope", "events", "--rate", 50, "--burst", 100, "--file", file
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    [key] = made.stdout.splitlines()
    caller = KeyRing(file).caller_of(key.encode())
    assert (caller.key.name, caller.key.scopes, caller.key.full_burst) == ("shop", ("read", "events"), 100)
    padrec("keys", "new", "ops", "--scope", "admin", "--file", file)

    listed = padrec("keys", "list", "--file", file)
    assert listed.returncode == 0
    for told in ("shop", "read, events", "50", "100", "ops", "admin", "no limit"):
        assert told in listed.stdout
    assert key not in listed.stdout
    assert caller.key.sha256 not in listed.stdout

    assert padrec("keys", "revoke", "shop", "--file", file).returncode == 0
    assert [one.name for one in read_keys(file)] == ["ops"]
    padrec("keys", "revoke", "ops", "--file", file)
    assert "nobody gets in" in padrec("keys", "list", "--file", file).stderr


def test_the_file_may_be_named_by_the_setting(
    padrec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PADREC_GATEWAY__KEYS_FILE", str(tmp_path / "keys.json"))
    assert padrec("keys", "new", "shop", "--scope", "read").returncode == 0
    assert [one.name for one in read_keys(tmp_path / "keys.json")] == ["shop"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("new", "shop", "--scope", "write"), "'write' is not one of"),
        (("new", "shop"), "--scope"),
        (("new", "a b", "--scope", "read"), "name: "),
        (("new", "shop", "--scope", "read", "--burst", 5), "burst needs requests_per_second"),
        (("revoke", "shop"), "keys.json: No such file"),
        (("list",), "keys.json: No such file"),
    ],
)
def test_bad_input_is_one_line(padrec, tmp_path: Path, arguments: tuple, said: str) -> None:
    done = padrec("keys", *arguments, "--file", tmp_path / "keys.json")
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
