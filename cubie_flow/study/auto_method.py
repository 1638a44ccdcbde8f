"""The choice between an explicit and a stiff method, from a pilot of the study's own runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from attrs import evolve, frozen

from cubie_flow.expressions.block import CALL, Evaluate, Repeat, Statement, When
from cubie_flow.expressions.graph import Node
from cubie_flow.expressions.taylor import foreseeable
from cubie_flow.expressions.traversal import topological
from cubie_flow.integrators.controllers import EPSILON, SETTINGS
from cubie_flow.integrators.equations import mass_pattern
from cubie_flow.integrators.status import STATUS, ended_well
from cubie_flow.integrators.tableaus import EXPLICIT
from cubie_flow.integrators.tolerances import Tolerances
from cubie_flow.kernels.kernel import BatchSolverKernel
from cubie_flow.kernels.launch import BatchResult
from cubie_flow.study.accuracy import adaptive
from cubie_flow.study.kernel import build_kernel, threads_of, tolerances
from cubie_flow.study.options import OutputChoice
from cubie_flow.study.stiffness import fastest_rate
from cubie_flow.study.study import Study

Array = Any
#: The name of a method that requests the choice.
AUTO = "auto"
#: Runs of the pilot; of models with more states than the second number, a quarter of them.
PILOT, LARGE = 64, 50
#: Attempted steps after which a run of the pilot ends.
PATIENCE = 20_000
STIFF = "rodas5p"
SERIES = "taylor_12"
#: The method tried if the stiff one fails or contradicts itself. Newton's iteration corrects the
#: rounding errors of the linear solves.
STURDY = "radau_iia_5"
#: Runs of the pilot that are integrated again at a tolerance that is this much tighter.
CHECKED, TIGHTER = 8, 10.0
#: Difference between the two, in tolerances, from which a method contradicts itself, and how much
#: smaller that of another method must be for it to be better.
DOUBT, BETTER = 100.0, 0.1
#: Fraction of the runs that may fail, or have a larger error than estimated.
RARE = 0.1
#: Difference between two methods, relative to the size of a state, that is reported.
APART = 0.01
#: The Taylor method is tried up to this tolerance and this number of operations of a right-hand
#: side. One of its operations takes longer by the third number; measured in docs/lab-book.md.
TIGHT, SMALL, LONGER = 1e-8, 30, 1.4
_FREE = ("const", "integer", "truth", "load", "symbol")
#: Assumed iterations of a loop in a block.
_PASSES = 3


@frozen(eq=False)
class Trial:
    """Result of a method on the pilot.

    Attributes
    ----------
    algorithm : str
    attempts : float
        Mean over the runs.
    operations : int
        Of one attempted step.
    result : BatchResult
    doubt : float, optional
        Difference to the result at a tighter tolerance, in tolerances, that nine of ten checked
        runs stay below; None if that was not computed.
    """

    algorithm: str
    attempts: float
    operations: int
    result: BatchResult
    doubt: float | None = None

    @property
    def runs(self) -> int:
        """Runs of the pilot."""
        return len(self.result.status)

    @property
    def failed(self) -> int:
        """Runs that did not end well."""
        return int((~ended_well(self.result.status)).sum())

    @property
    def fails(self) -> bool:
        """Whether more than a tenth of the runs failed."""
        return self.failed > RARE * self.runs

    @property
    def cost(self) -> float:
        """Arithmetic operations per run, weighted equally; infinite if the method fails."""
        if self.fails:
            return np.inf
        return self.attempts * self.operations * (LONGER if self.algorithm == SERIES else 1.0)

    def __str__(self) -> str:
        text = f"{self.algorithm}: {self.attempts:.0f} steps of {self.operations} operations"
        if self.doubt is not None and self.doubt > DOUBT:
            text += f", {self.doubt:.0e} tolerances from its own result at a tighter tolerance"
        return f"{text}, {self.failed} of {self.runs} runs failed" if self.failed else text


def resolve_algorithm(study: Study) -> tuple[Study, str]:
    """Return a study with its method resolved, and a note on the choice.

    Parameters
    ----------
    study : Study
        A study whose method is not ``auto`` is returned as it is; its note is empty, or warns that
        rounding may leave no correct digit.

    Raises
    ------
    FlowError
        If the study asks for what its system or target does not have.
    """
    if study.algorithm != AUTO:
        return study, _lost_digits(study)
    algorithm, reason = _choose(study)
    return _with(study, algorithm), reason


def _with(study: Study, algorithm: str) -> Study:
    """Return the study with a method; explicit methods do not use its linear solver."""
    solver = "auto" if algorithm in EXPLICIT else study.linear_solver
    return evolve(study, algorithm=algorithm, linear_solver=solver)


def _choose(study: Study) -> tuple[str, str]:
    """Return the algorithm for a study and the sentence that says why.

    A pilot of at most 64 runs, spread over the design, is integrated with an explicit method,
    with a Taylor method if `series_pays`, and with rodas5p at the study's tolerances. The one with
    fewest arithmetic operations per run is taken: its attempted steps times the operations of one
    step, both counted, not timed, so that the choice is the same on every machine. Where that is
    rodas5p, some runs are repeated at a tighter tolerance. If many runs fail, or the two results
    contradict each other, radau_iia_5 is tried in the same way, and taken if it does better.
    """
    pilot = _Pilot(study)
    algebraic = bool(mass_pattern(study.system))
    explicit = () if algebraic else (_explicit(study), *[SERIES] * series_pays(study))
    trials = [pilot.trial(name) for name in (*explicit, STIFF)]
    stiff = trials[-1]
    best = min(reversed(trials), key=lambda trial: trial.cost)
    if best is stiff:
        best = trials[-1] = stiff = pilot.check(stiff)
        if stiff.fails or _doubtful(stiff):
            sturdy = pilot.check(pilot.trial(STURDY))
            trials.append(sturdy)
            best = sturdy if _better(sturdy, stiff) else stiff
    reason = f"algorithm=auto took {best.algorithm} after a pilot of {best.runs} runs"
    if algebraic:
        reason += ", for algebraic equations, which explicit methods cannot solve"
    sentences = [f"{reason} ({'; '.join(map(str, trials))})", *_warnings(pilot, best, trials)]
    return best.algorithm, "; ".join(sentences)


def _lost_digits(study: Study) -> str:
    """Return a warning if an implicit method does not repeat its result at a tighter tolerance.

    This is tested if the ratio of the time scales of the model exceeds the precision: then a
    linear system may lose the slow components, and with them all that a model conserves.
    """
    if study.algorithm in EXPLICIT or not adaptive(study):
        return ""
    if not fastest_rate(study) * study.span * EPSILON[study.precision] > 1.0:
        return ""
    pilot = _Pilot(study)
    trial = pilot.check(pilot.trial(study.algorithm))
    if not _doubtful(trial):
        return ""
    remedies = [f"algorithm={STURDY}"] if study.algorithm != STURDY else []
    remedies += ["precision=float64"] if study.precision == "float32" else []
    remedy = f"; try {' or '.join(remedies)}, and look at cubie-results audit" if remedies else ""
    return (
        f"rounding may leave no correct digit: {trial.algorithm} ends {trial.doubt:.0e} tolerances "
        f"from its own result at a tighter tolerance, in a pilot of {trial.runs} runs whose time "
        f"scales are further apart than {study.precision} has digits{remedy}"
    )


def _doubtful(trial: Trial) -> bool:
    return trial.doubt is not None and trial.doubt > DOUBT


def _better(sturdy: Trial, stiff: Trial) -> bool:
    """Return whether the sturdy method succeeds where the stiff one does not."""
    if sturdy.fails or stiff.fails:
        return stiff.fails and sturdy.failed < stiff.failed
    if sturdy.doubt is None or stiff.doubt is None:
        return False
    return sturdy.doubt <= BETTER * stiff.doubt


def _warnings(pilot: _Pilot, best: Trial, trials: list[Trial]) -> list[str]:
    """Return the problems that the pilot showed and that no choice of a method solves."""
    problems = []
    if best.fails:
        problems.append("every method tried fails in more than a tenth of the runs")
    if best.doubt is not None and best.doubt * _tolerance(pilot.study) > APART:
        remedy = "precision=float64, or " if pilot.study.precision == "float32" else ""
        problems.append(
            "no method tried repeats its result at a tighter tolerance, as for a chaotic or an "
            f"ill-conditioned model: look at {remedy}cubie-results audit before using final values"
        )
    others = [trial for trial in trials if trial is not best and not trial.fails]
    if best.algorithm in EXPLICIT and others:
        distances = pilot.distances(best.result, others[-1].result) * _tolerance(pilot.study)
        apart = int((np.isfinite(distances) & (distances > APART)).sum())
        if apart > RARE * best.runs:
            problems.append(
                f"{best.algorithm} and {others[-1].algorithm} end more than {APART:.0%} apart in "
                f"{apart} of {best.runs} runs, as for a chaotic model: look at cubie-results audit "
                "before using final values"
            )
    return problems


class _Pilot:
    """Some runs of a study, integrated with one method after another.

    Parameters
    ----------
    study : Study
    """

    def __init__(self, study: Study) -> None:
        size = study.design.size
        count = min(size, PILOT if len(study.integrated.states) <= LARGE else PILOT // 4)
        runs = np.unique(np.linspace(0, size - 1, count).astype(np.int64))
        parts = [study.design.columns(int(run), int(run) + 1) for run in runs]
        self.study = study
        self._columns = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        self._count = len(runs)
        self._kernels: dict[str, BatchSolverKernel] = {}
        limit = min(study.controller.max_steps, PATIENCE)
        self._control = evolve(study.controller, kind="default", max_steps=limit)
        self._limits = tolerances(evolve(study, controller=self._control))

    def trial(self, algorithm: str) -> Trial:
        """Return the result of a method on the runs."""
        trial = evolve(
            _with(self.study, algorithm),
            controller=self._control,
            output=OutputChoice(sensitivities=self.study.output.sensitivities),
            locations={},
        )
        kernel = self._kernels[algorithm] = build_kernel(trial)
        result = self._solve(kernel, self._columns, self._limits)
        attempts = float((result.steps + result.rejected).mean())
        work = operations(kernel.run.product["attempt"].statements)
        return Trial(algorithm, attempts, work, result)

    def check(self, trial: Trial) -> Trial:
        """Return a trial with the difference of some runs to those at a tighter tolerance."""
        if trial.fails:
            return trial
        chosen = np.unique(np.linspace(0, self._count - 1, CHECKED).astype(np.int64))
        columns = {name: values[chosen] for name, values in self._columns.items()}
        floor = 4.0 * EPSILON[self.study.precision]
        finer = evolve(self._limits, factor=1.0 / TIGHTER, floor=floor)
        again = self._solve(self._kernels[trial.algorithm], columns, finer)
        before = evolve(
            trial.result, finals=trial.result.finals[:, chosen], status=trial.result.status[chosen]
        )
        # A run that only reaches the step limit at the tighter tolerance is not compared.
        comparable = ended_well(before.status) & (again.status != STATUS["step_limit"])
        distances = np.sort(self.distances(before, again)[comparable])
        doubt = distances[math.ceil((1.0 - RARE) * len(distances)) - 1] if distances.size else None
        return evolve(trial, doubt=doubt)

    def distances(self, one: BatchResult, two: BatchResult) -> Array:
        """Return the distances of final states in tolerances: the largest over the states.

        The distance is infinite where only the first run ended well, and 0 where it did not.
        """
        states = self.study.integrated.states
        vector = self._limits.vector(states, np.float64)[SETTINGS:, None]
        rtol, atol = vector[: len(states)], vector[len(states) :]
        a, b = (result.finals.astype(np.float64) for result in (one, two))
        with np.errstate(all="ignore"):
            size = atol + rtol * np.maximum(np.abs(a), np.abs(b))
            apart = np.where(a == b, 0.0, np.abs(a - b) / size).max(axis=0)
        both = ended_well(one.status) & ended_well(two.status)
        return np.where(both, apart, np.where(ended_well(one.status), np.inf, 0.0))

    def _solve(
        self, kernel: BatchSolverKernel, columns: Mapping[str, Array], limits: Tolerances
    ) -> BatchResult:
        count = len(next(iter(columns.values()), range(self._count)))
        return kernel.solve(columns, count, limits, threads=threads_of(self.study))


def _explicit(study: Study) -> str:
    return "vern7" if study.precision == "float64" and _tolerance(study) <= 1e-7 else "tsit5"


def _tolerance(study: Study) -> float:
    """Return the tightest relative tolerance."""
    given = study.controller.rtol
    return min(given.values(), default=1e-6) if isinstance(given, Mapping) else given


def series_pays(study: Study) -> bool:
    """Return whether a Taylor method is tried: where it can be faster and is safe.

    Its steps are long, and the series knows only their start. So it is left out if values within
    a step are needed (summaries, events), if drivers are not smooth, and if the equations contain
    more than polynomials, fractions, roots and waves.
    """
    if study.precision != "float64" or _tolerance(study) > TIGHT:
        return False
    if study.system.events or study.system.drivers or study.summarised or study.system.delayed:
        return False
    nodes = study.integrated.derivatives
    few = sum(node.op not in _FREE for node in topological(nodes)) <= SMALL
    return few and foreseeable(nodes)


def operations(statements: tuple[Statement, ...]) -> int:
    """Return an estimate of the arithmetic operations of statements."""
    total = 0
    for statement in statements:
        if isinstance(statement, Repeat):
            total += _PASSES * operations(statement.body)
        elif isinstance(statement, Evaluate):
            total += _arithmetic(statement.function.nodes)
        elif isinstance(statement, When):
            total += operations(statement.body)
        elif not hasattr(statement, "body"):
            total += statement.count * _arithmetic(statement.nodes)
        else:
            total += 10 * operations(statement.body)
    return total


def _arithmetic(nodes: tuple[Node, ...]) -> int:
    order = topological(nodes)
    return sum(CALL if node.op == "call" else 1 for node in order if node.op not in _FREE)
