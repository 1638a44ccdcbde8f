"""A campaign: many random cases in worker processes, with progress and a table of results."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from attrs import define, field, frozen

from benchmarks.conformance.case import Case, write_case
from benchmarks.conformance.comparison import Finding
from benchmarks.conformance.examination import examine
from benchmarks.conformance.generator import FAMILIES, draw
from benchmarks.conformance.metamorphic import CHECKS, draw_checks
from benchmarks.conformance.reference import NoReferenceError
from benchmarks.conformance.shrinking import shrink
from cubie_flow.kernels.cache import FOLDER_VARIABLE

#: Cases per task, and tasks per worker after which the workers are replaced.
CHUNK, TASKS = 5, 200
#: Largest number of cases per signature that are reduced; the others are stored as they are.
MAX_REDUCED = 5
#: Seconds without a finished case after which workers are ended: of computing time per worker, and
#: of elapsed time on a busy machine.
PATIENCE, LONGEST = 900.0, 7200.0


@frozen
class Plan:
    """The settings of a campaign.

    Parameters
    ----------
    seed, start : int
        Seed, and number of the first case.
    count : int or None
        Number of cases; None for as many as the time allows.
    seconds : float or None
        Time after which no further case starts; None for no limit.
    jobs : int
        Number of worker processes; 0 runs the cases in this process.
    out : Path
        Folder of the disagreements.
    shrinking : float
        Largest number of seconds for the reduction of a disagreement.
    """

    seed: int
    start: int = 0
    count: int | None = None
    seconds: float | None = None
    jobs: int = 1
    out: Path = Path("outputs/conformance")
    shrinking: float = 60.0


@define
class Outcome:
    """The result of one case, small enough for a pipe between processes.

    Attributes
    ----------
    number : int
        Number of the case.
    status : str
        ``done``, ``empty`` (nothing drawn), ``no reference`` or ``refused``.
    features, checks : list of str
    algorithm, precision : str
    judged, unjudged, hidden : int
        See `Examination`.
    findings : list of (str, str)
        Kind and text of every disagreement.
    """

    number: int
    status: str = "done"
    features: list[str] = field(factory=list)
    checks: list[str] = field(factory=list)
    algorithm: str = ""
    precision: str = ""
    judged: int = 0
    unjudged: int = 0
    hidden: int = 0
    findings: list[tuple[str, str]] = field(factory=list)


@define
class Totals:
    """The counts of a campaign."""

    cases: int = 0
    statuses: Counter[str] = field(factory=Counter)
    features: Counter[str] = field(factory=Counter)
    checks: Counter[str] = field(factory=Counter)
    families: Counter[str] = field(factory=Counter)
    runs: Counter[str] = field(factory=Counter)
    kinds: Counter[str] = field(factory=Counter)
    numbers: dict[str, list[int]] = field(factory=dict)
    examples: dict[str, str] = field(factory=dict)

    def add(self, one: Outcome) -> None:
        """Add the result of a case to the counts."""
        self.cases += 1
        self.statuses[one.status] += 1
        self.features.update(one.features)
        self.checks.update(one.checks)
        if one.algorithm:
            self.families[family_of(one.algorithm)] += 1
            self.features[one.precision] += 1
        for name in ("judged", "unjudged", "hidden"):
            self.runs[name] += getattr(one, name)
        for kind in {kind for kind, _ in one.findings}:
            self.kinds[kind] += 1
            self.numbers.setdefault(kind, []).append(one.number)
        for kind, text in one.findings:
            self.examples.setdefault(kind, f"{one.number} ({one.algorithm}): {text}")

    def table(self, seconds: float) -> str:
        """Return the counts as text."""
        rate = self.cases / max(seconds, 1e-9)
        lines = [f"{self.cases} models in {seconds:.0f} s, {rate:.2f} per second"]
        for title, counts in (
            ("cases", self.statuses), ("methods", self.families), ("features", self.features),
            ("checks", self.checks), ("runs", self.runs),
        ):  # fmt: skip
            entries = ", ".join(f"{name} {count}" for name, count in counts.most_common())
            lines.append(f"{title}: {entries or 'none'}")
        lines.append(f"disagreements: {sum(self.kinds.values())}")
        for kind, count in self.kinds.most_common():
            few = ", ".join(map(str, self.numbers[kind][:12]))
            lines.append(f"  {kind:<28} {count:>5}  {few}")
            lines.append(f"  {'':<28}        {self.examples[kind][:150]}")
        return "\n".join(lines)


def family_of(algorithm: str) -> str:
    """Return the family of a method."""
    return next((name for name, names in FAMILIES.items() if algorithm in names), algorithm)


def case_of(seed: int, number: int) -> tuple[Case | None, list[str]]:
    """Return the case with a number, and the names of its checks; both are deterministic."""
    return draw(seed, number), draw_checks(np.random.default_rng([seed, number, 1]))


def signature(case: Case, finding: Finding) -> str:
    """Return a text that is equal for disagreements that probably have the same cause."""
    related = ("switches in time", "switches in states", "events", "smooth pulses", "drivers")
    features = [name for name in related if name in case.features]
    return " | ".join([finding.kind, family_of(case.algorithm), *features])


def examine_case(seed: int, number: int, out: Path, shrinking: float) -> Outcome:
    """Return the result of one case; reduce and write its disagreements.

    Parameters
    ----------
    seed, number : int
        Seed and number of the case.
    out : Path
        Folder of the disagreements.
    shrinking : float
        Largest number of seconds per reduction.
    """
    case, checks = case_of(seed, number)
    if case is None:
        return Outcome(number, "empty")
    one = Outcome(number, "done", list(case.features), checks, case.algorithm, case.precision)
    try:
        examination = examine(case, checks)
    except NoReferenceError:
        one.status, one.checks = "no reference", []
        return one
    one.status = "refused" if examination.refused else "done"
    one.judged, one.unjudged = examination.judged, examination.unjudged
    one.hidden = examination.hidden
    kinds: set[str] = set()
    for at, finding in examination.findings:
        one.findings.append((finding.kind, finding.text))
        if finding.kind not in kinds:
            kinds.add(finding.kind)
            write_disagreement(at, finding, checks, out, shrinking)
    return one


def write_disagreement(
    case: Case, finding: Finding, checks: list[str], out: Path, seconds: float
) -> Path:
    """Reduce and write a disagreement; return its file.

    Parameters
    ----------
    case : Case
    finding : Finding
    checks : list of str
        Names of the checks of the examination.
    out : Path
        Folder of the file.
    seconds : float
        Largest number of seconds for the reduction; 0 for none.
    """
    mark = signature(case, finding)
    stem = "".join(c if c.isalnum() else "-" for c in f"{finding.kind} {case.name}")
    path = out / f"{stem}.yaml"
    known = _with_mark(out, mark)
    own_checks = [name for name in checks if _finds(name, finding)]
    seconds = 0.0 if len(known) >= MAX_REDUCED else seconds
    text = {"value": finding.text}

    def stays(smaller: Case) -> bool:
        again = examine(smaller, own_checks, tight=False)
        same = [one for _, one in again.findings if _is_same(one, finding)]
        if same:
            text["value"] = same[0].text
        return bool(same)

    small = shrink(case, stays, seconds, finding.run) if seconds > 0 else case
    write_case(
        path, small, signature=mark, kind=finding.kind, differs=text["value"], checks=own_checks,
        from_case=case.name,
    )  # fmt: skip
    return path


def _is_same(one: Finding, other: Finding) -> bool:
    """Return whether two findings have the same kind and, for errors, the same words."""
    if one.kind != other.kind or one.kind not in ("crash", "refused"):
        return one.kind == other.kind
    a, b = (re.sub(r"'[^']*'|[-+.\d]+", "", finding.text)[:40] for finding in (one, other))
    return a == b


def _finds(name: str, finding: Finding) -> bool:
    """Return whether the check with a name reports findings of this kind."""
    marks = {
        "order": "bits of order", "cost": "bits of batch.order", "threads": "bits of threads",
        "rescue": "bits of rescue", "rewritten": "bits of the written model",
        "lanes": "bits of lanes", "renamed": "bits of a name", "unsaved": "bits without saving",
        "simulator": "bits of the simulator", "shards": "bits of shards",
        "resume": "bits of a resumed study", "dask": "bits of engine=dask",
        "shifted": "of a shifted run", "folded": "of one run alone", "split": "in two parts",
    }  # fmt: skip
    assert marks.keys() == CHECKS.keys()
    return marks[name] in finding.kind or finding.kind in ("crash", "refused")


def _with_mark(out: Path, mark: str) -> list[Path]:
    """Return the files of disagreements with a signature."""
    line = f"signature: {mark}\n"
    return [path for path in out.glob("*.yaml") if line in path.read_text(encoding="utf-8")]


# workers ----------------------------------------------------------------------------------


def _initialise_worker(cache: str) -> None:
    """Set the environment of a worker process; `cache` is the folder of its kernels."""
    os.environ[FOLDER_VARIABLE] = cache
    os.environ["OMP_NUM_THREADS"] = "1"
    import warnings

    warnings.simplefilter("ignore")


def _task(plan: Plan, numbers: list[int]) -> list[Outcome]:
    """Return the results of some cases."""
    outcomes = [examine_case(plan.seed, number, plan.out, plan.shrinking) for number in numbers]
    return outcomes


def _chunks(plan: Plan) -> Iterator[list[int]]:
    """Yield the numbers of the cases of each task."""
    first = plan.start
    while plan.count is None or first < plan.start + plan.count:
        end = first + CHUNK if plan.count is None else min(first + CHUNK, plan.start + plan.count)
        yield list(range(first, end))
        first = end


def campaign(plan: Plan, say: Any = print) -> Totals:
    """Run a campaign and return its counts.

    Parameters
    ----------
    plan : Plan
    say : callable
        Called with every line of progress.
    """
    began, totals = monotonic(), Totals()
    plan.out.mkdir(parents=True, exist_ok=True)
    cache = tempfile.mkdtemp(prefix="conformance-")
    say(f"conformance: seed {plan.seed}, from case {plan.start}, {plan.jobs} processes")
    try:
        _Campaign(plan, totals, cache, began, say).run()
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    say(totals.table(monotonic() - began))
    return totals


@define
class _Campaign:
    """A running campaign.

    Parameters
    ----------
    plan : Plan
    totals : Totals
        Receives the counts.
    cache : str
        Folder of the kernels of the workers.
    began : float
        Start, on the monotonic clock.
    say : callable
        Called with every line of progress.
    """

    plan: Plan
    totals: Totals
    cache: str
    began: float
    say: Any
    chunks: Iterator[list[int]] = field(init=False)
    over: bool = False
    reported: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.chunks, self.reported = _chunks(self.plan), self.began

    def run(self) -> None:
        """Run all cases, in worker processes if the plan has some."""
        if not self.plan.jobs:
            for numbers in self.chunks:
                self._add(_task(self.plan, numbers))
                if self._is_late():
                    break
            return
        while not self.over:
            self._run_pool()

    def _run_pool(self) -> None:
        """Run tasks in one pool, until its workers have to be replaced or no task is left."""
        # With max_tasks_per_child a pool of Python 3.11 may wait for ever (CPython issue 115634).
        plan = self.plan
        pool = ProcessPoolExecutor(
            plan.jobs, get_context("spawn"), _initialise_worker, (self.cache,)
        )
        running: dict[Any, list[int]] = {}
        tasks, last_done, computed = TASKS * plan.jobs, monotonic(), 0.0
        try:
            while True:
                while len(running) < plan.jobs + 1 and tasks and self._submit(pool, running):
                    tasks -= 1
                if not running:
                    break
                done, _ = wait(running, timeout=PATIENCE / 10, return_when=FIRST_COMPLETED)
                if done:
                    last_done, computed = monotonic(), _computed(pool)
                    self._collect(done, running)
                elif (
                    _computed(pool) - computed > PATIENCE * plan.jobs
                    or monotonic() - last_done > LONGEST
                ):
                    self._abandon(pool, running, "hang")
                    break
        except BrokenProcessPool:
            self._abandon(pool, running, "killed process")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _is_late(self) -> bool:
        """Return whether the time of the campaign is over."""
        return self.plan.seconds is not None and monotonic() - self.began > self.plan.seconds

    def _submit(self, pool: ProcessPoolExecutor, running: dict[Any, list[int]]) -> bool:
        """Submit the next task; return whether there was one."""
        numbers = None if self.over or self._is_late() else next(self.chunks, None)
        if numbers is None:
            self.over = True
            return False
        running[pool.submit(_task, self.plan, numbers)] = numbers
        return True

    def _collect(self, done: Iterable[Any], running: dict[Any, list[int]]) -> None:
        """Count the results of finished tasks, and report progress once per minute."""
        for future in done:
            last = running.pop(future)[-1]
            self._add(future.result())
        if monotonic() - self.reported > 60:
            self.reported = monotonic()
            self.say(_progress(self.totals, self.began, last))

    def _add(self, outcomes: Iterable[Outcome]) -> None:
        """Count the results of cases, and report their disagreements."""
        for outcome in outcomes:
            self.totals.add(outcome)
            for kind, text in outcome.findings:
                self.say(f"  {outcome.number} {outcome.algorithm} {kind}: {text[:160]}")

    def _abandon(self, pool: Any, running: dict[Any, list[int]], kind: str) -> None:
        """Count the running tasks as disagreements of a kind, and end the processes of the pool."""
        for process in list((pool._processes or {}).values()):
            process.kill()
        for numbers in running.values():
            self._add([Outcome(numbers[0], findings=[(kind, f"one of the cases {numbers}")])])
        running.clear()


def _computed(pool: ProcessPoolExecutor) -> float:
    """Return the seconds of computing time of the workers of a pool."""
    ticks = 0
    for number in list(pool._processes or {}):
        with suppress(OSError):
            content = Path(f"/proc/{number}/stat").read_text(encoding="utf-8")
            ticks += sum(map(int, content.rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _progress(totals: Totals, began: float, last: int) -> str:
    """Return the line of progress after the case number `last`."""
    seconds = monotonic() - began
    return (
        f"{totals.cases} models to case {last}, {totals.cases / seconds:.2f} per second, "
        f"{sum(totals.kinds.values())} disagreements, {totals.runs['hidden']} hidden"
    )
