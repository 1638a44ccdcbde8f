"""Sampling of a run: the states and observables at the times that are saved or compared."""

from __future__ import annotations

from collections.abc import Callable

from cubie_flow.expressions.bit_operations import fetch, to_int
from cubie_flow.expressions.block import UNROLL_LIMIT, Block, BlockBuilder, Function
from cubie_flow.expressions.graph import Node, compare, const, fabs, load, logical_and, where
from cubie_flow.integrators.controllers import EPSILON
from cubie_flow.integrators.lane import (
    CODE,
    IDLE,
    SAVED,
    T_END,
    T_NEXT,
    T_PREVIOUS,
    T_START,
    H,
    T,
    clock,
    counter,
)
from cubie_flow.integrators.past import Past
from cubie_flow.integrators.status import STATUS
from cubie_flow.integrators.steps import Step


class Outputs:
    """The variables of a run by number: its states, then the observables that are needed.

    Parameters
    ----------
    states : int
    observables : Function or None
        Of the states, the parameters and the time; it writes the buffer ``observables``.
    past : Past or None
        How the past is kept, if the observables read it.
    """

    def __init__(self, states: int, observables: Function | None, past: Past | None) -> None:
        self.states = states
        self.observables = observables
        self.past = past if past is not None and past.observables.slots else None

    @property
    def size(self) -> int:
        """Number of variables."""
        return self.states + self.observed

    @property
    def observed(self) -> int:
        """Number of observables."""
        return 0 if self.observables is None else len(self.observables.outputs)

    @property
    def in_memory(self) -> bool:
        """Whether the observables are a function of their own, which reads and writes memory."""
        return self.observables is not None and self.observables.apart

    def scratch(self, size: int) -> str:
        """Return the location of a buffer of `size` that lives within one block."""
        return "register" if size <= UNROLL_LIMIT and not self.in_memory else "local"

    def observe(self, block: BlockBuilder, state: str, t: Node) -> None:
        """Evaluate the observables for the states in a buffer; `Past.open` must precede."""
        if self.observables is not None:
            arrays = {"u": (state, 0), "p": ("parameters", 0), "g": ("observables", 0)}
            if past := self.past:
                past.look_up(block, past.observables, state, t, "delayed", slopes=False)
                arrays["d"] = ("delayed", 0)
            block.evaluate(self.observables, arrays, t=t)

    def variable(self, number: int, state: str) -> Node:
        """Return a variable after `observe` of the same buffer."""
        if number < self.states:
            return load(state, number)
        return load("observables", number - self.states)


class Sampling:
    """The blocks that sample a run at given times.

    Parameters
    ----------
    outputs : Outputs
    saved : tuple of int
        Numbers of the variables that are saved.
    precision : str
    first : Node or None
        Where the times of a run begin, if every run has times of its own.
    """

    def __init__(
        self,
        outputs: Outputs,
        saved: tuple[int, ...],
        precision: str,
        first: Node | None = None,
    ) -> None:
        self.outputs = outputs
        self.saved = saved
        self.precision = precision
        self.first = first

    def next_time(self, t_start: Node, t_end: Node, first: Node | None = None) -> Node:
        """Return the next time to sample; one within rounding of the end is the end.

        Parameters
        ----------
        t_start, t_end : Node
            Of the run.
        first : Node or None
            Where its own times begin, if it has some.
        """
        if first is not None:
            # The last of a run's own times and its end are the same sum.
            return fetch("times", to_int(first)) + t_start
        wanted = load("times", 0) + t_start
        close = 4.0 * EPSILON[self.precision] * fabs(t_end)
        return where(compare("<=", fabs(wanted - t_end), close), t_end, wanted)

    def blocks(
        self, step: Step, dense: bool, doubt: Node | None, selects: bool = False
    ) -> dict[str, Block]:
        """Return the blocks by name.

        Parameters
        ----------
        step : Step
        dense : bool
            Whether the step is interpolated; otherwise steps end at the times.
        doubt : Node or None
            How long before the time of a lane counts as that time, if the run may restart.
        selects : bool
            Whether some samples are not stored: then ``advance`` moves on to the next time, which
            ``store_sample`` else does.
        """
        built = {
            "sample": self._sample(step, dense, doubt),
            "store_sample": self._store(advancing=not selects),
            "store_missing": self._store_missing(),
            "saved": Block("saved", (), (), True, to_int(counter(SAVED))),
        }
        if selects:
            advancing = BlockBuilder()
            self._advance(advancing)
            built["advance"] = advancing.build("advance", ("times",), per_lane=True)
        extension = step.dense_output
        # With delays, every accepted step has these derivatives already.
        kept = step.settings.past is not None
        if dense and extension is not None and extension.extra_a and not kept:
            block = BlockBuilder()
            step.densify(block, clock(H), clock(T_PREVIOUS))
            built["densify"] = block.build("densify")
        return built

    def _sample(self, step: Step, dense: bool, doubt: Node | None) -> Block:
        n = self.outputs.states
        block = BlockBuilder()
        t = block.let("t", clock(T_NEXT))
        state, previous = load("state", 0, 1), load("previous_state", 0, 1)
        value = state
        if dense:
            theta = block.let("theta", (t - clock(T_PREVIOUS)) / clock(H))
            value = step.interpolate(block, theta, clock(H))
            # At the ends the step itself is exact; a run that has not moved has no step.
            reached = clock(T) if doubt is None else clock(T) - doubt
            inside = block.let("inside", compare("<", t, reached))
            before = block.let("before", compare("<=", t, clock(T_PREVIOUS)))
            value = where(inside, where(before, previous, value), state)
        block.sweep(n, {"sample": value})
        if self.outputs.observables is not None:
            if self.outputs.past is not None:
                self.outputs.past.open(block)
            self.outputs.observe(block, "sample", t)
            if self.outputs.past is not None:
                self._refuse(block)
            observed = ("sample", n, 1, load("observables", 0, 1))
            block.sweep(self.outputs.observed, [observed])
        return block.build("sample")

    @staticmethod
    def _refuse(block: BlockBuilder) -> None:
        """End runs whose sample needs a past that is not kept."""
        due = logical_and(
            compare("!=", counter(CODE), float(IDLE)), compare("<=", clock(T_NEXT), clock(T))
        )
        code = counter(CODE)
        for truth, name in ((Past.lost(), "history_overflow"), (Past.ahead(), "short_delay")):
            code = where(logical_and(due, truth), const(STATUS[name]), code)
        block.assign([("counters", CODE)], [code])

    def _store(self, advancing: bool) -> Block:
        block, externals = BlockBuilder(), ["samples"]
        self._copy(block, lambda number: load("sample", number))
        if advancing:
            self._advance(block)
            externals.append("times")
        return block.build("store_sample", externals, per_lane=True)

    def _advance(self, block: BlockBuilder) -> None:
        """Move on to the next time to sample."""
        following = self.next_time(clock(T_START), clock(T_END), self.first)
        block.assign([("clock", T_NEXT)], [following])
        block.assign([("counters", SAVED)], [counter(SAVED) + 1.0])

    def _store_missing(self) -> Block:
        block = BlockBuilder()
        self._copy(block, lambda number: const(float("nan")))
        return block.build("store_missing", ("samples",), per_lane=True)

    def _copy(self, block: BlockBuilder, value: Callable[[int], Node]) -> None:
        """Write one value per saved variable to ``samples``."""
        saved = self.saved
        if len(saved) > UNROLL_LIMIT and saved == tuple(range(len(saved))):
            node = value(0)
            node = load("sample", 0, 1) if node.op == "load" else node
            block.sweep(len(saved), [("samples", 0, 1, node)])
        else:
            block.assign([("samples", i) for i in range(len(saved))], [value(v) for v in saved])
