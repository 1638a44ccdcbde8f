"""The arrays of one batch of runs, which a target integrates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from attrs import field, frozen

from cubie_flow.kernels.targets.result_pool import ResultPool

Array = Any


@frozen(eq=False)
class Batch:
    """Arrays of a batch, in the working precision and C order.

    Attributes
    ----------
    count : int
        Number of runs.
    inputs : ndarray, shape (varied, count)
        Values of the varied quantities.
    initial : ndarray
        Fixed initial values, shape (states,), then the tables of drivers and of data.
    settings : ndarray
        Step bounds and tolerances, see `cubie_flow.integrators.step`.
    times : ndarray, shape (time_count + 1,)
        Sampling times from the start, then infinity.
    time_count : int
        Number of sampling times.
    samples : ndarray, shape (saved, count, time_count)
        Written by the target, as are `finals` and `counts`.
    strides : tuple of int
        Elements from one saved quantity, run and time to the next in `samples`.
    finals : ndarray, shape (finals and metrics, count)
    counts : ndarray of int32, shape (4, count)
        Status, accepted and rejected steps, evaluations.
    threads : int
        CPU threads.
    tick : callable, optional
        Called several times per second with the number of runs started. An exception that it
        raises stops the batch after the runs in flight.
    measured : dict
        Written by the target: ``buffer_bytes``, allocated for the buffers of the runs in flight;
        ``device_bytes``, allocated on a GPU; ``transfer_seconds``.
    """

    count: int
    inputs: Array
    initial: Array
    settings: Array
    times: Array
    time_count: int
    samples: Array
    strides: tuple[int, int, int]
    finals: Array
    counts: Array
    threads: int = 1
    tick: Callable[[int], None] | None = None
    measured: dict[str, float] = field(factory=dict)


class Program(Protocol):
    """A kernel that a target has built and loaded."""

    def memory(self) -> ResultPool:
        """Return the pool of memory, suited to the target, that result arrays come from."""

    def run(self, batch: Batch) -> None:
        """Integrate every run of the batch."""
