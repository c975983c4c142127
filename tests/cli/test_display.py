from collections.abc import Callable

import pytest
from rich.progress import Progress, TextColumn

from service.cli.display import PLAIN_INTERVAL_SECONDS, Bar, bar


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


def test_a_note_that_must_be_waited_for_is_asked_for_only_where_it_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, asked = 0.0, []

    def note_of(step: int) -> Callable[[], str]:
        def note() -> str:
            asked.append(step)
            return f"loss {step}"

        return note

    monkeypatch.setattr("time.monotonic", lambda: now)
    with bar("training") as shown:
        for step in range(1, 16):
            now += PLAIN_INTERVAL_SECONDS / 10
            shown.update(step, 15, note_of(step))
    assert capsys.readouterr().err.splitlines() == ["training 10/15 loss 10", "training 15/15 loss 15"]
    assert asked == [10, 15]


def test_on_a_terminal_a_bar_moves_with_every_step_and_its_note_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, asked = 0.0, []
    progress = Progress(TextColumn("{task.fields[note]}"), disable=True)
    monkeypatch.setattr("time.monotonic", lambda: now)
    shown = Bar("training", progress)

    def note() -> str:
        asked.append(progress.tasks[0].completed)
        return f"note {len(asked)}"

    for step in range(1, 11):
        shown.update(step, 10, note)
        assert progress.tasks[0].completed == step
        now += 0.2
    assert len(asked) < 10
    assert progress.tasks[0].fields["note"] == f"note {len(asked)}"
