"""How commands print: tables for people, plain columns for pipes, JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from cubie_flow.console.tables import fact_lines
from cubie_flow.storage.latest import LATEST

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """Give a command the option ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def path_argument(command: Command) -> Command:
    """Give a command the argument PATH: a store or the folder of a run."""
    return click.argument("path", shell_complete=_paths)(command)


def _paths(_: click.Context, __: click.Parameter, typed: str) -> list[CompletionItem]:
    """Return what completes a path: the name of the newest study, or folders."""
    if typed and LATEST.startswith(typed):
        return [CompletionItem(LATEST)]
    return [CompletionItem(typed, type="dir")]


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


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Print named lines."""
    print(fact_lines(facts, max((len(name) for name, _ in facts), default=0) + 1))
