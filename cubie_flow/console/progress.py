"""How far a study is: a bar on a terminal, lines in a log, or nothing."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cubie_flow.engines import Part
    from cubie_flow.study.run import Progress

Show = Callable[["Progress"], None]
#: Seconds between two lines where there is no terminal.
INTERVAL = 5.0
#: Workers or jobs side by side that have a line of their own.
PARTS = 16
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
    from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TimeRemainingColumn(compact=True),
    )
    with Bar(
        *columns,
        console=Console(stderr=True),
        transient=True,
        # What goes to a file stays out of the terminal.
        redirect_stdout=sys.stdout.isatty(),
    ) as bar:
        task = bar.add_task(f"{name}: compiling", total=None, count="")
        lines: dict[str, TaskID] = {}

        def show(state: Progress) -> None:
            bar.update(
                task,
                description=name,
                completed=state.done,
                total=state.total,
                count=_told(state),
            )
            parts = _shown(state.parts)
            for gone in lines.keys() - {part.name for part in parts}:
                bar.remove_task(lines.pop(gone))
            for part in parts:
                if part.name not in lines:
                    lines[part.name] = bar.add_task(f"  {part.name}", total=None, count="")
                # Of a worker nobody knows how much it will do: its bar is a part of all.
                whole = state.total if part.total is None else part.total
                bar.update(
                    lines[part.name], completed=part.runs, total=whole, count=_told_part(part)
                )

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
        lines = [f"{name}: {_told(state)}{left}"]
        lines += [f"  {part.name}: {_told_part(part)}" for part in _shown(state.parts)]
        if len(state.parts) > PARTS:
            lines.append(f"  and {len(state.parts) - PARTS:,} more")
        for line in lines:
            log.info(line)
            print(line, file=sys.stderr, flush=True)

    return show


def _shown(parts: Sequence[Part]) -> Sequence[Part]:
    return parts[:PARTS]


def _told(state: Progress) -> str:
    count = f"{state.done:,} of {state.total:,} runs"
    told = f"; {state.told}" if state.told else ""
    return f"{count}{_failed(state.failures)}{_rate(state.done, state.seconds)}{told}"


def _told_part(part: Part) -> str:
    shards = "" if part.shards is None else f"{part.shards:,} shards, "
    whole = "" if part.total is None else f" of {part.total:,}"
    rate = _rate(part.runs, part.seconds)
    return f"{shards}{part.runs:,}{whole} runs{_failed(part.failures)}{rate}"


def _rate(runs: int, seconds: float) -> str:
    return f", {runs / seconds:,.0f} runs/s" if runs and seconds else ""


def _failed(failures: int) -> str:
    return f", {failures:,} failed" if failures else ""
