"""How commands print: tables for people, plain columns for pipes, JSON for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """Give a command the option ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def path_argument(command: Command) -> Command:
    """Give a command the argument PATH: a store or the folder of a run."""
    return click.argument("path")(command)


def print_json(value: Any) -> None:
    """Print a value as JSON; what is not a finite number becomes null, as JSON has none."""
    print(json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def print_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Print rows with the columns of the first one.

    In a terminal as a table; piped as columns separated by tabs, every number in full.
    """
    if not rows:
        return
    names = list(rows[0])
    if not sys.stdout.isatty():
        print("\t".join(names))
        for row in rows:
            print("\t".join(_full(row.get(name)) for name in names))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, box=SIMPLE_HEAD, title_justify="left")
    for name in names:
        numeric = all(isinstance(row.get(name), int | float | None) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_short(row.get(name)) for name in names))
    Console().print(table)


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Print named lines."""
    width = max((len(name) for name, _ in facts), default=0)
    for name, text in facts:
        print(f"{name:<{width}}  {text}")


def _full(value: Any) -> str:
    text = "" if value is None else repr(value) if isinstance(value, float) else str(value)
    return " ".join(text.split())


def _short(value: Any) -> str:
    from rich.markup import escape

    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else escape(str(value))
