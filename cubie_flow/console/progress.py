"""The progress of a study: a bar on a terminal, lines in a log, or nothing."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from cubie_flow.engines import Part

#: Seconds between two lines where there is no terminal.
INTERVAL = 5.0
#: Workers or jobs that run at the same time and have a line of their own.
PARTS = 16
log = logging.getLogger("cubie_flow")


@frozen
class Progress:
    """How far a study is.

    Attributes
    ----------
    done, total, failures : int
        Finished runs, all runs, and failed runs so far.
    seconds : float
        Time since the start.
    parts : tuple of Part
        Progress of each worker or job that runs at the same time.
    detail : str
        Further text for the line.
    """

    done: int
    total: int
    failures: int
    seconds: float
    parts: tuple[Part, ...] = ()
    detail: str = ""


Show = Callable[[Progress], None]


@contextmanager
def progress(name: str, enabled: bool = True) -> Iterator[Show]:
    """Yield the function that shows each `Progress` of the study `name`."""
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
        # Output that is redirected to a file does not go through the terminal.
        redirect_stdout=sys.stdout.isatty(),
    ) as bar:
        study = bar.add_task(f"{name}: compiling", total=None, count="")
        tasks: dict[str, TaskID] = {}

        def show(state: Progress) -> None:
            count = _study_line(state)
            bar.update(
                study, description=name, completed=state.done, total=state.total, count=count
            )
            parts = state.parts[:PARTS]
            for ended in tasks.keys() - {part.name for part in parts}:
                bar.remove_task(tasks.pop(ended))
            for part in parts:
                if part.name not in tasks:
                    tasks[part.name] = bar.add_task(f"  {part.name}", total=None, count="")
                # The share of a worker is not known before the end: its bar shows its part of all.
                total = state.total if part.total is None else part.total
                count = _part_line(part)
                bar.update(tasks[part.name], completed=part.runs, total=total, count=count)

        yield show


def _lines(name: str) -> Show:
    last = perf_counter()

    def show(state: Progress) -> None:
        nonlocal last
        if perf_counter() - last < INTERVAL:
            return
        last = perf_counter()
        remaining = ""
        if state.done:
            seconds = state.seconds * (state.total - state.done) / state.done
            remaining = f", about {seconds:.0f} s to go"
        lines = [f"{name}: {_study_line(state)}{remaining}"]
        lines += [f"  {part.name}: {_part_line(part)}" for part in state.parts[:PARTS]]
        if len(state.parts) > PARTS:
            lines.append(f"  and {len(state.parts) - PARTS:,} more")
        for line in lines:
            log.info(line)
            print(line, file=sys.stderr, flush=True)

    return show


def _study_line(state: Progress) -> str:
    count = f"{state.done:,} of {state.total:,} runs"
    detail = f"; {state.detail}" if state.detail else ""
    return f"{count}{_failures(state.failures)}{_rate(state.done, state.seconds)}{detail}"


def _part_line(part: Part) -> str:
    shards = "" if part.shards is None else f"{part.shards:,} shards, "
    total = "" if part.total is None else f" of {part.total:,}"
    rate = _rate(part.runs, part.seconds)
    return f"{shards}{part.runs:,}{total} runs{_failures(part.failures)}{rate}"


def _rate(runs: int, seconds: float) -> str:
    return f", {runs / seconds:,.0f} runs/s" if runs and seconds else ""


def _failures(failures: int) -> str:
    return f", {failures:,} failed" if failures else ""
