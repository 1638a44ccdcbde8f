"""What every step offers the loop."""

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
from cubie_flow.integrators.steps.course import Course, Cubic
from cubie_flow.integrators.tableaus import Dense, method
from cubie_flow.memory import CUDAFactory

#: Operations of a right-hand side up to which a step is light; measured in docs/performance.md.
LIGHT = 60

#: Squared error that a step which may have missed something counts as having; it is about halved.
MISSED = 1e3


@frozen
class StepSettings:
    """Compile-time choices of a step.

    Parameters
    ----------
    algorithm : str
    rhs : Function
        Right-hand side of the model; its derivatives are taken from it.
    states : int
    mass : tuple of int, shape (states,)
        1 for a differential equation, 0 for an algebraic one.
    precision : {"float32", "float64"}
    dense : bool
        Whether the step is interpolated.
    ends : bool
        Whether the derivative at the end of a step is read, by summaries or events.
    chooses : bool
        Whether the step itself finds the length for which its error is right.
    linear_solver : {"auto", "sparse", "pivoted", "bicgstab"}
        Of an implicit method.
    distrusted : bool
        Whether the loop may find that a step has missed something.
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
        """The method's table."""
        return method(self.settings.algorithm)

    def build(self) -> Any:
        return self.method

    @property
    def dense_output(self) -> Dense | None:
        """How the step is interpolated, if it is."""
        return self.method.dense if self.settings.dense else None

    @property
    def start_order(self) -> int:
        """Order of the first step of a run."""
        return int(self.method.order)

    @property
    def batched_steps(self) -> int:
        """Steps of fixed size that are taken at once where nobody watches; 0 for one by one."""
        return 0

    @property
    @abstractmethod
    def end_place(self) -> tuple[str, int]:
        """Where the derivative at the end of the step is left."""

    @property
    def end_derivative(self) -> Node:
        """Derivative at the proposed state, at the element of a sweep."""
        return load(*self.end_place, 1)

    @property
    def needs_derivative(self) -> bool:
        """Whether the derivative at the state is used."""
        return True

    def propose(
        self, block: BlockBuilder, dt: Node, t: Node, smallest: Node, control: ControllerSettings
    ) -> Node:
        """Return the step to take, of a method that chooses it.

        Parameters
        ----------
        dt : Node
            Step that the last one led to expect.
        smallest : Node
            Step below which a run fails.
        control : ControllerSettings
        """
        raise NotImplementedError

    def expected(self, length: Node, h: Node, control: ControllerSettings) -> Node:
        """Return the step to expect next, after one that chose `length` and took `h`."""
        return length

    @abstractmethod
    def attempt(self, block: BlockBuilder, h: Node, t: Node, active: Node) -> None:
        """Write ``proposed_state`` and the derivative at the end of the step."""

    @abstractmethod
    def estimate(self, block: BlockBuilder, h: Node, t: Node) -> Node:
        """Return the estimated error at the element of a sweep."""

    def error(self, block: BlockBuilder, h: Node, t: Node) -> Node:
        """Return the squared error norm, 1 at tolerance."""
        return block.let(
            "error", self.norm(block, "error_square", self.estimate(block, h, t)) * self.mean
        )

    def distrust(self, block: BlockBuilder, error: Node, missed: Node) -> Node:
        """Return the error of a step, one that is to be repeated shorter where it may have missed
        what happened within it."""
        return block.let("error", where(missed, maximum(error, const(MISSED)), error))

    def initialise(self, block: BlockBuilder, t: Node) -> Node | None:
        """Make the state consistent; return whether that failed, None if it cannot."""
        return None

    def reset(self, block: BlockBuilder, dt: Node) -> None:
        """Forget the past; the first step is `dt`."""

    def advance(
        self, block: BlockBuilder, error: Node, ok: Node, accept: Node, h: Node, last: Node,
        bounds: Node,
    ) -> None:  # fmt: skip
        """Remember the step where it was accepted; the controller has chosen the next.

        Parameters are those of `StepController.advance`, and where the step was accepted.
        """

    def unconverged(self) -> list[Node]:
        """Return what tells that the equations of the step were not solved."""
        return []

    @property
    @abstractmethod
    def evaluations(self) -> tuple[int, int]:
        """Right-hand sides evaluated in an attempt, and in each Newton iteration of it."""

    def course(self, h: Node, states: Sequence[int]) -> Course:
        """Return how some states move within the step just tried."""
        return Cubic(h, states, self.end_place)

    def densify(self, block: BlockBuilder, h: Node, t: Node) -> None:
        """Write the derivatives that only dense output needs, for the step just accepted."""

    @abstractmethod
    def interpolate(self, block: BlockBuilder, theta: Node, h: Node) -> Node:
        """Return the state at ``theta`` of the last step, at the element of a sweep."""

    # what subclasses share

    @property
    def scratch(self) -> str:
        """Location of values that one attempt needs and no other.

        A right-hand side that is a function of its own reads and writes memory.
        """
        s = self.settings
        return "register" if s.states <= UNROLL_LIMIT and not s.rhs.apart else "local"

    @property
    def light(self) -> bool:
        """Whether the values of several vectors of runs find room in registers."""
        return self.scratch == "register" and operations(self.settings.rhs.nodes) <= LIGHT

    @property
    def mean(self) -> float:
        """One over the number of states."""
        return 1.0 / self.settings.states

    def norm(self, block: BlockBuilder, name: str, value: Node) -> Node:
        """Return the sum over states of ``(value / (atol + rtol * max(|y|, |y_new|)))**2``.

        Hairer, Norsett and Wanner, Solving ODEs I, eq. II.4.11, with a sum for their mean.
        """
        size = maximum(fabs(load("state", 0, 1)), fabs(load("proposed_state", 0, 1)))
        return self._sum(block, name, value * self.weight(size))

    def norm_at_start(self, block: BlockBuilder, name: str, value: Node) -> Node:
        """Return the same sum with the size of the state alone, before there is a new one."""
        return self._sum(block, name, value * self.weight(fabs(load("state", 0, 1))))

    def scale(self, size: Node) -> Node:
        """Return ``atol + rtol * size`` at the element of a sweep."""
        n = self.settings.states
        return load("settings", SETTINGS, 1) * size + load("settings", SETTINGS + n, 1)

    def weight(self, size: Node) -> Node:
        """Return about ``1 / (atol + rtol * size)`` at the element of a sweep."""
        return approximate_reciprocal(self.scale(size), self.settings.precision)

    def _sum(self, block: BlockBuilder, name: str, ratio: Node) -> Node:
        block.assign([(name, 0)], [const(0.0)])
        block.sweep(self.settings.states, [(name, 0, 0, ratio * ratio + load(name, 0))])
        return load(name, 0)

    def derivative(self, block: BlockBuilder, at: str, row: int, time: Node) -> None:
        """Write the derivative at a state to row `row` of the increments."""
        self.evaluate(block, at, ("stage_increments", row * self.settings.states), time)

    def evaluate(self, block: BlockBuilder, at: str, target: tuple[str, int], time: Node) -> None:
        """Write the right-hand side at a state."""
        arrays = {"u": (at, 0), "p": ("parameters", 0), "du": target}
        block.evaluate(self.settings.rhs, arrays, t=time)

    def polynomial(
        self, block: BlockBuilder, theta: Node, row: Callable[[int], Node]
    ) -> Node | None:
        """Return the sum over rows of dense weights times what `row` gives for each."""
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
    """Return the sum of weights times rows, None if all are zero."""
    total: Node | None = None
    for number, weight in enumerate(weights):
        if weight != 0.0:
            term = const(weight) * row(number)
            total = term if total is None else term + total
    return total


def shared_factor(
    weights: Sequence[float], row: Callable[[int], Node]
) -> tuple[float, Node | None]:
    """Return the first weight that is not zero, and the sum of weights times rows over it.

    A factor that all rows share is multiplied with the step once, not with a row of every state.
    """
    first = next((weight for weight in weights if weight), 1.0)
    return first, combined([weight / first for weight in weights], row)


def any_of(truths: Sequence[Node]) -> Node:
    """Return whether any of some truths holds."""
    found = truths[0]
    for truth in truths[1:]:
        found = logical_or(found, truth)
    return found
