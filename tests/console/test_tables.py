"""Text tables are easy to parse, wherever they are printed."""

import pytest

from cubie_flow.console.tables import fact_lines, print_table, text_table

LONG = "algorithm=" + "x" * 300
ROWS = [{"job": "1", "overrides": LONG, "share": "5%"}, {"job": "12", "overrides": "[red]a[/]"}]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrow terminal that asks for colours."""
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("FORCE_COLOR", "1")


def test_values_are_neither_cut_off_nor_wrapped_nor_coloured() -> None:
    assert [line.split() for line in text_table(ROWS).splitlines()] == [
        ["job", "overrides", "share"],
        ["1", LONG, "5%"],
        ["12", "[red]a[/]", "-"],
    ]


def test_numbers_are_aligned_to_the_right() -> None:
    rows = [{"n": "1", "word": "one"}, {"n": "1,000", "word": "two"}, {"n": "-2", "word": "-"}]
    assert text_table(rows).splitlines() == [
        "    n  word",
        "    1  one",
        "1,000  two",
        "   -2  -",
    ]


def test_a_pipe_gets_tabs_and_a_terminal_rounded_numbers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"x": 1 / 3, "n": 1000, "text": "two\nlines", "none": None, "flag": True}]
    print_table(rows, "a title")
    assert capsys.readouterr().out.splitlines() == [
        "x\tn\ttext\tnone\tflag",
        "0.3333333333333333\t1000\ttwo lines\t\tTrue",
    ]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    print_table(rows, "a title")
    _, title, heading, line = capsys.readouterr().out.splitlines()
    assert title == "a title"
    assert heading.split() == ["x", "n", "text", "none", "flag"]
    assert line.split() == ["0.333333", "1,000", "two", "lines", "yes"]


def test_a_narrow_terminal_gets_a_paragraph_per_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    row = {
        "path": "outputs/lorenz_sweep/2026-01-31/12-00-00",
        "study": "lorenz_sweep",
        "runs": 1000,
    }
    print_table([{**row, "ended": "success 1,000", "made": ""}] * 2)
    assert (
        capsys.readouterr().out.splitlines()
        == [
            "outputs/lorenz_sweep/2026-01-31/12-00-00",
            "    study lorenz_sweep, runs 1,000",
            "    ended success 1,000",
        ]
        * 2
    )


def test_facts() -> None:
    assert fact_lines([("runs", "3"), ("dry run", "nothing")]) == "runs     3\ndry run  nothing"
