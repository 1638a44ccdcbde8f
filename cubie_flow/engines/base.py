"""The contracts of an engine, of the work that it gets, and of the listener that it informs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from attrs import field, frozen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cubie_flow.storage import ResultStore

    Arrays = Mapping[str, NDArray[Any]]


@frozen
class EngineOptions:
    """Options of an engine, as the config has them; each engine uses some of them.

    Attributes
    ----------
    workers : int, optional
        Worker processes on this machine, or jobs of a batch system. By default one per GPU or
        core of this machine, or one job.
    scheduler : str, optional
        Address of a running scheduler, such as ``tcp://host:8786``.
    cluster : str, optional
        Name of a batch system, or ``cuda``, see `cubie_flow.engines.clusters`.
    options : mapping
        Keyword arguments of that cluster.
    retries : int
        Number of further attempts for a shard that failed or lost its worker.
    """

    workers: int | None = None
    scheduler: str | None = None
    cluster: str | None = None
    options: Mapping[str, Any] = field(factory=dict)
    retries: int = 3


@frozen
class WorkerResources:
    """Resources of one worker, which solves one shard at a time: CPU threads, or a GPU.

    Attributes
    ----------
    share : int
        Number of workers that divide the cores of the process.
    limit : int, optional
        Largest number of CPU threads.
    device : int, optional
        Number of the GPU; None for the first GPU of the study.
    """

    share: int = 1
    limit: int | None = None
    device: int | None = None


@frozen
class Record:
    """Summary of a finished shard: a few numbers, whatever the size of the shard.

    Attributes
    ----------
    index : int
        Number of the shard in the store's plan.
    runs : int
    statuses : dict
        Runs by status code.
    steps, rejected : int
        Sums over the runs.
    rescued : tuple of int
        Number of runs that each rescue attempt solved; the first entry counts runs without one.
    seconds : float
        Time in the kernel, transfers included.
    measured : dict
        Measurements, such as sizes; the largest over all shards is kept.
    row : dict
        Row of the shard in the store: seconds by phase.
    worker : str
        Name of the worker that solved it.
    faint : dict
        By state whose values stay below the absolute tolerance in some runs: the number of these
        runs, and their largest value.
    """

    index: int
    runs: int
    statuses: dict[int, int]
    steps: int
    rejected: int
    rescued: tuple[int, ...]
    seconds: float
    measured: dict[str, float] = field(factory=dict)
    row: dict[str, float] = field(factory=dict)
    worker: str = ""
    faint: dict[str, tuple[int, float]] = field(factory=dict)


@frozen
class Part:
    """Progress of one worker or job among several.

    Attributes
    ----------
    name : str
    runs, failures : int
        Finished runs, and those of them that failed.
    seconds : float
        Time spent on them.
    shards : int, optional
        Finished shards.
    total : int, optional
        Number of runs at the end, if known.
    """

    name: str
    runs: int
    failures: int
    seconds: float
    shards: int | None = None
    total: int | None = None


class Solver(Protocol):
    """Solves shards with the resources of one worker."""

    def solve(self, index: int, tick: Callable[[int], None] | None = None) -> tuple[Arrays, Record]:
        """Return the arrays of a shard and its record.

        Parameters
        ----------
        index : int
            Number of the shard.
        tick : callable, optional
            Called several times per second with the number of runs started.
        """
        ...


class Work(Protocol):
    """A study to solve; engines that send it to workers pickle it."""

    @property
    def token(self) -> str:
        """Identifies the work within a process."""
        ...

    @property
    def devices(self) -> tuple[int, ...]:
        """Numbers of the GPUs of this machine that it may use; empty for a CPU."""
        ...

    @property
    def where(self) -> str:
        """Location of the store, for messages."""
        ...

    @property
    def alone(self) -> str:
        """Why no other process may write to the store; empty if others may."""
        ...

    def solver(self, resources: WorkerResources) -> Solver:
        """Return a solver for some resources, with its kernel built."""
        ...

    def store(self) -> ResultStore:
        """Return the open store to write to."""
        ...

    def runs(self, index: int) -> tuple[int, int]:
        """Return the first run of a shard and the one after its last."""
        ...


class Listener(Protocol):
    """Receives the progress of the work; only `add` may be called from another thread."""

    def tick(self, index: int | None = None, begun: int = 0) -> None:
        """Note that time has passed, and that `begun` runs of a shard in flight have started."""
        ...

    def add(self, record: Record) -> None:
        """Add the record of a shard that is in the store."""
        ...

    def check(self, seconds: float) -> None:
        """Raise an exception to stop before the next shard; the last one took `seconds`."""
        ...

    def note_waits(self, solver: float, writer: float) -> None:
        """Note the seconds that solving and writing waited for each other."""
        ...


class Engine(Protocol):
    """Solves and writes shards. It neither adds up records nor prints; the listener does."""

    def open(self) -> AbstractContextManager[Engine]:
        """Return a context whose engine keeps its workers from study to study."""
        ...

    def run(self, work: Work, todo: Sequence[int], listener: Listener) -> None:
        """Solve and write the shards `todo`, each of them once.

        Parameters
        ----------
        work : Work
        todo : sequence of int
            Numbers of the shards.
        listener : Listener

        Raises
        ------
        FlowError
            If a shard cannot be solved or written.
        BaseException
            Raised by `Listener.check`; shards in flight are completed first.
        """
        ...
