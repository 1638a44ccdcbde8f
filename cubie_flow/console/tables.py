"""Text tables and lines of facts, printed the same way by every command.

The text has no colours and no box characters, and no value is wrapped or cut off, so that it is
easy to parse, whatever the width of the terminal.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from shutil import get_terminal_size
from typing import Any

#: Characters per line; no table is wider than this.
WIDTH = 1 << 20
#: Width of the names of facts, except where a caller aligns longer ones.
NAME_WIDTH = 8
_NUMERIC = re.compile(r"-?|[+-]?(\d.*|inf|nan)")


def text_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Return rows as aligned columns under a heading.

    A column of numbers is aligned to the right, any other to the left. The columns are those of
    all rows in the order in which they first appear. A cell that is missing is ``-``.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = [[_one_line(row.get(name, "-")) for row in rows] for name in names]
    for name, cells in zip(names, columns, strict=True):
        right = all(map(_NUMERIC.fullmatch, cells))
        table.add_column(Text(name), justify="right" if right else "left", no_wrap=True)
    for row in zip(*columns, strict=True):
        table.add_row(*map(Text, row))
    output = StringIO()
    Console(file=output, width=WIDTH, color_system=None, force_jupyter=False).print(table)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())


def print_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Print rows with the columns of the first one.

    A terminal gets aligned columns with rounded numbers, or a paragraph per row if the columns do
    not fit its width. A pipe gets columns separated by tabs, with every number in full.

    Parameters
    ----------
    rows
        Column to value for each row.
    title
        Line above the table; printed on a terminal only.
    """
    if not rows:
        return
    names = list(rows[0])
    if sys.stdout.isatty():
        if title:
            print(f"\n{title}")
        cells = [{name: _rounded(row.get(name)) for name in names} for row in rows]
        table, width = text_table(cells), get_terminal_size().columns
        fits = all(len(line) <= width for line in table.splitlines())
        print(table if fits else _paragraphs(cells, width))
        return
    print("\t".join(names))
    for row in rows:
        print("\t".join(_exact(row.get(name)) for name in names))


def _paragraphs(rows: Sequence[Mapping[str, str]], width: int) -> str:
    """Return each row as its first cell and, below it, the others with their names.

    Lines break between cells; only a cell that is wider than the terminal is wider than a line.
    """
    lines: list[str] = []
    for row in rows:
        (_, first), *others = row.items()
        lines.append(_one_line(first))
        line = ""
        for word in (f"{name} {_one_line(text)}" for name, text in others if text):
            if line and len(line) + len(word) + 4 > width:
                lines.append(line)
                line = ""
            line = f"{line}, {word}" if line else f"    {word}"
        lines += [line] if line else []
    return "\n".join(lines)


def fact_lines(facts: Iterable[tuple[str, str]], width: int = NAME_WIDTH) -> str:
    """Return a line for each fact: its name, padded to `width` characters, and its text."""
    return "\n".join(f"{name:<{width}} {text}" for name, text in facts)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _exact(value: Any) -> str:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else _one_line(str(value))


def _rounded(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
