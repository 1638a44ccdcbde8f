"""The arrays of one batch of runs, which a target integrates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from attrs import field, frozen

from cubie_flow.kernels.targets.result_pool import ResultPool

Array = Any


#: Rows of `Batch.counts`, int32: status, accepted and rejected steps, evaluations.
COUNT_BYTES = 16


@frozen
class BatchShape:
    """The sizes of the arrays of a batch, for any number of runs.

    Attributes
    ----------
    real : int
        Bytes of one value.
    inputs, finals : int
        Rows of the inputs and of the final values.
    saved, times : int
        Saved quantities and times; 0 if nothing is saved over time.
    shared : int
        Values that all runs share: settings, times, initial values and tables.
    """

    real: int
    inputs: int
    finals: int
    saved: int
    times: int
    shared: int

    @property
    def sample_bytes(self) -> int:
        """Bytes of the samples of one run."""
        return self.real * self.saved * self.times

    @property
    def run_bytes(self) -> int:
        """Bytes that one run has in the arrays of a batch."""
        return self.real * (self.inputs + self.finals) + COUNT_BYTES + self.sample_bytes


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
        Fixed initial values, shape (states,), then the tables of drivers, and of data or records.
    settings : ndarray
        Step bounds and tolerances, see `cubie_flow.integrators.step`.
    times : ndarray
        Sampling times from the start, then infinity; or the lists of runs that have their own.
    time_count : int
        Number of saved times; runs may also be sampled at the times of data. The largest number
        where runs have their own.
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
        ``device_bytes``, allocated on a GPU, and ``device_local_bytes``, which all its threads
        have as local memory; ``transfer_seconds``.
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

    @property
    def shape(self) -> BatchShape:
        """The sizes of the arrays."""
        saved = len(self.samples) if self.time_count else 0
        return BatchShape(
            real=self.finals.itemsize,
            inputs=len(self.inputs),
            finals=len(self.finals),
            saved=saved,
            times=self.time_count if saved else 0,
            shared=len(self.settings) + len(self.times) + len(self.initial),
        )


def join_measured(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Return the measurements of two batches of different kernels together.

    Each kernel keeps its memory on the device; all share the local memory of its threads.
    """
    joined = {**other, **one}
    for name in ("device_bytes", "transfer_seconds"):
        if name in one or name in other:
            joined[name] = one.get(name, 0) + other.get(name, 0)
    if "device_local_bytes" in joined:
        joined["device_local_bytes"] = max(
            each.get("device_local_bytes", 0) for each in (one, other)
        )
    return joined


class Program(Protocol):
    """A kernel that a target has built and loaded."""

    def memory(self) -> ResultPool:
        """Return the pool of memory, suited to the target, that result arrays come from."""

    def run(self, batch: Batch) -> None:
        """Integrate every run of the batch."""
