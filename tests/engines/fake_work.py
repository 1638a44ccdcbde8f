"""Work that engines are given in tests: it solves nothing, or misbehaves where it is told to."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from attrs import field, frozen

from cubie_flow.engines import Record, WorkerResources
from cubie_flow.errors import FlowError
from cubie_flow.storage import Location, ResultStore, StoreSchema, Variable
from cubie_flow.storage.layout import ShardPlan

RUNS = 2


def make_store(path: Path, shards: int) -> ResultStore:
    schema = StoreSchema(
        runs=RUNS * shards,
        variables=(Variable("x", ("run",), "float64"),),
        status_flags={0: "success"},
        counters=(),
    )
    return ResultStore.create(path, schema, ShardPlan(RUNS * shards, RUNS, RUNS))


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@frozen
class FakeSolver:
    work: FakeWork
    resources: WorkerResources

    def solve(
        self, index: int, tick: Callable[[int], None] | None = None
    ) -> tuple[dict[str, np.ndarray], Record]:
        trouble = self.work.trouble.get(index, "")
        if tick is not None:
            tick(1)
        if trouble == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble == "dies once" and not (marker := Path(self.work.path) / "died").exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble == "breaks":
            raise RuntimeError("it broke")
        if trouble == "refuses":
            raise FlowError("the disk is full")
        if trouble == "lasts":
            for _ in range(3000):
                assert tick is not None
                tick(1)
                time.sleep(0.01)
        # A slow GPU and a fast one.
        time.sleep(self.work.seconds * (4 if self.resources.device == 1 else 1))
        if self.work.slow:
            # The fast one waits for the slow one to begin, the slow one for eight shards to end.
            begun = Path(f"{self.work.path}.begun")
            if self.resources.device == 1:
                begun.touch()
                wait_until(lambda: len(self.work.store().completed()) >= 8)
            wait_until(begun.exists)
        arrays = {"x": np.full(RUNS, float(index)), "status": np.zeros(RUNS, np.uint8)}
        thread = threading.current_thread().name
        row = {"start": RUNS * index, "runs": RUNS}
        return arrays, Record(index, RUNS, {0: RUNS}, 7, 0, (), 0.001, row=row, worker=thread)


@frozen
class FakeWork:
    path: str
    devices: tuple[int, ...] = ()
    trouble: dict[int, str] = field(factory=dict)
    seconds: float = 0.002
    slow: bool = False
    token: str = "fake"

    @property
    def where(self) -> str:
        return self.path

    @property
    def alone(self) -> str:
        return Location(self.path).alone

    def solver(self, resources: WorkerResources) -> FakeSolver:
        return FakeSolver(self, resources)

    def store(self) -> ResultStore:
        return ResultStore.open(self.path)

    def runs(self, index: int) -> tuple[int, int]:
        return RUNS * index, RUNS * (index + 1)
