"""What is shown while a study runs."""

import pytest

from cubie_flow.console import progress as shown
from cubie_flow.console.pace import Pace, duration_text
from cubie_flow.console.progress import Progress, progress, progress_of_solve
from cubie_flow.engines import Part


def test_lines_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shown, "INTERVAL", 0.0)
    with progress("study") as show:
        show(Progress(0, 8000, 0, 0.0, compiling=True))
        # The store had 500 runs, and workers compiled for 300 s before their first run.
        show(Progress(500, 8000, 0, 0.1))
        show(Progress(500, 8000, 0, 250.0))
        show(Progress(600, 8000, 0, 300.0))
        show(Progress(700, 8000, 0, 301.0))
        show(Progress(1600, 8000, 2, 310.0))
    assert capsys.readouterr().err.splitlines() == [
        "study: compiled in 0 s",
        "study: 500 of 8,000 runs",
        "study: 500 of 8,000 runs",
        "study: 600 of 8,000 runs",
        "study: 700 of 8,000 runs",
        "study: 1,600 of 8,000 runs, 2 failed, 100 runs/s, about 1 min 4 s to go",
    ]


def test_the_pace_follows_the_last_minutes() -> None:
    pace = Pace()
    for second in range(1000):
        pace.note(second, second)
    for second in range(1000, 1300):
        pace.note(second, 1000 + 10 * (second - 1000))
    assert pace.rate == pytest.approx(10.0)
    assert pace.remaining(3_990 + 36_000) == pytest.approx(3600.0)
    # Shards that take longer than is remembered still have a pace.
    slow = Pace()
    for number in range(4):
        slow.note(1000.0 * number, 10 * number)
        slow.note(1000.0 * number + 500, 10 * number)
    assert slow.rate == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(7.6, "8 s"), (60, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (46_017, "12 h 46 min"),
     (86400 * 3 + 4 * 3600, "3 d 4 h")],
)  # fmt: skip
def test_seconds_become_minutes_and_hours(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_a_bar_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    shown_html: list[str] = []

    class Display:
        def HTML(self, html: str) -> str:
            return html

        def display(self, html: str, display_id: bool) -> "Display":
            shown_html.append(html)
            return self

        update = shown_html.append

    clock = iter(range(0, 100, 2))
    monkeypatch.setattr(shown, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(shown, "_notebook", Display)
    with progress_of_solve("a <b>", None) as show:
        for state in ((0, 0.0), (10, 1.0), (20, 3.0), (60, 11.0)):
            show(Progress(state[0], 100, 0, state[1]))
    assert "a &lt;b&gt;: 60 of 100 runs, 5 runs/s, about 8 s to go" in shown_html[-2]
    assert '<progress value="60" max="100"' in shown_html[-2]
    assert shown_html[-1] == ""


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
        show(Progress(100, 4000, 2, 1.0))
        show(Progress(200, 4000, 2, 2.0))
        capsys.readouterr()
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
