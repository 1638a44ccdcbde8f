"""Steps: what a method does with one attempt, by the kind of its table."""

from __future__ import annotations

from cubie_flow.allowed_values import LINEAR_SOLVERS
from cubie_flow.integrators.steps.base import Step, StepSettings
from cubie_flow.integrators.steps.collocation import CollocationStep
from cubie_flow.integrators.steps.diagonal import DiagonalStep
from cubie_flow.integrators.steps.explicit import ExplicitStep
from cubie_flow.integrators.steps.multistep import MultistepStep
from cubie_flow.integrators.steps.rosenbrock import RosenbrockStep
from cubie_flow.integrators.steps.taylor import TaylorStep
from cubie_flow.integrators.tableaus import (
    Collocation,
    DiagonallyImplicit,
    Method,
    Multistep,
    Rosenbrock,
    Tableau,
    Taylor,
)

__all__ = ["LINEAR_SOLVERS", "Step", "StepSettings", "solves_algebraic", "step_class"]

_STEPS: dict[type[Method], type[Step]] = {
    Tableau: ExplicitStep,
    Taylor: TaylorStep,
    Rosenbrock: RosenbrockStep,
    DiagonallyImplicit: DiagonalStep,
    Collocation: CollocationStep,
    Multistep: MultistepStep,
}


def step_class(method: Method) -> type[Step]:
    """Return the step that computes a method."""
    return _STEPS[type(method)]


def solves_algebraic(method: Method) -> bool:
    """Return whether a method solves equations without a time derivative.

    It must be stiffly accurate: the new state is the last stage, which satisfies them (Hairer
    and Wanner, Solving ODEs II, section VI.1).
    """
    if isinstance(method, Rosenbrock):
        return method.a[-1] == method.b[:-1] and method.b[-1] == 1.0
    if isinstance(method, DiagonallyImplicit):
        return method.stiffly_accurate
    if isinstance(method, Multistep):
        return True
    return isinstance(method, Collocation) and method.a[-1] == method.b
