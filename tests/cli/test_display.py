import pytest

from service.cli.display import PLAIN_INTERVAL_SECONDS, bar


def test_off_a_terminal_progress_is_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with bar("training") as shown:
        for step in range(1, 31):
            now += PLAIN_INTERVAL_SECONDS / 10
            shown.update(step, 30, f"loss {step}")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "training 10/30 loss 10",
        "training 20/30 loss 20",
        "training 30/30 loss 30",
    ]
