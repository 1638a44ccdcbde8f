"""The summary of a run, in plain words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cubie_flow.study.accuracy import accuracy

if TYPE_CHECKING:
    from cubie_flow.study.run import RunReport
    from cubie_flow.study.study import Study

MEGABYTE = 1e6


def summary(study: Study, report: RunReport, picture: Path | None, notes: list[str]) -> str:
    """Return the lines printed after a run."""
    title = study.system.title or study.system.name
    kind = study.design.kind.replace("_", " ")
    ended = ", ".join(f"{name} {count:,}" for name, count in report.statuses.items())
    seconds = report.seconds
    rows = [
        ("study", f"{study.name}: {title}, {study.algorithm}, {study.precision}"),
        ("runs", f"{report.runs:,} ({kind} over {', '.join(study.design.names) or 'nothing'})"),
        *_resumed(report),
        *([("accuracy", asked)] if (asked := accuracy(study)) else []),
        ("ended", ended),
        *_rescued(study, report),
        ("steps", f"{report.mean_steps:,.1f} a run, {report.mean_rejected:,.1f} more rejected"),
        ("speed", f"{report.runs_per_second:,.0f} trajectories/s on {report.device}"),
        (
            "time",
            f"{seconds['total']:.2f} s: build {seconds['build']:.2f}, solve "
            f"{seconds['kernel']:.2f}, write {seconds['write']:.2f} (while solving)",
        ),
        ("waited", _waits(seconds)),
        ("memory", f"{report.peak_memory_bytes / MEGABYTE:,.0f} MB at its peak"),
        ("result", f"{_place(report)} ({report.store_bytes / MEGABYTE:,.1f} MB)"),
    ]
    if picture is not None:
        rows.append(("picture", shown(picture)))
    rows += [("note", note) for note in (*notes, *report.notes)]
    return "\n".join(f"{name:<8} {text}" for name, text in rows)


def _resumed(report: RunReport) -> list[tuple[str, str]]:
    """Say how many runs were there already."""
    if report.solved == report.runs:
        return []
    return [("resumed", f"{report.solved:,} runs were missing, the others kept as they were")]


def _rescued(study: Study, report: RunReport) -> list[tuple[str, str]]:
    """Say what became of failed runs, or what to do about them."""
    told = [
        f"{count:,} by {attempt.algorithm or study.algorithm}"
        for count, attempt in zip(report.rescued, study.rescue, strict=True)
    ]
    if told:
        return [("rescued", ", ".join(told))]
    if not report.failed:
        return []
    remedy = "rescue=default solves failed runs again with stiff methods in float64"
    return [("remedy", f"{remedy}; algorithm=auto chooses a method for all")]


def _waits(seconds: dict[str, float]) -> str:
    """Say what a run waited for: the stall report."""
    solver, writer = seconds["solver_waited"], seconds["writer_waited"]
    slower = "writing" if solver > writer else "solving"
    return (
        f"solver {solver:.2f} s for the writer, writer {writer:.2f} s for the solver: "
        f"{slower} sets the pace"
    )


def _place(report: RunReport) -> str:
    """Return where the result is."""
    location = report.location
    return location.name if location.folder is None else shown(report.path)


def shown(path: Path) -> str:
    """Return a path as short as it can be said from the current folder."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
