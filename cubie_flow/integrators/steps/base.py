"""The interface of a step to the loop."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from attrs import field, frozen, validators

from cubie_flow.allowed_values import LINEAR_SOLVERS, PRECISIONS
from cubie_flow.errors import one_of
from cubie_flow.expressions.block import UNROLL_LIMIT, BlockBuilder, Function, operations
from cubie_flow.expressions.graph import Node, const, fabs, load, logical_or, maximum, where
from cubie_flow.integrators.controllers import (
    SETTINGS,
    ControllerSettings,
    approximate_reciprocal,
)
from cubie_flow.integrators.past import Past
from cubie_flow.integrators.steps.course import Course, Cubic
from cubie_flow.integrators.tableaus import Dense, method
from cubie_flow.memory import CUDAFactory

#: Largest number of operations of a right-hand side whose steps are light; measured in
#: docs/lab-book.md.
LIGHT = 60

#: Squared error of a step that may have missed a feature of the equations; the next attempt is
#: about half as long.
MISSED = 1e3


@frozen
class StepSettings:
    """Compile-time choices of a step.

    Parameters
    ----------
    algorithm : str
    rhs : Function
        Right-hand side of the model; its derivatives are computed from it.
    states : int
        Number of states.
    mass : tuple of int, shape (states,)
        1 for a differential equation, 0 for an algebraic one.
    precision : {"float32", "float64"}
    dense : bool
        Whether the step is interpolated.
    ends : bool
        Whether summaries or events read the derivative at the end of a step.
    chooses : bool
        Whether the method itself computes the length of a step from its tolerance.
    linear_solver : {"auto", "sparse", "pivoted", "bicgstab"}
        Solver of the linear systems of an implicit method.
    distrusted : bool
        Whether the loop may reject a step that missed a feature of the equations.
    past : Past, optional
        The past of the run, if the equations have delays.
    """

    algorithm: str
    rhs: Function
    states: int = field(validator=validators.ge(1))
    mass: tuple[int, ...] = ()
    precision: str = field(default="float64", validator=one_of(*PRECISIONS))
    dense: bool = False
    ends: bool = False
    chooses: bool = False
    linear_solver: str = field(default="auto", validator=one_of(*LINEAR_SOLVERS))
    distrusted: bool = False
    past: Past | None = None

    def is_algebraic(self, state: int) -> bool:
        """Return whether the equation of a state is algebraic."""
        return bool(self.mass) and not self.mass[state]


class Step(CUDAFactory[StepSettings]):
    """One step of a method, as statements of the loop's blocks.

    The loop owns ``state``, ``derivative`` (at the state) and ``previous_state``; every step has
    the buffers ``stage_increments``, ``stage_state`` and ``proposed_state``.
    """

    @property
    def method(self) -> Any:
        """The method with its coefficients."""
        return method(self.settings.algorithm)

    def build(self) -> Any:
        return self.method

    @property
    def dense_output(self) -> Dense | None:
        """Continuous extension of the step, None if it is not interpolated."""
        return self.method.dense if self.settings.dense else None

    @property
    def start_order(self) -> int:
        """Order of the first step of a run."""
        return int(self.method.order)

    @property
    def batched_steps(self) -> int:
        """Number of fixed steps in a batch without checks between them; 0 for no batches."""
        return 0

    @property
    @abstractmethod
    def end_element(self) -> tuple[str, int]:
        """Buffer and first element of the derivative at the end of the step."""

    @property
    def end_derivative(self) -> Node:
        """Derivative at the proposed state, at the element of a sweep."""
        return load(*self.end_element, 1)

    @property
    def needs_derivative(self) -> bool:
        """Whether the derivative at the state is used."""
        return True

    def propose(
        self, block: BlockBuilder, dt: Node, t: Node, smallest: Node, control: ControllerSettings
    ) -> Node:
        """Write and return the length of the step, of a method that computes it.

        Parameters
        ----------
        block : BlockBuilder
        dt : Node
            Expected length, from the step before.
        t : Node
            Time at the start of the step.
        smallest : Node
            Length below which a run fails.
        control : ControllerSettings
        """
        raise NotImplementedError

    def expected(self, length: Node, h: Node, control: ControllerSettings) -> Node:
        """Return the expected length of the next step.

        Parameters
        ----------
        length : Node
            Result of `propose` for this step.
        h : Node
            Length of this step, which may have been shortened.
        control : ControllerSettings
        """
        return length

    @abstractmethod
    def attempt(self, block: BlockBuilder, h: Node, t: Node, active: Node) -> None:
        """Write ``proposed_state`` and the derivative at the end of the step.

        Parameters
        ----------
        block : BlockBuilder
        h, t : Node
            Length of the step, and the time at its start.
        active : Node
            Lanes that integrate.
        """

    @abstractmethod
    def estimate(self, block: BlockBuilder, h: Node, t: Node) -> Node:
        """Return the estimated error at the element of a sweep.

        The parameters are those of `attempt`.
        """

    def error(self, block: BlockBuilder, h: Node, t: Node) -> Node:
        """Write and return the squared error norm, 1 at tolerance; parameters as in `attempt`."""
        return block.let(
            "error", self.norm(block, "error_square", self.estimate(block, h, t)) * self.mean
        )

    def distrust(self, block: BlockBuilder, error: Node, missed: Node) -> None:
        """Write the error of a step, above tolerance in lanes where `missed` holds.

        Parameters
        ----------
        block : BlockBuilder
        error : Node
            Squared error norm, 1 at tolerance.
        missed : Node
            Whether the step may have missed a feature of the equations.
        """
        block.let("error", where(missed, maximum(error, const(MISSED)), error))

    def initialise(self, block: BlockBuilder, t: Node) -> Node | None:
        """Make the state consistent; return whether that failed, None for methods that cannot."""
        return None

    def reset(self, block: BlockBuilder, dt: Node) -> None:
        """Clear the history of the method; the first step has the length `dt`."""

    def advance(
        self, block: BlockBuilder, error: Node, ok: Node, accept: Node, h: Node, last: Node,
        bounds: Node,
    ) -> None:  # fmt: skip
        """Update the history of the method; the controller has chosen the length of the next step.

        Parameters
        ----------
        block, error, accept, h, last, bounds
            See `StepController.advance`.
        ok : Node
            Whether the step is valid: finite, with all equations solved.
        """

    def unconverged(self) -> list[Node]:
        """Return truths: whether the equations of the step were not solved."""
        return []

    @property
    @abstractmethod
    def evaluations(self) -> tuple[int, int]:
        """Numbers of evaluations of the right-hand side per attempt and per Newton iteration."""

    def course(self, h: Node, states: Sequence[int]) -> Course:
        """Return some states as functions of time within the step just tried."""
        return Cubic(h, states, self.end_element)

    def densify(self, block: BlockBuilder, h: Node, t: Node, start: str = "previous_state") -> None:
        """Write the derivatives that only dense output needs, for the step just accepted.

        Parameters
        ----------
        block : BlockBuilder
        h, t : Node
            As in `attempt`.
        start : str
            Buffer of the state at the start of the step.
        """

    #: Whether the rows of `terms` are derivatives, not changes of the state.
    slopes = False

    def terms(self, block: BlockBuilder, h: Node) -> list[Node]:
        """Return the interpolant of the step just tried, before the state moves.

        Without a continuous extension it is the cubic through both ends and their derivatives.

        Parameters
        ----------
        block : BlockBuilder
        h : Node
            Length of the step.

        Returns
        -------
        list of Node
            Coefficients of ``theta**0, theta**1, ..`` at the element of a sweep.
        """
        state, dense = load("state", 0, 1), self.dense_output
        if dense is None:
            moved = load("proposed_state", 0, 1) - state
            a, b = h * load("derivative", 0, 1), h * self.end_derivative
            return [state, a, 3.0 * moved - (2.0 * a + b), (a + b) - 2.0 * moved]
        degree = max(len(weights) for weights in dense.weights)
        terms = [state]
        for power in range(degree):
            column = [weights[power] if power < len(weights) else 0.0 for weights in dense.weights]
            total = combined(column, self._row)
            term = const(0.0) if total is None else total
            terms.append(h * term if self.slopes else term)
        return terms

    def _row(self, number: int) -> Node:
        """Return a row of ``stage_increments`` at the element of a sweep."""
        return load("stage_increments", number * self.settings.states, 1)

    @abstractmethod
    def interpolate(self, block: BlockBuilder, theta: Node, h: Node) -> Node:
        """Return the state within the last accepted step, at the element of a sweep.

        Parameters
        ----------
        block : BlockBuilder
        theta : Node
            Part of the step, from 0 to 1.
        h : Node
            Length of the step.
        """

    # helpers of subclasses

    @property
    def scratch(self) -> str:
        """Location of the values that only one attempt uses.

        A right-hand side that is a separate function needs them in memory.
        """
        s = self.settings
        return "register" if s.states <= UNROLL_LIMIT and not s.rhs.apart else "local"

    @property
    def light(self) -> bool:
        """Whether the values of several vectors of runs fit into registers."""
        return self.scratch == "register" and operations(self.settings.rhs.nodes) <= LIGHT

    @property
    def mean(self) -> float:
        """One over the number of states."""
        return 1.0 / self.settings.states

    def norm(self, block: BlockBuilder, name: str, value: Node) -> Node:
        """Return the sum over states of ``(value / (atol + rtol * max(|y|, |y_new|)))**2``.

        Hairer, Norsett and Wanner, Solving ODEs I, eq. II.4.11, with a sum instead of the mean.

        Parameters
        ----------
        block : BlockBuilder
        name : str
            Name of the value that holds the sum.
        value : Node
            At the element of a sweep.
        """
        size = maximum(fabs(load("state", 0, 1)), fabs(load("proposed_state", 0, 1)))
        return self._sum(block, name, value * self.weight(size))

    def norm_at_start(self, block: BlockBuilder, name: str, value: Node) -> Node:
        """Return the sum of `norm` with ``|y|`` alone, before there is a new state."""
        return self._sum(block, name, value * self.weight(fabs(load("state", 0, 1))))

    def scale(self, size: Node) -> Node:
        """Return ``atol + rtol * size`` at the element of a sweep."""
        n = self.settings.states
        return load("settings", SETTINGS, 1) * size + load("settings", SETTINGS + n, 1)

    def weight(self, size: Node) -> Node:
        """Return ``1 / (atol + rtol * size)`` within 0.03 % at the element of a sweep."""
        return approximate_reciprocal(self.scale(size), self.settings.precision)

    def _sum(self, block: BlockBuilder, name: str, ratio: Node) -> Node:
        block.assign([(name, 0)], [const(0.0)])
        block.sweep(self.settings.states, [(name, 0, 0, ratio * ratio + load(name, 0))])
        return load(name, 0)

    def derivative(self, block: BlockBuilder, at: str, row: int, time: Node) -> None:
        """Write the derivative at a state to a row of ``stage_increments``.

        Parameters
        ----------
        block : BlockBuilder
        at : str
            Buffer of the state.
        row : int
        time : Node
        """
        self.evaluate(block, at, ("stage_increments", row * self.settings.states), time)

    def evaluate(self, block: BlockBuilder, at: str, target: tuple[str, int], time: Node) -> None:
        """Write the right-hand side at a state.

        Parameters
        ----------
        block : BlockBuilder
        at : str
            Buffer of the state.
        target : tuple of (str, int)
            Buffer and first element of the result.
        time : Node
        """
        arrays = {"u": (at, 0), "p": ("parameters", 0), "du": target}
        past = self.settings.past
        if past is not None and past.rhs.slots:
            past.look_up(block, past.rhs, at, time, "delayed", slopes=False)
            arrays["d"] = ("delayed", 0)
        block.evaluate(self.settings.rhs, arrays, t=time)

    def polynomial(
        self, block: BlockBuilder, theta: Node, row: Callable[[int], Node]
    ) -> Node | None:
        """Return the sum over the rows of the dense weights at `theta` times the values of `row`.

        Parameters
        ----------
        block : BlockBuilder
        theta : Node
            Part of the step, from 0 to 1.
        row : callable
            From the number of a row to its value.
        """
        dense = self.dense_output
        assert dense is not None
        total: Node | None = None
        for number, coefficients in enumerate(dense.weights):
            if not any(coefficients):
                continue
            weight: Node = const(0.0)
            for coefficient in reversed(coefficients):
                weight = (weight + coefficient) * theta
            weight = block.let(f"weight_{number}", weight)
            total = weight * row(number) if total is None else weight * row(number) + total
        return total


def combined(weights: Sequence[float], row: Callable[[int], Node]) -> Node | None:
    """Return the sum of weights times rows, None if all weights are zero."""
    total: Node | None = None
    for number, weight in enumerate(weights):
        if weight != 0.0:
            term = const(weight) * row(number)
            total = term if total is None else term + total
    return total


def shared_factor(
    weights: Sequence[float], row: Callable[[int], Node]
) -> tuple[float, Node | None]:
    """Return the first weight that is not zero, and the sum of weights times rows divided by it.

    A caller multiplies the weight with the step once, instead of with a row of every state.
    """
    first = next((weight for weight in weights if weight), 1.0)
    return first, combined([weight / first for weight in weights], row)


def any_of(truths: Sequence[Node]) -> Node:
    """Return whether at least one of several truths holds."""
    result = truths[0]
    for truth in truths[1:]:
        result = logical_or(result, truth)
    return result
