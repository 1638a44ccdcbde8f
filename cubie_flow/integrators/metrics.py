"""Summary metrics of a run, accumulated step by step.

Integrals use Simpson's rule over each step, with the midpoint of the cubic Hermite interpolant.
They are taken of the difference from the value at the start, which keeps their rounding small.
"""

from __future__ import annotations

from collections.abc import Sequence

from cubie_flow.expressions.block import BlockBuilder
from cubie_flow.expressions.graph import (
    Node,
    compare,
    const,
    load,
    logical_and,
    logical_not,
    logical_or,
    maximum,
    minimum,
    sqrt,
    where,
)
from cubie_flow.integrators.lane import T_START, T, clock

#: Summary metrics, over the whole run from its start.
METRICS = ("min", "max", "mean", "rms", "std", "peaks")
# Elements of the buffer `metrics` for one variable.
LAST, REFERENCE, LOWEST, HIGHEST, INTEGRAL, SQUARE, PEAKS, BEFORE, METRIC_ROWS = range(9)
_ZERO, _ONE = const(0.0), const(1.0)


class Metrics:
    """The statements that keep the metrics of some variables in the buffer ``metrics``.

    Parameters
    ----------
    count : int
        Number of variables.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    @property
    def size(self) -> int:
        """Elements of the buffer ``metrics``."""
        return METRIC_ROWS * self.count

    @property
    def rows(self) -> int:
        """Rows of the final values of a run that metrics take."""
        return len(METRICS) * self.count

    @staticmethod
    def _element(position: int, item: int) -> Node:
        return load("metrics", METRIC_ROWS * position + item)

    def begin(self, block: BlockBuilder, values: Sequence[Node], jumped: Node | None) -> None:
        """Write the metrics of a run that starts, or restarts after a jump.

        Parameters
        ----------
        block : BlockBuilder
        values : sequence of Node
            The variables now.
        jumped : Node or None
            Whether the lane restarts after a jump; None where nothing jumps.
        """
        for position, value in enumerate(values):
            started = {
                LAST: value, REFERENCE: value, LOWEST: value, HIGHEST: value,
                INTEGRAL: _ZERO, SQUARE: _ZERO, PEAKS: _ZERO, BEFORE: value,
            }  # fmt: skip
            written = dict(started)
            if jumped is not None:
                written = self._after_jump(position, value, started, jumped)
            block.assign(
                [("metrics", METRIC_ROWS * position + item) for item in written],
                list(written.values()),
            )

    def _after_jump(
        self, position: int, value: Node, started: dict[int, Node], jumped: Node
    ) -> dict[int, Node]:
        """Return the metrics behind a jump, which is not a peak but may be an extreme."""
        older = {item: self._element(position, item) for item in started}
        continued = older | {
            LAST: value, BEFORE: value, LOWEST: minimum(value, older[LOWEST]),
            HIGHEST: maximum(value, older[HIGHEST]),
        }  # fmt: skip
        # A jump at the very start comes before the run.
        first = logical_or(logical_not(jumped), compare("==", clock(T), clock(T_START)))
        return {item: where(first, node, continued[item]) for item, node in started.items()}

    def update(
        self,
        block: BlockBuilder,
        middles: Sequence[Node],
        ends: Sequence[Node],
        h: Node,
        accept: Node,
    ) -> None:
        """Add a step of length `h` from the values at its middle and its end, if accepted."""
        for position, (middle, end) in enumerate(zip(middles, ends, strict=True)):
            old = {item: self._element(position, item) for item in range(METRIC_ROWS)}
            last, reference = old[LAST], old[REFERENCE]
            a, m, b = last - reference, middle - reference, end - reference
            sixth = block.let("sixth", h * (1.0 / 6.0))
            at_start = logical_and(compare(">", last, old[BEFORE]), compare(">=", last, middle))
            at_middle = logical_and(compare(">", middle, last), compare(">=", middle, end))
            peaks = where(at_start, _ONE, _ZERO) + where(at_middle, _ONE, _ZERO)
            updated = {
                LAST: end,
                LOWEST: minimum(minimum(middle, end), old[LOWEST]),
                HIGHEST: maximum(maximum(middle, end), old[HIGHEST]),
                INTEGRAL: sixth * (4.0 * m + (a + b)) + old[INTEGRAL],
                SQUARE: sixth * (4.0 * (m * m) + (a * a + b * b)) + old[SQUARE],
                PEAKS: old[PEAKS] + peaks,
                BEFORE: middle,
            }
            block.assign(
                [("metrics", METRIC_ROWS * position + item) for item in updated],
                [where(accept, value, old[item]) for item, value in updated.items()],
            )

    def finish(self, block: BlockBuilder, good: Node, elapsed: Node, first: int) -> None:
        """Write the metrics to ``finals`` from row `first`; NaN where the run failed."""
        some = block.let("some", compare(">", elapsed, 0.0))
        nan = const(float("nan"))
        for position in range(self.count):
            computed = self._final(block, position, elapsed, some)
            block.assign(
                [("finals", first + len(METRICS) * position + i) for i in range(len(METRICS))],
                [where(good, computed[name], nan) for name in METRICS],
            )

    def _final(
        self, block: BlockBuilder, position: int, elapsed: Node, some: Node
    ) -> dict[str, Node]:
        """Return the metrics of one variable by name."""

        def element(item: int) -> Node:
            return self._element(position, item)

        shift = block.let("shift", where(some, element(INTEGRAL) / elapsed, _ZERO))
        power = where(some, element(SQUARE) / elapsed, _ZERO)
        variance = block.let("variance", maximum(power - shift * shift, _ZERO))
        mean = block.let("mean", element(REFERENCE) + shift)
        return {
            "min": element(LOWEST),
            "max": element(HIGHEST),
            "mean": mean,
            "rms": sqrt(mean * mean + variance),
            "std": sqrt(variance),
            "peaks": element(PEAKS),
        }
