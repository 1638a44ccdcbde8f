"""What is shown while a study runs."""

import pytest

from cubie_flow import progress as shown
from cubie_flow.progress import progress
from cubie_flow.study.running import Progress


def test_lines_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shown, "INTERVAL", 0.0)
    with progress("study") as show:
        show(Progress(0, 4000, 0, 0.1))
        show(Progress(1000, 4000, 2, 10.0))
    assert capsys.readouterr().err.splitlines() == [
        "study: 0 of 4,000 runs",
        "study: 1,000 of 4,000 runs, 2 failed, 100 runs/s, about 30 s to go",
    ]


def test_a_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress("study") as show:
        show(Progress(1000, 4000, 2, 10.0))
    assert capsys.readouterr().out == ""


def test_nothing_where_it_is_turned_off(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("study", enabled=False) as show:
        show(Progress(1, 2, 0, 0.1))
    assert capsys.readouterr().err == ""
