"""Dask workers: the bytes of a local run, whatever happens to the workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from fake_work import FakeWork, make_store
from held import held

from cubie_flow.engines import RunStatistics, make_engine
from cubie_flow.errors import FlowError

distributed = pytest.importorskip("distributed", reason="Dask is not installed")

SHARDS, SHARD = 12, 1000
STUDY = [
    "study=spread", f"batch.values={{rho: {{linspace: [0, 40, {SHARDS * SHARD}]}}}}",
    "duration=250", "output.save_every=50", "engine.progress=false", "storage.picture=false",
    f"storage.shard_runs={SHARD}",
]  # fmt: skip
DASK = ["engine=dask", "engine.workers=2"]
needs_proc = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "cubie_flow", *arguments]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )


def started(folder: Path, shards: int, *arguments: str) -> subprocess.Popen[str]:
    """Start the command in a group of its own, as a terminal does.

    No more than so many shards are complete before there is a file ``go``.
    """
    return subprocess.Popen(
        **held(shards * SHARD, folder / "go", *arguments), cwd=folder, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def only_run(folder: Path) -> Path:
    (found,) = folder.glob("outputs/spread/*/*")
    return found


def arrays(store: Path) -> dict[str, np.ndarray]:
    group = zarr.open_group(store, mode="r", use_consolidated=False)
    return {name: np.asarray(array[...]) for name, array in group.arrays()}


def assert_same(store: Path, expected: dict[str, np.ndarray]) -> None:
    found = arrays(store)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].tobytes() == values.tobytes(), name


def finished_shards(folder: Path) -> int:
    return len(list(folder.glob("outputs/spread/*/*/results.zarr/status/c/*[0-9]")))


def wait_for_shards(folder: Path, process: subprocess.Popen[str], count: int) -> None:
    deadline = time.monotonic() + 120
    while finished_shards(folder) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Return the worker processes of the command: children that multiprocessing spawned."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            words = (path / "cmdline").read_text()
        except (OSError, ValueError):
            continue
        if parent == process.pid and "spawn_main" in words:
            found.append(int(path.name))
    return found


def has_a_kernel(pid: int) -> bool:
    """Return whether a process has loaded what loads kernels; only one with a shard has."""
    try:
        return "llvmlite" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def processor_time(pid: int) -> int:
    """Return the clock ticks that a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


@pytest.fixture(scope="module")
def no_collections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run(folder, *STUDY)
    assert done.returncode == 0, done.stderr
    return arrays(only_run(folder) / "results.zarr")


@needs_proc
def test_a_killed_worker_costs_its_shard_in_flight(
    tmp_path: Path, no_collections: dict[str, np.ndarray]
) -> None:
    process = started(tmp_path, 8, *STUDY, *DASK)
    wait_for_shards(tmp_path, process, 8)
    # The one that has worked most has solved some of them, and has another one in its hands.
    killed = max(workers_of(process), key=processor_time)
    os.kill(killed, signal.SIGKILL)
    (tmp_path / "go").touch()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    store = only_run(tmp_path) / "results.zarr"
    assert_same(store, no_collections)
    memory = zarr.open_group(store, mode="r", use_consolidated=False)["memory"]
    by_worker = [str(name).rpartition(":")[2] for name in memory["worker"][:]]
    # Every shard is told of once: those that the dead worker had finished are not done again.
    assert len(by_worker) == SHARDS
    assert str(killed) in by_worker
    assert len(set(by_worker)) >= 2
    assert "resumed" not in out


@needs_proc
def test_ctrl_c_and_resume(tmp_path: Path, no_collections: dict[str, np.ndarray]) -> None:
    process = started(tmp_path, 4, *STUDY, *DASK)
    wait_for_shards(tmp_path, process, 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal: to the workers too
    assert process.stderr is not None
    assert "finishing the shard in flight" in process.stderr.readline()
    (tmp_path / "go").touch()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    found = only_run(tmp_path)
    status = arrays(found / "results.zarr")["status"].reshape(SHARDS, SHARD)
    whole = (status != 255).all(axis=1)
    assert 0 < whole.sum() < SHARDS
    assert (status[~whole] == 255).all()
    resumed = run(tmp_path, f"resume={found}", "engine=dask", "engine.workers=1")
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumed  {int((~whole).sum()) * SHARD:,} runs were missing" in resumed.stdout
    assert_same(found / "results.zarr", no_collections)


@needs_proc
def test_ctrl_c_twice_stops_now(tmp_path: Path) -> None:
    endless = [*STUDY, "duration=1e5", "output.save_every=null"]
    process = started(tmp_path, 0, *endless, *DASK)
    deadline = time.monotonic() + 60
    while sum(map(has_a_kernel, workers_of(process))) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.stderr is not None
    assert "once more stops now" in process.stderr.readline()
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert workers_of(process) == []


def test_a_scheduler_that_is_not_there(tmp_path: Path) -> None:
    refused = run(tmp_path, *STUDY, "engine=dask", "engine.scheduler=tcp://127.0.0.1:1")
    assert refused.returncode == 1
    assert "tcp://127.0.0.1:1': no Dask scheduler answers there" in refused.stderr
    assert refused.stderr.count("\n") == 1, refused.stderr


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        yield cluster.scheduler_address


def test_a_scheduler_of_its_own(tmp_path: Path, scheduler: str) -> None:
    store = make_store(tmp_path / "a.zarr", 20)
    account = RunStatistics({})
    work = FakeWork(str(tmp_path / "a.zarr"), trouble={5: "dies once"})
    make_engine("dask", scheduler=scheduler).run(work, range(20), account)
    assert store.completed() == set(range(20))
    assert len(account.records) == 20
    assert store.damaged() == []


def test_a_shard_that_breaks_is_tried_again_and_given_up(tmp_path: Path, scheduler: str) -> None:
    store = make_store(tmp_path / "a.zarr", 20)
    account = RunStatistics({})
    work = FakeWork(str(tmp_path / "a.zarr"), trouble={1: "breaks"}, token="breaks")
    engine = make_engine("dask", scheduler=scheduler, retries=2)
    with pytest.raises(FlowError) as caught:
        engine.run(work, range(20), account)
    told = str(caught.value)
    assert "shard 1 (runs 2 to 3) failed 3 times on workers" in told
    assert "RuntimeError: it broke" in told
    assert store.completed() == set(account.records)
    # A refusal in plain words stays as it is.
    work = FakeWork(str(tmp_path / "a.zarr"), trouble={4: "refuses"}, token="refuses")
    with pytest.raises(FlowError, match=r"^the disk is full$"):
        engine.run(work, range(4, 20), account)


def test_a_shard_that_kills_its_workers_is_given_up(tmp_path: Path) -> None:
    store = make_store(tmp_path / "a.zarr", 6)
    account = RunStatistics({})
    work = FakeWork(str(tmp_path / "a.zarr"), trouble={2: "dies"}, seconds=0.1)
    with pytest.raises(FlowError) as caught:
        # With two workers another shard may wait for its turn on the one that dies, twice.
        make_engine("dask", workers=1, retries=1).run(work, range(6), account)
    told = "shard 2 (runs 4 to 5) lost its worker process 2 times and is given up"
    assert told in str(caught.value)
    # A worker that dies may take the record of a shard with it that it wrote just before.
    assert set(account.records) <= store.completed()
    assert 2 not in store.completed()


def test_a_worker_that_does_not_answer_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "a.zarr", 6)
    account = RunStatistics({})
    answer = distributed.Future.result
    silent: list[int] = []

    def result(future: distributed.Future, timeout: float | None = None) -> Any:
        if future.key.endswith("-1") and len(account.records) < 5:
            assert timeout is not None
            assert timeout <= 2
            silent.append(len(account.records))
            raise TimeoutError
        return answer(future, timeout)

    monkeypatch.setattr(distributed.Future, "result", result)
    work = FakeWork(str(tmp_path / "a.zarr"), token="silent")
    make_engine("dask", workers=1).run(work, range(6), account)
    assert silent
    assert set(account.records) == store.completed() == set(range(6))


def test_a_record_that_died_with_its_worker_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "a.zarr", 4)
    account = RunStatistics({})
    answer = distributed.Future.result
    killed: list[int] = []

    def result(future: distributed.Future, timeout: float | None = None) -> Any:
        if not killed:
            addresses = future.client.run(os.getpid)
            killed.extend(addresses.values())
            os.kill(killed[0], signal.SIGKILL)
            # The last answer comes long after the wish for it was given up.
            timeout = 1e-3
        return answer(future, timeout)

    monkeypatch.setattr(distributed.Future, "result", result)
    work = FakeWork(str(tmp_path / "a.zarr"), token="gone")
    make_engine("dask", workers=1).run(work, range(4), account)
    assert killed
    assert set(account.records) == store.completed() == set(range(4))


def test_stores_in_memory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FlowError, match="memory of this process"):
        make_engine("dask").run(FakeWork("memory://x"), [0], RunStatistics({}))
