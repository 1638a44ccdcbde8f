"""The local engine, the resources of its workers, and the options of engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_work import FakeWork, make_store

from cubie_flow.engines import (
    LocalEngine,
    Record,
    RunStatistics,
    WorkerResources,
    make_engine,
    pick_devices,
)
from cubie_flow.engines.worker_resources import local_resources, worker_resources
from cubie_flow.errors import FlowError

SHARDS = 12


@pytest.mark.parametrize(
    ("wanted", "present", "picked"),
    [(None, 0, ()), (None, 3, (0, 1, 2)), (2, 3, (2,)), ((2, 0), 3, (2, 0))],
)
def test_devices_are_picked(
    wanted: int | tuple[int, ...] | None, present: int, picked: tuple[int, ...]
) -> None:
    assert pick_devices(wanted, present) == picked


@pytest.mark.parametrize(("wanted", "words"), [(1, "offers 1 GPU"), ((0, 0), "a GPU twice")])
def test_devices_that_cannot_be_picked(wanted: int | tuple[int, ...], words: str) -> None:
    with pytest.raises(FlowError, match=words):
        pick_devices(wanted, 1)


def test_workers_share_gpus_and_cores() -> None:
    assert local_resources(()) == [WorkerResources()]
    assert local_resources((0, 2)) == [WorkerResources(device=0), WorkerResources(device=2)]
    assert [worker_resources(i, 3, (4, 5)).device for i in range(3)] == [4, 5, 4]
    assert worker_resources(0, 4, ()) == WorkerResources(share=4)


@pytest.mark.parametrize("devices", [(), (0, 1)])
def test_every_shard_is_solved_once(tmp_path: Path, devices: tuple[int, ...]) -> None:
    store = make_store(tmp_path / "a.zarr", SHARDS)
    work, account = (
        FakeWork(str(tmp_path / "a.zarr"), devices, slow=bool(devices)),
        RunStatistics({}),
    )
    LocalEngine().run(work, range(SHARDS), account)
    assert sorted(account.records) == list(range(SHARDS))
    assert account.statuses == {0: 2 * SHARDS}
    assert store.completed() == set(range(SHARDS))
    assert store.damaged() == []
    by_solver = [record.worker for record in account.records.values()]
    if devices:
        # The second GPU is slow, so the first takes more.
        assert 0 < by_solver.count("solver-1") < by_solver.count("solver-0")
    else:
        assert set(by_solver) == {"MainThread"}


@pytest.mark.parametrize("devices", [(), (0, 1)])
def test_shards_in_flight_are_complete_when_it_stops(
    tmp_path: Path, devices: tuple[int, ...]
) -> None:
    store = make_store(tmp_path / "a.zarr", SHARDS)
    asked = []

    def stop(seconds: float) -> None:
        asked.append(seconds)
        if len(asked) == 3:
            raise FlowError("enough")

    account = RunStatistics({}, check=stop)
    # Long enough a shard that the others hear of it in time.
    work = FakeWork(str(tmp_path / "a.zarr"), devices, seconds=0.2 if devices else 0.0)
    with pytest.raises(FlowError, match="enough"):
        LocalEngine().run(work, range(SHARDS), account)
    assert 3 <= len(account.records) <= 3 + len(devices)
    assert store.completed() == set(account.records)


@pytest.mark.parametrize("devices", [(), (0, 1)])
def test_an_error_of_a_shard_ends_the_study(tmp_path: Path, devices: tuple[int, ...]) -> None:
    make_store(tmp_path / "a.zarr", SHARDS)
    account = RunStatistics({})
    work = FakeWork(str(tmp_path / "a.zarr"), devices, {3: "breaks"})
    with pytest.raises(RuntimeError, match="it broke"):
        LocalEngine().run(work, range(SHARDS), account)
    assert len(account.records) < SHARDS


def test_stopping_now_drops_what_is_in_flight(tmp_path: Path) -> None:
    store = make_store(tmp_path / "a.zarr", SHARDS)

    def show(done: int, failed: int) -> None:
        raise KeyboardInterrupt

    account = RunStatistics({}, show)
    endless = dict.fromkeys(range(SHARDS), "lasts")
    work = FakeWork(str(tmp_path / "a.zarr"), (0, 1), endless)
    with pytest.raises(KeyboardInterrupt):
        LocalEngine().run(work, range(SHARDS), account)
    assert not account.records
    assert not store.completed()


def test_an_account_adds_up(tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr", 3)
    shown: list[tuple[int, int]] = []
    account = RunStatistics({0: 5, 4: 2}, lambda done, failed: shown.append((done, failed)))
    LocalEngine().run(FakeWork(str(tmp_path / "a.zarr")), [0, 2], account)
    assert account.total("steps") == 14
    assert account.total("runs") == 4
    assert account.statuses == {0: 9, 4: 2}
    assert shown[0] == (8, 2)
    assert [row["start"] for row in account.rows()] == [0, 4]
    assert np.isfinite([row["write_seconds"] for row in account.rows()]).all()


def test_an_account_tells_workers_apart(tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr", SHARDS)
    account = RunStatistics({})
    LocalEngine().run(FakeWork(str(tmp_path / "a.zarr"), (0, 1)), range(SHARDS), account)
    parts = {part.name: part for part in account.parts}
    assert set(parts) == {"solver-0", "solver-1"}
    assert sum(part.shards or 0 for part in parts.values()) == SHARDS
    assert sum(part.runs for part in parts.values()) == 2 * SHARDS
    # An event that stops a run is no failure.
    account = RunStatistics({}, well=(0, 5))
    for status in (0, 5, 1):
        account.add(Record(status, 10, {status: 10}, 0, 0, (), 0.5, worker="a"))
    (part,) = account.parts
    assert (part.runs, part.failures, part.seconds) == (30, 10, 1.5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "local", "workers": 2}, "engine.workers is '2'.*use engine=dask"),
        ({"kind": "dask", "scheduler": "tcp://a:1", "workers": 2}, "engine.scheduler.*own"),
        ({"kind": "dask", "options": {"cores": 1}}, "engine.options.*engine.cluster"),
        (
            {"kind": "dask", "cluster": "slurm", "options": {"quue": "x"}},
            "engine.options.quue.*did you mean 'queue'",
        ),
        (
            {"kind": "dask", "cluster": "slurm", "options": {"python": "evil.sh"}},
            "engine.options.python is not an option",
        ),
        (
            {"kind": "dask", "cluster": "slurm", "options": {"job_script_prologue": ["rm x"]}},
            "engine.options.job_script_prologue is not an option",
        ),
        (
            {"kind": "dask", "cluster": "pbs", "options": {"local_directory": "/tmp; rm x"}},
            "engine.options.local_directory.*job script",
        ),
        (
            {
                "kind": "dask",
                "cluster": "slurm",
                "options": {"job_extra_directives": ["--gres=gpu:1\nrm x"]},
            },
            "engine.options.job_extra_directives",
        ),
        (
            {"kind": "dask", "cluster": "slurm", "options": {"memory": {"a": 1}}},
            "engine.options.memory holds",
        ),
    ],
)
def test_settings_that_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(FlowError, match=words) as caught:
        make_engine(**settings)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
