"""Many random cases in worker processes: progress, what is kept, and the table at the end."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
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
from benchmarks.conformance.examination import Examination, examine
from benchmarks.conformance.generator import FAMILIES, draw
from benchmarks.conformance.metamorphic import CHECKS, some
from benchmarks.conformance.reference import NoReferenceError
from benchmarks.conformance.shrinking import shrink
from cubie_flow.kernels.cache import FOLDER_VARIABLE, KernelCache

#: Cases per task, and tasks of a worker, after which it is replaced.
CHUNK, TASKS = 5, 200
#: Cases of one signature that are made small and kept; the others are counted.
KEPT = 5
#: Seconds without any case done after which workers are given up: of computing, and in all where
#: others have the processors.
PATIENCE, LONGEST = 900.0, 7200.0


@frozen
class Plan:
    """What a campaign does.

    Parameters
    ----------
    seed, start : int
        The first case is number `start` of the seed.
    count : int or None
        Cases; None for as many as the time allows.
    seconds : float or None
    jobs : int
        Worker processes; 0 for none beside this one.
    out : Path
        Where disagreements go.
    shrinking : float
        Seconds that a disagreement may take to be made small.
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
    """What one case came to, small enough to travel.

    Attributes
    ----------
    number : int
    word : str
        ``done``, ``empty`` (nothing drawn), ``no reference`` or ``refused``.
    features, checks : list of str
    algorithm, precision : str
    judged, unjudged, hidden : int
    findings : list of (str, str)
        Kind and text.
    """

    number: int
    word: str = "done"
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
    words: Counter[str] = field(factory=Counter)
    features: Counter[str] = field(factory=Counter)
    checks: Counter[str] = field(factory=Counter)
    families: Counter[str] = field(factory=Counter)
    runs: Counter[str] = field(factory=Counter)
    kinds: Counter[str] = field(factory=Counter)
    numbers: dict[str, list[int]] = field(factory=dict)
    examples: dict[str, str] = field(factory=dict)

    def add(self, one: Outcome) -> None:
        """Count a case."""
        self.cases += 1
        self.words[one.word] += 1
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
            ("cases", self.words), ("methods", self.families), ("features", self.features),
            ("checks", self.checks), ("runs", self.runs),
        ):  # fmt: skip
            told = ", ".join(f"{name} {count}" for name, count in counts.most_common())
            lines.append(f"{title}: {told or 'none'}")
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
    """Return a case and the names of its checks, the same every time."""
    return draw(seed, number), some(np.random.default_rng([seed, number, 1]))


def signature(case: Case, finding: Finding) -> str:
    """Return what disagreements have in common that are probably one fault."""
    telling = ("switches in time", "switches in states", "events", "smooth pulses", "drivers")
    told = [name for name in telling if name in case.features]
    return " | ".join([finding.kind, family_of(case.algorithm), *told])


def examined(seed: int, number: int, out: Path, shrinking: float) -> Outcome:
    """Return what one case came to; disagreements are made small and kept."""
    case, checks = case_of(seed, number)
    if case is None:
        return Outcome(number, "empty")
    one = Outcome(number, "done", list(case.features), checks, case.algorithm, case.precision)
    try:
        found = examine(case, checks)
    except NoReferenceError:
        one.word, one.checks = "no reference", []
        return one
    one.word = "refused" if found.refused else "done"
    one.judged, one.unjudged, one.hidden = found.judged, found.unjudged, found.hidden
    kinds: set[str] = set()
    for at, finding in found.findings:
        one.findings.append((finding.kind, finding.text))
        if finding.kind not in kinds:
            kinds.add(finding.kind)
            keep(at, finding, checks, found, out, shrinking)
    return one


def keep(
    case: Case, finding: Finding, checks: list[str], found: Examination, out: Path, seconds: float
) -> Path:
    """Write a disagreement as small as it becomes in `seconds`; return its file."""
    mark = signature(case, finding)
    stem = "".join(c if c.isalnum() else "-" for c in f"{finding.kind} {case.name}")
    path = out / f"{stem}.yaml"
    known = _with_mark(out, mark)
    check = [name for name in checks if _kind_of(name, finding)]
    seconds = 0.0 if len(known) >= KEPT else seconds
    found_text = {"value": finding.text}

    def stays(smaller: Case) -> bool:
        again = examine(smaller, check, tight=False)
        same = [one for _, one in again.findings if _alike(one, finding)]
        if same:
            found_text["value"] = same[0].text
        return bool(same)

    small = shrink(case, stays, seconds, finding.run) if seconds > 0 else case
    write_case(
        path, small, signature=mark, kind=finding.kind, differs=found_text["value"], checks=check,
        from_case=case.name,
    )  # fmt: skip
    return path


def _alike(one: Finding, other: Finding) -> bool:
    """Return whether two findings are of one kind; of errors, with the same words."""
    if one.kind != other.kind or one.kind not in ("crash", "refused"):
        return one.kind == other.kind
    a, b = (re.sub(r"'[^']*'|[-+.\d]+", "", finding.text)[:40] for finding in (one, other))
    return a == b


def _kind_of(name: str, finding: Finding) -> bool:
    """Return whether a check by this name makes findings of this kind."""
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
    """Return the files of one signature."""
    line = f"signature: {mark}\n"
    return [path for path in out.glob("*.yaml") if line in path.read_text(encoding="utf-8")]


# workers ----------------------------------------------------------------------------------


def _begin(cache: str) -> None:
    os.environ[FOLDER_VARIABLE] = cache
    os.environ["OMP_NUM_THREADS"] = "1"
    import warnings

    warnings.simplefilter("ignore")


def _task(plan: Plan, numbers: list[int]) -> list[Outcome]:
    found = [examined(plan.seed, number, plan.out, plan.shrinking) for number in numbers]
    if plan.jobs:
        # Every kernel is used once: the cache only has to serve one case.
        KernelCache().clear()
    return found


def _numbers(plan: Plan) -> Iterator[list[int]]:
    at = plan.start
    while plan.count is None or at < plan.start + plan.count:
        last = at + CHUNK if plan.count is None else min(at + CHUNK, plan.start + plan.count)
        yield list(range(at, last))
        at = last


def campaign(plan: Plan, say: Any = print) -> Totals:
    """Run a campaign and return its counts.

    Parameters
    ----------
    plan : Plan
    say : callable
        Where progress goes, line by line.
    """
    began, totals = monotonic(), Totals()
    plan.out.mkdir(parents=True, exist_ok=True)
    cache = tempfile.mkdtemp(prefix="conformance-")
    say(f"conformance: seed {plan.seed}, from case {plan.start}, {plan.jobs} processes")
    try:
        _drive(plan, totals, cache, began, say)
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    say(totals.table(monotonic() - began))
    return totals


def _drive(plan: Plan, totals: Totals, cache: str, began: float, say: Any) -> None:
    waiting = _numbers(plan)
    over = False
    if not plan.jobs:
        for numbers in waiting:
            for outcome in _task(plan, numbers):
                totals.add(outcome)
                _tell(outcome, say)
            if plan.seconds is not None and monotonic() - began > plan.seconds:
                break
        return
    told = began
    while not over:
        # With max_tasks_per_child a pool of Python 3.11 may wait for ever (CPython issue 115634).
        pool = ProcessPoolExecutor(plan.jobs, get_context("spawn"), _begin, (cache,))
        running: dict[Any, list[int]] = {}
        given, last_done, computed = 0, monotonic(), 0.0
        try:
            while True:
                while len(running) < plan.jobs + 1 and given < TASKS * plan.jobs and not over:
                    if plan.seconds is not None and monotonic() - began > plan.seconds:
                        over = True
                        break
                    following = next(waiting, None)
                    if following is None:
                        over = True
                        break
                    running[pool.submit(_task, plan, following)] = following
                    given += 1
                if not running:
                    break
                done, _ = wait(running, timeout=PATIENCE / 10, return_when=FIRST_COMPLETED)
                if not done:
                    hung = _computed(pool) - computed > PATIENCE * plan.jobs
                    if hung or monotonic() - last_done > LONGEST:
                        _give_up(pool, running, totals, "hang", say)
                        break
                    continue
                last_done, computed = monotonic(), _computed(pool)
                for one in done:
                    last = running.pop(one)[-1]
                    for outcome in one.result():
                        totals.add(outcome)
                        _tell(outcome, say)
                if monotonic() - told > 60:
                    told = monotonic()
                    say(_line(totals, began, last))
        except BrokenProcessPool:
            _give_up(pool, running, totals, "killed process", say)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _computed(pool: ProcessPoolExecutor) -> float:
    """Return the seconds that the workers of a pool have computed."""
    ticks = 0
    for number in list(pool._processes or {}):
        with suppress(OSError):
            content = Path(f"/proc/{number}/stat").read_text(encoding="utf-8")
            ticks += sum(map(int, content.rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _give_up(pool: Any, running: dict[Any, list[int]], totals: Totals, kind: str, say: Any) -> None:
    """Count the cases under way as lost, and end their processes."""
    for process in list((pool._processes or {}).values()):
        process.kill()
    for numbers in running.values():
        outcome = Outcome(numbers[0], findings=[(kind, f"one of the cases {numbers}")])
        totals.add(outcome)
        _tell(outcome, say)
    running.clear()


def _tell(one: Outcome, say: Any) -> None:
    for kind, text in one.findings:
        say(f"  {one.number} {one.algorithm} {kind}: {text[:160]}")


def _line(totals: Totals, began: float, last: int) -> str:
    seconds = monotonic() - began
    return (
        f"{totals.cases} models to case {last}, {totals.cases / seconds:.2f} per second, "
        f"{sum(totals.kinds.values())} disagreements, {totals.runs['hidden']} hidden"
    )
