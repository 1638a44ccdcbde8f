"""How far a study is: a bar on a terminal, lines in a log, or nothing."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cubie_flow.study.running import Progress

Show = Callable[["Progress"], None]
#: Seconds between two lines where there is no terminal.
INTERVAL = 5.0
log = logging.getLogger("cubie_flow")


@contextmanager
def progress(name: str, enabled: bool = True) -> Iterator[Show]:
    """Yield what to call with each `Progress` of the study `name`."""
    if not enabled:
        yield lambda _: None
    elif sys.stderr.isatty():
        with _bar(name) as show:
            yield show
    else:
        yield _lines(name)


@contextmanager
def _bar(name: str) -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TimeRemainingColumn(compact=True),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"{name}: compiling", total=None, count="")

        def show(state: Progress) -> None:
            count = f"{state.done:,} of {state.total:,} runs{_failed(state)}{_rate(state)}"
            bar.update(task, description=name, completed=state.done, total=state.total, count=count)

        yield show


def _lines(name: str) -> Show:
    last = perf_counter()

    def show(state: Progress) -> None:
        nonlocal last
        if perf_counter() - last < INTERVAL:
            return
        last = perf_counter()
        left = ""
        if state.done:
            seconds = state.seconds * (state.total - state.done) / state.done
            left = f", about {seconds:.0f} s to go"
        line = f"{name}: {state.done:,} of {state.total:,} runs{_failed(state)}{_rate(state)}{left}"
        log.info(line)
        print(line, file=sys.stderr, flush=True)

    return show


def _rate(state: Progress) -> str:
    return f", {state.done / state.seconds:,.0f} runs/s" if state.done and state.seconds else ""


def _failed(state: Progress) -> str:
    return f", {state.failures:,} failed" if state.failures else ""
