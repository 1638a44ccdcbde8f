"""``python -m benchmarks run``: a record that grows by a case or a figure at a time."""

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
#: What must be the same for a record to be continued.
_SAME = ("processor", "threads", "vector_bits", "python", "commit", "versions")


def run(which: str | None, only: str, peers: str, effort: Effort, out: Path | None) -> Path:
    """Measure what the record does not have yet, and return the record's file.

    Parameters
    ----------
    which : str, optional
        A name of `SETS`. By default ``quick``, or all cases there are where `only` chooses.
    only : str
        Names or parts of names of cases and figures, comma-separated; empty for all.
    peers : str
        Solvers that take part, comma-separated; empty for all.
    effort : Effort
    out : Path, optional
        The record. By default one in ``results/`` that is named by set and day.

    Raises
    ------
    FlowError
        If `only` names nothing, a solver is unknown, or the record is of another machine or commit.
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
            say(f"{figure}: already there")
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
            say(f"{case.name}: already there")
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
        If what is there is no record, or one of another machine or commit.
    """
    if not path.exists():
        return {"machine": about, "set": name, "cases": [], "figures": {}}
    record = read(path)
    if not is_record(record):
        raise FlowError(f"'{path}' is no record of benchmarks; --out names another file")
    for key in _SAME:
        if record["machine"].get(key) != about[key]:
            raise FlowError(
                f"'{path}' is a record with another {key} than here, and times compare only "
                "within one: --out names another file"
            )
    return record


def _figure(action: Callable[[], dict[str, Any]], say: Say) -> dict[str, Any] | None:
    """Return a figure; one that fails costs no other, and is tried again with the next command."""
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
        raise FlowError(f"--peers is '{peers}', of whom none is in {case.name}: it has {known}")
    return evolve(case, entries=entries)


def _case(case: Case, effort: Effort, say: Say) -> dict[str, Any]:
    if not case.problem.available:
        missing = f"there is no model '{case.problem.model}' in conf/system"
        return {**case.as_dict(), "rows": [], "missing": missing}
    return measure(case, effort, say)
