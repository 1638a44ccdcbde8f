"""``python -m benchmarks run``: add cases and figures to a record, one at a time."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from attrs import evolve

from benchmarks.cases import SETS, Case, chosen
from benchmarks.figures import FIGURES
from benchmarks.machine import machine
from benchmarks.measure import Effort, measure
from benchmarks.record import RESULTS, is_record, read, write
from benchmarks.report import bars_table
from cubie_flow.errors import FlowError

Say = Callable[[str], None]
#: Keys that must be equal to continue a record.
_SAME = ("processor", "threads", "vector_bits", "python", "commit", "versions")


def run(which: str | None, only: str, peers: str, effort: Effort, out: Path | None) -> Path:
    """Measure the cases and figures that a record lacks, and return the file of the record.

    Parameters
    ----------
    which : str, optional
        A name of `SETS`; by default ``quick``, or all cases if `only` is given.
    only : str
        Names of cases and figures, or parts of names, comma-separated; empty for all.
    peers : str
        Solvers to measure, comma-separated; empty for all.
    effort : Effort
    out : Path, optional
        The record; by default a file in ``results/`` named after the set and the day.

    Raises
    ------
    FlowError
        If `only` selects nothing, a solver is unknown, or the record is of another machine or
        commit.
    """
    about = machine()
    name = which or ("all" if only else "quick")
    cases = {case.name: case for case in SETS[name]()}
    wanted = chosen([*FIGURES, *cases], only)
    out = out or RESULTS / f"{which or 'some'}_cpu_{about['date'][:10]}.json"
    record = opened(out, about, name)
    began = perf_counter()

    def say(text: str) -> None:
        print(f"{perf_counter() - began:6.0f} s {text}", flush=True)

    for figure, action in FIGURES.items():
        if figure not in wanted or not (only or name in ("bars", "all")):
            continue
        if figure in record["figures"]:
            say(f"{figure}: already in the record")
            continue
        say(figure)
        found = _figure(action, say)
        if found is not None:
            record["figures"][figure] = found
            write(record, out)
    for case in cases.values():
        if case.name not in wanted:
            continue
        if any(held["name"] == case.name for held in record["cases"]):
            say(f"{case.name}: already in the record")
            continue
        say(case.name)
        record["cases"].append(_case(_with(case, peers), effort, say))
        write(record, out)
    write(record, out)
    print(f"\n{bars_table(record)}", flush=True)
    say(f"written to {out}; python -m benchmarks report {out} shows it")
    return out


def opened(path: Path, about: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the record to continue, or a new one.

    Raises
    ------
    FlowError
        If the file is not a record, or is of another machine or commit.
    """
    if not path.exists():
        return {"machine": about, "set": name, "cases": [], "figures": {}}
    record = read(path)
    if not is_record(record):
        raise FlowError(f"'{path}' is not a record of benchmarks; give another file with --out")
    for key in _SAME:
        if record["machine"].get(key) != about[key]:
            raise FlowError(
                f"'{path}' is a record with another {key}, and times are comparable only "
                "within one record: give another file with --out"
            )
    return record


def _figure(action: Callable[[], dict[str, Any]], say: Say) -> dict[str, Any] | None:
    """Return a figure, or nothing if it fails; the next command tries it again."""
    try:
        return action()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        say(f"  failed with {type(error).__name__}: {error} ({Path(where.filename).name})")
        return None


def _with(case: Case, peers: str) -> Case:
    if not peers:
        return case
    names = [name.strip() for name in peers.split(",")]
    entries = [entry for entry in case.entries if entry.peer in names]
    if not entries:
        known = ", ".join(dict.fromkeys(entry.peer for entry in case.entries))
        raise FlowError(f"--peers is '{peers}', none of which is in {case.name}: it has {known}")
    return evolve(case, entries=entries)


def _case(case: Case, effort: Effort, say: Say) -> dict[str, Any]:
    if not case.problem.available:
        missing = f"there is no model '{case.problem.model}' in conf/system"
        return {**case.as_dict(), "rows": [], "missing": missing}
    return measure(case, effort, say)
