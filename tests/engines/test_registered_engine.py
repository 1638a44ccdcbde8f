"""A new engine is one class and one registration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_work import FakeWork, make_store

from cubie_flow.engines import (
    EngineOptions,
    Listener,
    RunStatistics,
    Work,
    WorkerResources,
    make_engine,
)
from cubie_flow.errors import FlowError
from cubie_flow.registries import ENGINES


class ToyEngine:
    """Solves and writes the shards in reverse order in the calling thread."""

    def __init__(self, options: EngineOptions) -> None:
        self.options = options

    @contextmanager
    def open(self) -> Iterator[ToyEngine]:
        yield self

    def run(self, work: Work, todo: Sequence[int], listener: Listener) -> None:
        solver, store = work.solver(WorkerResources()), work.store()
        for index in reversed(todo):
            arrays, record = solver.solve(index)
            store.write_shard(index, arrays)
            listener.add(record)


@pytest.fixture
def toy() -> Iterator[str]:
    ENGINES.register("toy", ToyEngine)
    yield "toy"
    ENGINES.unregister("toy")


def test_a_registered_engine_solves(toy: str, tmp_path: Path) -> None:
    store = make_store(tmp_path / "results.zarr", 3)
    statistics = RunStatistics({})
    with make_engine(toy, workers=2).open() as engine:
        assert engine.options.workers == 2  # type: ignore[attr-defined]
        engine.run(FakeWork(str(tmp_path / "results.zarr")), [0, 1, 2], statistics)
    assert list(statistics.records) == [2, 1, 0]
    assert store.completed() == {0, 1, 2}


def test_an_engine_that_is_not_registered() -> None:
    with pytest.raises(FlowError, match=r"engine\.kind is 'locl'; .*did you mean 'local'"):
        make_engine("locl")
