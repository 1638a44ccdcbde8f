"""What is shown while a study runs."""

import pytest

from cubie_flow.console import progress as shown
from cubie_flow.console.progress import Progress, progress
from cubie_flow.engines import Part


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


def test_a_line_a_worker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shown, "INTERVAL", 0.0)
    monkeypatch.setattr(shown, "PARTS", 2)
    parts = (
        Part("host:1", 600, 2, 3.0, shards=6),
        Part("job 2 algorithm=rk4", 400, 0, 0.0, total=900),
        Part("host:3", 0, 0, 0.0, shards=0),
    )
    with progress("study") as show:
        show(Progress(1000, 4000, 2, 10.0, parts, "job 1 of 2"))
    assert capsys.readouterr().err.splitlines() == [
        "study: 1,000 of 4,000 runs, 2 failed, 100 runs/s; job 1 of 2, about 30 s to go",
        "  host:1: 6 shards, 600 runs, 2 failed, 200 runs/s",
        "  job 2 algorithm=rk4: 400 of 900 runs",
        "  and 1 more",
    ]


def test_workers_come_and_go_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    with progress("study") as show:
        show(Progress(600, 4000, 0, 10.0, (Part("host:1", 600, 0, 3.0, shards=6),)))
        show(Progress(900, 4000, 0, 10.0, (Part("host:2", 300, 1, 3.0, shards=3),)))
    said = capsys.readouterr().err
    last = said[said.rindex("study") :]
    assert "3 shards, 300 runs, 1 failed, 100 runs/s" in last
    assert "host:1" not in last


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
