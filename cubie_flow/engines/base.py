"""What an engine is: something that has the shards of a study solved and written, somewhere."""

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
class WorkerResources:
    """Where shards are solved, one at a time: some CPU threads, or one GPU.

    Attributes
    ----------
    share : int
        How many seats divide the cores that the process may use.
    limit : int, optional
        CPU threads at most.
    device : int, optional
        Number of the GPU; None: the first that the study names.
    """

    share: int = 1
    limit: int | None = None
    device: int | None = None


@frozen
class Record:
    """What is told of one shard: a few numbers, whatever the size of the shard.

    Attributes
    ----------
    index : int
        Which shard of the store's plan.
    runs : int
    statuses : dict
        Runs by status code.
    steps, rejected : int
        Sums over the runs.
    rescued : tuple of int
        Runs by number of the rescue attempt they come from, from 0 for none.
    seconds : float
        In the kernel, with transfers.
    measured : dict
        Sizes and the like, of which the largest over all shards is kept.
    row : dict
        What the store keeps of every shard: seconds by phase.
    worker : str
        Who solved it.
    faint : dict
        States of which some runs keep only values below the absolute tolerance: in how many
        runs, and the largest such value.
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
    """What one of several that work side by side has done so far: a worker, or a job.

    Attributes
    ----------
    name : str
    runs, failures : int
        Runs done, and those of them that failed.
    seconds : float
        Spent on them.
    shards : int, optional
    total : int, optional
        Runs it will have done in the end, where that is known.
    """

    name: str
    runs: int
    failures: int
    seconds: float
    shards: int | None = None
    total: int | None = None


class Solver(Protocol):
    """Solves shards in one seat."""

    def solve(self, index: int, tick: Callable[[int], None] | None = None) -> tuple[Arrays, Record]:
        """Return the arrays of a shard and what is told of it.

        Parameters
        ----------
        index : int
        tick : callable, optional
            Called now and then with the number of the shard's runs begun.
        """
        ...


class Work(Protocol):
    """A study to solve; it is pickled where it travels."""

    @property
    def token(self) -> str:
        """What tells it from other work in the same process."""
        ...

    @property
    def devices(self) -> tuple[int, ...]:
        """Numbers of the GPUs of this machine it may use; none on a CPU."""
        ...

    @property
    def where(self) -> str:
        """Where the store is."""
        ...

    @property
    def alone(self) -> str:
        """Why no other process may write to the store; empty where others may."""
        ...

    def solver(self, seat: WorkerResources) -> Solver:
        """Return a solver with its kernel built."""
        ...

    def store(self) -> ResultStore:
        """Return the store to write to, open."""
        ...

    def runs(self, index: int) -> tuple[int, int]:
        """Return the first run of a shard and the one after its last."""
        ...


class Listener(Protocol):
    """Who is told how the work goes; all calls but `finished` come from the calling thread."""

    def ticked(self, index: int | None = None, begun: int = 0) -> None:
        """Some time has passed, and `begun` runs of a shard in flight are begun."""
        ...

    def finished(self, record: Record) -> None:
        """Tell that one shard is in the store."""
        ...

    def between(self, seconds: float) -> None:
        """Tell that a shard took `seconds`, and that others follow; what this raises stops them."""
        ...

    def waited(self, solver: float, writer: float) -> None:
        """Tell how many seconds the solving and the writing waited for each other."""
        ...


class Engine(Protocol):
    """Has shards solved and written. Executors stay thin: they account and print nothing."""

    def open(self) -> AbstractContextManager[Engine]:
        """Return an engine for several studies: what is started for one serves the next."""
        ...

    def run(self, work: Work, todo: Sequence[int], listener: Listener) -> None:
        """Solve and write the shards `todo`, each of them once.

        Raises
        ------
        FlowError
            Where a shard cannot be solved or written, in one sentence.
        BaseException
            What `Listener.between` raised; shards in flight are complete by then.
        """
        ...
