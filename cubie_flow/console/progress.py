"""The progress of a study: a bar on a terminal, lines in a log, or nothing."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

from attrs import frozen

from cubie_flow.console.pace import Pace, duration_text

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
        Time since the start of this phase.
    parts : tuple of Part
        Progress of each worker or job that runs at the same time.
    detail : str
        Further text for the line.
    compiling : bool
        Whether the kernel is being compiled, before any run starts.
    """

    done: int
    total: int
    failures: int
    seconds: float
    parts: tuple[Part, ...] = ()
    detail: str = ""
    compiling: bool = False


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
def progress_of_solve(name: str, wanted: bool | None) -> Iterator[Show]:
    """Yield the function that shows the progress of `cubie_flow.solve`.

    Parameters
    ----------
    name
        Of the study.
    wanted
        True and False as for `progress`; None shows a bar in a notebook, and on a terminal that a
        person works at.
    """
    notebook = _notebook()
    if wanted is not False and notebook is not None:
        with _notebook_bar(name, notebook) as show:
            yield show
    else:
        people = is_interactive() and sys.stderr.isatty()
        with progress(name, people if wanted is None else wanted) as show:
            yield show


def is_interactive() -> bool:
    """Return whether a person types commands one by one: a notebook, IPython, or Python's own."""
    shell = sys.modules.get("IPython")
    return hasattr(sys, "ps1") or (shell is not None and shell.get_ipython() is not None)


def _notebook() -> Any:
    """Return IPython's ``display`` if this process is the kernel of a notebook; None otherwise."""
    shell: Any = sys.modules.get("IPython")
    running = shell.get_ipython() if shell is not None else None
    return getattr(shell, "display", None) if hasattr(running, "kernel") else None


@contextmanager
def _notebook_bar(name: str, display: Any) -> Iterator[Show]:
    """Yield what draws a bar in a notebook from its second second on, and removes it at the end."""
    from html import escape

    handle, began, last, pace = None, perf_counter(), 0.0, Pace()

    def show(state: Progress) -> None:
        nonlocal handle, last
        if not state.compiling:
            pace.note(state.seconds, state.done)
        now = perf_counter()
        if now - began < 1.0 or now - last < 0.2:
            return
        last = now
        text = f"{name}: {_study_line(state, pace)}"
        html = (
            f'<progress value="{state.done}" max="{state.total}" aria-label="{escape(name)}">'
            f"</progress> {escape(text)}"
        )
        content = display.HTML(html)
        if handle is None:
            handle = display.display(content, display_id=True)
        else:
            handle.update(content)

    try:
        yield show
    finally:
        if handle is not None:
            handle.update(display.HTML(""))


@contextmanager
def _bar(name: str) -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
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
        pace = Pace()

        def show(state: Progress) -> None:
            if state.compiling:
                bar.update(study, description=f"{name}: compiling", total=None, count="")
                return
            pace.note(state.seconds, state.done)
            count = _study_line(state, pace)
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
    last, pace = perf_counter(), Pace()
    compiling: float | None = None

    def show(state: Progress) -> None:
        nonlocal last, compiling
        now = perf_counter()
        if state.compiling:
            compiling = now
            return
        lines = []
        if compiling is not None and now - compiling >= INTERVAL:
            lines.append(f"{name}: compiled in {duration_text(now - compiling)}")
        compiling = None
        pace.note(state.seconds, state.done)
        if now - last >= INTERVAL:
            last = now
            lines.append(f"{name}: {_study_line(state, pace)}")
            lines += [f"  {part.name}: {_part_line(part)}" for part in state.parts[:PARTS]]
            if len(state.parts) > PARTS:
                lines.append(f"  and {len(state.parts) - PARTS:,} more")
        for line in lines:
            log.info(line)
            print(line, file=sys.stderr, flush=True)

    return show


def _study_line(state: Progress, pace: Pace) -> str:
    if state.compiling:
        return "compiling"
    count = f"{state.done:,} of {state.total:,} runs"
    rate, remaining = pace.rate, pace.remaining(state.total)
    speed = "" if rate is None else f", {rate:,.0f} runs/s"
    detail = f"; {state.detail}" if state.detail else ""
    left = "" if remaining is None else f", about {duration_text(remaining)} to go"
    return f"{count}{_failures(state.failures)}{speed}{detail}{left}"


def _part_line(part: Part) -> str:
    shards = "" if part.shards is None else f"{part.shards:,} shards, "
    total = "" if part.total is None else f" of {part.total:,}"
    rate = f", {part.runs / part.seconds:,.0f} runs/s" if part.runs and part.seconds else ""
    return f"{shards}{part.runs:,}{total} runs{_failures(part.failures)}{rate}"


def _failures(failures: int) -> str:
    return f", {failures:,} failed" if failures else ""
