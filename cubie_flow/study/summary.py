"""The summary of a finished study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cubie_flow.console.paths import location_text, short_path
from cubie_flow.console.tables import fact_lines
from cubie_flow.study.accuracy import accuracy

if TYPE_CHECKING:
    from cubie_flow.study.run import RunReport
    from cubie_flow.study.study import Study

MEGABYTE = 1e6
#: Phases that add up to the seconds of a run.
PHASES = ("plan", "build", "store", "solve", "finish")
Facts = list[tuple[str, str]]


def summary(study: Study, report: RunReport, picture: Path | None, notes: list[str]) -> str:
    """Return the lines that a command prints after a study.

    Parameters
    ----------
    study
        The study as it was run.
    report
        What `cubie_flow.study.run.run_study` returned.
    picture
        Its file, if one was drawn.
    notes
        Further notes, such as warnings about the settings.
    """
    title = study.system.title or study.system.name
    steps = f"{report.mean_steps:,.1f} per run, {report.mean_rejected:,.1f} more rejected"
    facts = [
        ("study", f"{study.name}: {title}, {study.algorithm}, {study.precision}"),
        ("runs", f"{report.runs:,} ({study.design.words})"),
        *_resumed_runs(report),
        *([("accuracy", text)] if (text := accuracy(study)) else []),
        ("ended", ", ".join(f"{name} {count:,}" for name, count in report.statuses.items())),
        *_rescued_runs(study, report),
        ("steps", steps),
        ("speed", f"{report.runs_per_second:,.0f} trajectories/s on {report.device}"),
        *_times(report.seconds),
        ("memory", f"{report.peak_memory_bytes / MEGABYTE:,.0f} MB at its peak"),
        ("result", f"{location_text(report.location)} ({report.store_bytes / MEGABYTE:,.1f} MB)"),
    ]
    if picture is not None:
        facts.append(("picture", short_path(picture)))
    facts += [("note", note) for note in (*notes, *report.notes)]
    return fact_lines(facts)


def _resumed_runs(report: RunReport) -> Facts:
    """Return how many runs a resume solved, and that it kept the others."""
    if report.solved == report.runs:
        return []
    return [("resumed", f"{report.solved:,} runs were missing, the others kept as they were")]


def _rescued_runs(study: Study, report: RunReport) -> Facts:
    """Return which attempts solved failed runs, or the remedy if there was no attempt."""
    rescued = [
        f"{count:,} by {attempt.algorithm or study.algorithm}"
        for count, attempt in zip(report.rescued, study.rescue, strict=True)
    ]
    if rescued:
        return [("rescued", ", ".join(rescued))]
    if not report.failed:
        return []
    remedy = "rescue=default solves failed runs again with stiff methods in float64"
    return [("remedy", f"{remedy}; algorithm=auto chooses a method for all")]


def _times(seconds: dict[str, float]) -> Facts:
    """Return the seconds of each phase, and how long solver and writer waited for each other."""
    solver, writer = seconds["solver_waited"], seconds["writer_waited"]
    slower = "writing" if solver > writer else "solving"
    named = ", ".join(f"{name} {seconds[name]:.2f}" for name in PHASES)
    inside = f"kernel {seconds['kernel']:.2f}, write {seconds['write']:.2f} within solve"
    phases = f"{seconds['total']:.2f} s: {named} ({inside})"
    waits = (
        f"solver {solver:.2f} s for the writer, writer {writer:.2f} s for the solver: "
        f"{slower} sets the pace"
    )
    return [("time", phases), ("waited", waits)]
