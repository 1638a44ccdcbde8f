"""The choice between an explicit and a stiff method, from a pilot of the study's own runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from attrs import evolve, frozen

from cubie_flow.expressions.block import Evaluate, Repeat, Statement, When
from cubie_flow.expressions.graph import topological
from cubie_flow.integrators.equations import mass_pattern
from cubie_flow.integrators.loop import STATUS
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
        """Arithmetic operations a run; infinite if more runs fail than a tenth."""
        return np.inf if self.failed > self.runs / 10 else self.attempts * self.operations

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
    return evolve(study, algorithm=algorithm), reason


def _choose(study: Study) -> tuple[str, str]:
    """Return the algorithm for a study and the sentence that says why.

    A pilot of at most 64 runs, spread over the design, is integrated with an explicit method and
    with rodas5p at the study's tolerances. The one with fewer arithmetic operations a run is
    taken: its attempted steps times the operations of one step, both counted, not timed, so that
    the choice is the same on every machine.
    """
    if mass_pattern(study.system):
        reason = "the model has algebraic equations, which explicit methods cannot solve"
        return STIFF, f"algorithm=auto took {STIFF}: {reason}"
    size = study.design.size
    count = min(size, PILOT if len(study.integrated.states) <= LARGE else PILOT // 4)
    runs = np.unique(np.linspace(0, size - 1, count).astype(np.int64))
    limit = min(study.controller.max_steps, PATIENCE)
    trials = []
    for algorithm in (_explicit(study), STIFF):
        result, statements = _pilot(study, algorithm, runs, limit)
        attempts = float((result.steps + result.rejected).mean())
        failed = int((result.status != STATUS["success"]).sum())
        trials.append(Trial(algorithm, attempts, operations(statements), failed, len(runs)))
    best = min(trials, key=lambda trial: trial.cost)
    if best.cost == np.inf:
        best = trials[1]
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
        study,
        algorithm=algorithm,
        controller=evolve(study.controller, kind="default", max_steps=limit),
        output=OutputChoice(sensitivities=study.output.sensitivities),
        locations={},
    )
    kernel = build_kernel(trial)
    limits = tolerances(trial.controller)
    result = kernel.solve(columns, len(runs), limits, threads=threads_of(trial))
    return result, kernel.run.product["attempt"].statements


def _explicit(study: Study) -> str:
    given = study.controller.rtol
    rtol = min(given.values(), default=1e-6) if isinstance(given, Mapping) else given
    return "tsit5" if rtol >= 1e-8 or study.precision == "float32" else "vern7"


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


def _arithmetic(nodes: tuple[object, ...]) -> int:
    free = ("const", "integer", "truth", "load", "symbol")
    # A call of an elementary function stands for some twenty operations.
    order = topological(nodes)  # type: ignore[arg-type]
    return sum(20 if node.op == "call" else 1 for node in order if node.op not in free)
