"""The examination of a case: comparison with the reference at several tolerances, and checks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from attrs import define, evolve, field

from benchmarks.conformance.case import Case, solve_case
from benchmarks.conformance.comparison import (
    Finding,
    RunReference,
    compare,
    half_step,
    solve_reference,
)
from benchmarks.conformance.generator import JUDGED, SLOW
from benchmarks.conformance.metamorphic import CHECKS
from benchmarks.conformance.reference import NoReferenceError
from cubie_flow.errors import FlowError
from cubie_flow.integrators.status import STATUS, WELL

Array = Any
#: Texts of the errors with which a case may be refused; any other error is a disagreement.
REFUSED = ("operations", "needs an error estimate", "cannot solve", "all that is computed from it")
_WELL = [STATUS[name] for name in WELL]


@define
class Examination:
    """The result of the examination of a case.

    Attributes
    ----------
    findings : list of (Case, Finding)
        Every disagreement, with the case at its tolerance.
    judged, unjudged, hidden, refused : int
        Number of runs compared with a reference; of runs without an exact reference; of runs with a
        condition that was true for a shorter time than the method detects; and 1 if the method
        refused the model, else 0.
    checks : list of str
        Names of the checks.
    """

    findings: list[tuple[Case, Finding]] = field(factory=list)
    judged: int = 0
    unjudged: int = 0
    hidden: int = 0
    refused: int = 0
    checks: list[str] = field(factory=list)


def tolerances(case: Case) -> list[float]:
    """Return the relative tolerances at which a case is solved, all by the same kernel."""
    if case.dt or case.precision == "float32":
        return [case.rtol]
    return (
        [case.rtol, 0.01 * case.rtol] if case.algorithm in SLOW else [case.rtol, 1e-3 * case.rtol]
    )


def examine(case: Case, checks: Sequence[str] = (), tight: bool = True) -> Examination:
    """Return the disagreements of a case.

    Parameters
    ----------
    case : Case
    checks : sequence of str
        Names of checks of `metamorphic`.
    tight : bool
        Whether to solve at a tighter tolerance as well.
    """
    examination = Examination(checks=list(checks))
    try:
        _examine(case, checks, tight, examination)
    except FlowError as error:
        if any(words in str(error) for words in REFUSED):
            examination.refused = 1
        else:
            examination.findings.append((case, Finding("refused", str(error))))
    except NoReferenceError:
        raise
    except Exception as error:
        examination.findings.append((case, Finding("crash", f"{type(error).__name__}: {error}")))
    return examination


def _examine(case: Case, checks: Sequence[str], tight: bool, examination: Examination) -> None:
    """Add the disagreements of a case to an examination."""
    references = _references(case, examination)
    base = solve_case(case)
    for rtol in tolerances(case) if tight else [case.rtol]:
        at = case.at_tolerance(rtol) if rtol != case.rtol else case
        arrays = solve_case(at) if at is not case else base
        finer = half_step(at)
        for one in [*references, *_failed_runs(at, arrays, references, examination)]:
            suspects = list(compare(at, arrays, one, finer))
            examination.judged += rtol == case.rtol
            if suspects and not examination.findings:
                _confirm(at, arrays, finer, one.run, examination)
    for name in checks:
        for finding in CHECKS[name](case, base, references):
            examination.findings.append((case, finding))
            break


def _references(case: Case, examination: Examination) -> list[RunReference]:
    """Return the references of the first runs."""
    references = []
    for run in range(min(JUDGED, case.runs)):
        try:
            references.append(solve_reference(case, run))
        except NoReferenceError:
            examination.unjudged += 1
    if not references and case.runs:
        raise NoReferenceError("no run has a reference")
    return references


def _failed_runs(
    case: Case,
    arrays: dict[str, Array],
    references: Sequence[RunReference],
    examination: Examination,
) -> Iterator[RunReference]:
    """Yield the references of some other runs, which failed."""
    failed = np.flatnonzero(~np.isin(arrays["status"], _WELL)).tolist()
    more = [run for run in failed if run not in {one.run for one in references}]
    for run in more[:2]:
        try:
            yield solve_reference(case, run)
        except NoReferenceError:
            examination.unjudged += 1


def _confirm(
    case: Case, arrays: dict[str, Array], finer: dict[str, Array] | None, run: int,
    examination: Examination,
) -> None:  # fmt: skip
    """Add the disagreement of a run, if it disagrees with a thorough reference as well.

    Parameters
    ----------
    case : Case
    arrays, finer : dict
        Results, and those with half the step.
    run : int
        Number of the run.
    examination : Examination
        Receives the disagreement.
    """
    try:
        thorough = solve_reference(case, run, thorough=True)
    except NoReferenceError:
        examination.unjudged += 1
        return
    left = list(compare(case, arrays, thorough, finer))
    if not left:
        examination.unjudged += 1
        return
    if _may_hide(case, left) and is_hidden(case, thorough):
        examination.hidden += 1
        return
    examination.findings.append((case, min(left, key=_rank)))


def _rank(finding: Finding) -> tuple[int, float]:
    """Return a key that sorts the findings that may explain the others first."""
    order = ("start values", "lost runs", "status", "counts", "event times")
    return order.index(finding.kind) if finding.kind in order else len(order), -finding.size


def _may_hide(case: Case, left: Sequence[Finding]) -> bool:
    """Return whether an undetected condition of states may be the cause."""
    if any(finding.kind in ("counts", "status") for finding in left):
        return True
    return "switches in states" in case.features


def is_hidden(case: Case, reference: RunReference) -> bool:
    """Return whether a difference vanishes for steps shorter than the time a condition holds.

    By the documentation a condition that is true for a short time within a step may not be
    detected, but every condition is detected with a bound on the step.
    """
    shortest = reference.right.shortest
    if not np.isfinite(shortest) or case.dt or case.dt_max is not None:
        return False
    span = case.values(reference.run).get("duration", case.duration)
    bounded = evolve(case, dt_max=float(max(0.5 * shortest, 1e-4 * span)))
    return not list(compare(bounded, solve_case(bounded), reference))
