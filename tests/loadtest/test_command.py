import sys
from pathlib import Path

import pytest

from loadtest.__main__ import loadtest
from service.cli.reporting import command_line

URLS = ["http://a:1", "http://b:1"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"url": URLS, "grpc": ["a:2"]}, "error: --grpc: none, or one for each --url, and not 1 for 2"),
        ({"grpc": ["a:2"]}, "error: --grpc: none, or one for each --url, and not 1 for 0"),
        (
            {"url": URLS, "gateways": 2},
            "error: --gateways are those of a service that is started; of another, give each one's --url",
        ),
        (
            {"url": URLS, "history": "redis://c:3"},
            "error: --history is that of a service that is started; another has its own already",
        ),
    ],
)
def test_what_does_not_fit_the_service_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict, complaint: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        loadtest(out=tmp_path, **options)
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines() == [complaint]


def test_the_report_names_the_command_that_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "x",
        "--bundle",
        "a bundle",
        "--gateways",
        "8",
        "--history",
        "redis://me:sec@ret@host:1/0?password=s&db=2",
    ]
    monkeypatch.setattr(sys, "argv", words)
    expected = "python -m loadtest --bundle 'a bundle' --gateways 8 --history 'redis://host:1/0?db=2'"
    assert command_line("python", "-m", "loadtest") == expected
