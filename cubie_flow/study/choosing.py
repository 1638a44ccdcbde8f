"""The choice between an explicit and a stiff method, from a pilot of the study's own runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from attrs import evolve, frozen

from cubie_flow.expressions.block import CALL, Evaluate, Repeat, Statement, When
from cubie_flow.expressions.graph import Node, topological
from cubie_flow.expressions.taylor import foreseeable
from cubie_flow.integrators.equations import mass_pattern
from cubie_flow.integrators.status import ended_well
from cubie_flow.kernels.launch import BatchResult
from cubie_flow.study.choices import OutputChoice
from cubie_flow.study.definition import Study
from cubie_flow.study.kernel import build_kernel, threads_of, tolerances

Array = Any
#: The name that asks for the choice.
AUTO = "auto"
#: Runs of the pilot; of models with more states than the second number, a quarter of them.
PILOT, LARGE = 64, 50
#: Attempts after which an explicit method is given up.
PATIENCE = 20_000
STIFF = "rodas5p"
SERIES = "taylor_12"
#: Tolerance from which the series is worth a trial, operations of a right-hand side up to which it
#: is, and how much longer one of its operations takes; measured in docs/performance.md.
TIGHT, SMALL, LONGER = 1e-8, 30, 1.4
_FREE = ("const", "integer", "truth", "load", "symbol")
#: Iterations that a loop in a block is counted for.
_PASSES = 3


@frozen
class Trial:
    """What a method did to the pilot."""

    algorithm: str
    attempts: float
    operations: int
    failed: int
    runs: int

    @property
    def cost(self) -> float:
        """Arithmetic operations a run, as if all took as long; infinite if a tenth of runs fail."""
        if self.failed > self.runs / 10:
            return np.inf
        return self.attempts * self.operations * (LONGER if self.algorithm == SERIES else 1.0)

    def __str__(self) -> str:
        told = f"{self.algorithm}: {self.attempts:.0f} steps of {self.operations} operations"
        return f"{told}, {self.failed} of {self.runs} runs failed" if self.failed else told


def settled(study: Study) -> tuple[Study, str]:
    """Return a study with ``algorithm=auto`` decided, and why; other studies as they are.

    Raises
    ------
    FlowError
        If the study asks for what its system or target does not have.
    """
    if study.algorithm != AUTO:
        return study, ""
    algorithm, reason = _choose(study)
    return _with(study, algorithm), reason


def _with(study: Study, algorithm: str) -> Study:
    """Return the study with a method; explicit ones have no use for its linear solver."""
    solver = study.linear_solver if algorithm == STIFF else "auto"
    return evolve(study, algorithm=algorithm, linear_solver=solver)


def _choose(study: Study) -> tuple[str, str]:
    """Return the algorithm for a study and the sentence that says why.

    A pilot of at most 64 runs, spread over the design, is integrated with an explicit method,
    with a Taylor method if `series_pays`, and with rodas5p at the study's tolerances. The one with
    fewest arithmetic operations a run is taken: its attempted steps times the operations of one
    step, both counted, not timed, so that the choice is the same on every machine.
    """
    if mass_pattern(study.system):
        reason = "the model has algebraic equations, which explicit methods cannot solve"
        return STIFF, f"algorithm=auto took {STIFF}: {reason}"
    size = study.design.size
    count = min(size, PILOT if len(study.integrated.states) <= LARGE else PILOT // 4)
    runs = np.unique(np.linspace(0, size - 1, count).astype(np.int64))
    limit = min(study.controller.max_steps, PATIENCE)
    trials = []
    for algorithm in (_explicit(study), *[SERIES] * series_pays(study), STIFF):
        result, statements = _pilot(study, algorithm, runs, limit)
        attempts = float((result.steps + result.rejected).mean())
        failed = int((~ended_well(result.status)).sum())
        trials.append(Trial(algorithm, attempts, operations(statements), failed, len(runs)))
    best = min(trials, key=lambda trial: trial.cost)
    if best.cost == np.inf:
        best = trials[-1]
    told = "; ".join(map(str, trials))
    return best.algorithm, (
        f"algorithm=auto took {best.algorithm} after a pilot of {best.runs} runs ({told})"
    )


def _pilot(
    study: Study, algorithm: str, runs: Array, limit: int
) -> tuple[BatchResult, tuple[Statement, ...]]:
    """Return the result of integrating some runs, and the statements of one attempted step."""
    parts = [study.design.columns(int(run), int(run) + 1) for run in runs]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    trial = evolve(
        _with(study, algorithm),
        controller=evolve(study.controller, kind="default", max_steps=limit),
        output=OutputChoice(sensitivities=study.output.sensitivities),
        locations={},
    )
    kernel = build_kernel(trial)
    limits = tolerances(trial.controller)
    result = kernel.solve(columns, len(runs), limits, threads=threads_of(trial))
    return result, kernel.run.product["attempt"].statements


def _explicit(study: Study) -> str:
    return "vern7" if study.precision == "float64" and _tolerance(study) <= 1e-7 else "tsit5"


def _tolerance(study: Study) -> float:
    """Return the tightest relative tolerance."""
    given = study.controller.rtol
    return min(given.values(), default=1e-6) if isinstance(given, Mapping) else given


def series_pays(study: Study) -> bool:
    """Return whether a Taylor method may be tried: where it can be faster, and is safe.

    Its steps are long, and all that is known of them comes from their start. So it is left out
    where something is read along a step (summaries, events), where drivers bring in what is not
    smooth, and where the equations are more than polynomials, fractions, roots and waves.
    """
    if study.precision != "float64" or _tolerance(study) > TIGHT:
        return False
    if study.system.events or study.system.drivers or study.summarised:
        return False
    nodes = study.integrated.derivatives
    few = sum(node.op not in _FREE for node in topological(nodes)) <= SMALL
    return few and foreseeable(nodes)


def operations(statements: tuple[Statement, ...]) -> int:
    """Return about how many arithmetic operations statements take."""
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
