"""One case examined: against the reference at several tolerances, and against itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from attrs import define, evolve, field

from benchmarks.conformance.case import Case, solved
from benchmarks.conformance.comparison import Finding, Judged, compare, half_step, judged
from benchmarks.conformance.generator import JUDGED, SLOW
from benchmarks.conformance.metamorphic import CHECKS
from benchmarks.conformance.reference import NoReferenceError
from cubie_flow.errors import FlowError
from cubie_flow.integrators.status import STATUS, WELL

Array = Any
#: What a method may refuse in a model that it cannot integrate; anything else is a finding.
REFUSED = ("operations", "needs an error estimate", "cannot solve")
_WELL = [STATUS[name] for name in WELL]


@define
class Examination:
    """What was found in a case.

    Attributes
    ----------
    findings : list of (Case, Finding)
        Every disagreement, with the case at the tolerance at which it was found.
    judged, unjudged, hidden, refused : int
        Runs compared with a reference; runs whose reference was not sure; runs in which a
        condition was true for so short that nothing promises to see it; whether the method refused
        the model.
    checks : list of str
        Checks that took part.
    """

    findings: list[tuple[Case, Finding]] = field(factory=list)
    judged: int = 0
    unjudged: int = 0
    hidden: int = 0
    refused: int = 0
    checks: list[str] = field(factory=list)


def tolerances(case: Case) -> list[float]:
    """Return the relative tolerances at which a case is solved, by one kernel."""
    if case.dt or case.precision == "float32":
        return [case.rtol]
    return (
        [case.rtol, 0.01 * case.rtol] if case.algorithm in SLOW else [case.rtol, 1e-3 * case.rtol]
    )


def examine(case: Case, checks: Sequence[str] = (), tight: bool = True) -> Examination:
    """Return what is wrong with a case.

    Parameters
    ----------
    case : Case
    checks : sequence of str
        Names of checks of `cubie_flow.conformance.metamorphic`.
    tight : bool
        Whether to solve at a tighter tolerance as well.
    """
    found = Examination(checks=list(checks))
    try:
        _examine(case, checks, tight, found)
    except FlowError as error:
        if any(words in str(error) for words in REFUSED):
            found.refused = 1
        else:
            found.findings.append((case, Finding("refused", str(error))))
    except NoReferenceError:
        raise
    except Exception as error:
        found.findings.append((case, Finding("crash", f"{type(error).__name__}: {error}")))
    return found


def _examine(case: Case, checks: Sequence[str], tight: bool, found: Examination) -> None:
    about = _references(case, found)
    base = solved(case)
    for rtol in tolerances(case) if tight else [case.rtol]:
        at = case.at_tolerance(rtol) if rtol != case.rtol else case
        arrays = solved(at) if at is not case else base
        finer = half_step(at)
        known = [*about, *_lost(at, arrays, about, found)]
        for one in known:
            suspects = list(compare(at, arrays, one, finer))
            found.judged += rtol == case.rtol
            if suspects and not found.findings:
                _confirm(at, arrays, finer, one.run, found)
    for name in checks:
        for finding in CHECKS[name](case, base, about):
            found.findings.append((case, finding))
            break


def _references(case: Case, found: Examination) -> list[Judged]:
    """Return the references of some runs."""
    references = []
    for run in range(min(JUDGED, case.runs)):
        try:
            references.append(judged(case, run))
        except NoReferenceError:
            found.unjudged += 1
    if not references and case.runs:
        raise NoReferenceError("no run has a reference")
    return references


def _lost(
    case: Case, arrays: dict[str, Array], about: Sequence[Judged], found: Examination
) -> Iterator[Judged]:
    """Yield references of some other runs that did not end well."""
    lost = np.flatnonzero(~np.isin(arrays["status"], _WELL)).tolist()
    more = [run for run in lost if run not in {one.run for one in about}]
    for run in more[:2]:
        try:
            yield judged(case, run)
        except NoReferenceError:
            found.unjudged += 1


def _confirm(
    case: Case, arrays: dict[str, Array], finer: dict[str, Array] | None, run: int,
    found: Examination,
) -> None:  # fmt: skip
    """Keep what a more careful reference disagrees with too."""
    try:
        careful = judged(case, run, thorough=True)
    except NoReferenceError:
        found.unjudged += 1
        return
    left = list(compare(case, arrays, careful, finer))
    if not left:
        found.unjudged += 1
        return
    if _may_hide(case, left) and hides(case, careful):
        found.hidden += 1
        return
    found.findings.append((case, min(left, key=_telling)))


def _telling(finding: Finding) -> tuple[int, float]:
    """Return a number by which what explains the rest comes first."""
    order = ("start values", "lost runs", "status", "counts", "event times")
    return order.index(finding.kind) if finding.kind in order else len(order), -finding.size


def _may_hide(case: Case, left: Sequence[Finding]) -> bool:
    """Return whether a condition of states that was not seen may be why."""
    if any(finding.kind in ("counts", "status") for finding in left):
        return True
    return "switches in states" in case.features


def hides(case: Case, about: Judged) -> bool:
    """Return whether a difference is gone when no step is longer than conditions hold.

    Conditions that become true and false again between two looks are not seen, which the
    documentation says; a bound on the step is promised to leave out none.
    """
    shortest = about.right.shortest
    if not np.isfinite(shortest) or case.dt or case.dt_max is not None:
        return False
    span = case.values(about.run).get("duration", case.duration)
    bounded = evolve(case, dt_max=float(max(0.5 * shortest, 1e-4 * span)))
    return not list(compare(bounded, solved(bounded), about))
