"""The store, written by us and read by plain xarray and plain zarr."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from attrs import evolve
from numpy.typing import NDArray

from cubie_flow.errors import FlowError
from cubie_flow.storage import (
    AsyncWriter,
    ResultStore,
    ShardPlan,
    StoreSchema,
    Variable,
    plan_shards,
)

RUNS, TIMES = 1000, 21
PLAN = ShardPlan(runs=RUNS, chunk_runs=50, shard_runs=150)
SCHEMA = StoreSchema(
    runs=RUNS,
    variables=(
        Variable("x", dtype="float32", unit="m", long_name="position"),
        Variable("energy", dtype="float64", attrs={"standard_name": "energy"}),
        Variable("x_max", ("run",), "float32", "m"),
    ),
    status_flags={0: "success", 1: "step limit", 3: "non-finite"},
    time=np.linspace(0, 5, TIMES),
    time_unit="seconds",
    coordinates=(Variable("rho", ("run",), unit="1", long_name="Rayleigh number"),),
    attrs={"title": "a study", "schema_version": 1, "overrides": ("a=1",), "gain": np.float32(2)},
    memory=(
        {"buffer": "state", "owner": "loop", "location": "local", "elements": 3, "offset": 0},
        {"buffer": "stages", "owner": "step", "location": "shared", "elements": 18},
    ),
    plan={"block_size": 256, "registers": 64},
    config={"yaml": "seed: ${oc.env:SEED}\n"},
)


def shard(start: int, stop: int) -> dict[str, NDArray[Any]]:
    """Arrays that tell every run, time and variable apart."""
    run = np.arange(start, stop)
    trajectory = run[:, None] + np.linspace(0, 0.5, TIMES)
    trajectory[run % 97 == 3] = np.nan
    return {
        "x": trajectory.astype(np.float32),
        "energy": -trajectory,
        "x_max": trajectory[:, -1].astype(np.float32),
        "rho": run / 7.0,
        "steps": (run + 10).astype(np.int32),
        "rejected": (run % 5).astype(np.int32),
        "status": np.where(run % 97 == 3, 3, 0).astype(np.uint8),
    }


def fill(store: ResultStore, indices: range | None = None) -> None:
    for index in indices or range(len(store.plan.shards)):
        store.write_shard(index, shard(*store.plan.shards[index]))


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore.create(tmp_path / "results.zarr", SCHEMA, PLAN)


def test_plain_xarray_reads_everything_back(store: ResultStore) -> None:
    fill(store)
    store.finalise({"ended": "2024-01-01T00:00:00+00:00"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = xr.open_zarr(store.path, chunks=None)
    assert dict(dataset.sizes) == {"run": RUNS, "time": TIMES}
    assert set(dataset.coords) == {"time", "rho"}
    assert set(dataset.indexes) == {"time"}
    expected = shard(0, RUNS)
    for name, values in expected.items():
        assert dataset[name].dtype == values.dtype
        np.testing.assert_array_equal(dataset[name].values, values)
    assert dataset.x.dims == ("run", "time")
    assert dataset.x_max.dims == dataset.rho.dims == dataset.status.dims == ("run",)
    assert dataset.x.attrs == {"units": "m", "long_name": "position"}
    assert dataset.energy.attrs == {"standard_name": "energy"}
    assert dataset.rho.attrs == {"units": "1", "long_name": "Rayleigh number"}
    assert dataset.attrs["overrides"] == ["a=1"]
    assert dataset.attrs["gain"] == 2.0
    assert dataset.attrs["ended"] == "2024-01-01T00:00:00+00:00"


def test_time_stays_a_number_whatever_its_unit(store: ResultStore) -> None:
    dataset = xr.open_zarr(store.path, chunks=None, decode_timedelta=True)
    assert dataset.time.dtype == np.float64
    assert dataset.time.attrs == {"units": "s", "long_name": "time"}
    np.testing.assert_array_equal(dataset.time, np.linspace(0, 5, TIMES))


def test_status_is_a_cf_flag(store: ResultStore) -> None:
    status = xr.open_zarr(store.path, chunks=None).status
    assert status.attrs["flag_values"] == [0, 1, 3, 255]
    assert status.attrs["flag_meanings"] == "success step_limit non-finite not_written"
    assert set(status.values) == {255}


def test_the_memory_table_and_the_config_have_their_groups(store: ResultStore) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        memory = xr.open_zarr(store.path, group="memory", chunks=None)
        config = xr.open_zarr(store.path, group="config", chunks=None)
    assert list(memory.buffer.values) == ["state", "stages"]
    assert list(memory.location.sel(buffer=["stages"]).values) == ["shared"]
    assert list(memory.elements.values) == [3, 18]
    np.testing.assert_array_equal(memory.offset, [0, np.nan])
    assert memory.attrs == {"block_size": 256, "registers": 64}
    assert config.attrs == {"yaml": "seed: ${oc.env:SEED}\n"}


def test_a_datatree_opens_the_whole_store(store: ResultStore) -> None:
    tree = xr.open_datatree(store.path, engine="zarr", chunks=None)
    assert set(tree.children) == {"memory", "config", "checksums"}


def test_the_layout_on_disk_is_the_planned_one(store: ResultStore) -> None:
    group = zarr.open_group(store.path, mode="r")
    assert group.metadata.zarr_format == 3
    x = group["x"]
    assert isinstance(x, zarr.Array)
    assert (x.shards, x.chunks) == ((150, TIMES), (50, TIMES))
    assert np.isnan(x.fill_value)
    codec, checksum = x.compressors
    assert checksum.to_dict() == {"name": "crc32c"}
    told = codec.to_dict()["configuration"]
    assert (told["cname"], told["shuffle"]) == ("lz4", "bitshuffle")
    for name in ("rho", "steps", "status"):
        array = group[name]
        assert isinstance(array, zarr.Array)
        assert (array.shards or array.chunks) == (150,)


@pytest.mark.parametrize("bytes_lost", [1, 4, 9, 30])
def test_a_chunk_that_was_cut_short_is_noticed_by_every_reader(
    store: ResultStore, bytes_lost: int
) -> None:
    """A small chunk is stored as it is, and blosc would read on into other memory."""
    fill(store)
    path = Path(str(store.path)) / "rho" / "c" / "0"
    path.write_bytes(path.read_bytes()[:-bytes_lost])
    with pytest.raises(ValueError, match="checksum"):
        xr.open_zarr(store.path, chunks=None)["rho"].load()
    assert store.damaged() == [0]


def test_the_metadata_is_what_xarray_itself_writes(store: ResultStore) -> None:
    fill(store)
    dataset = xr.open_zarr(store.path, chunks=None).load()
    dataset.time.encoding["_FillValue"] = None
    copy = store.path.with_name("copy.zarr")
    dataset.to_zarr(copy, zarr_format=3, consolidated=False)
    ours, theirs = zarr.open_group(store.path, mode="r"), zarr.open_group(copy, mode="r")
    assert dict(ours.attrs) == dict(theirs.attrs)
    for name, array in theirs.arrays():
        mine = ours[name]
        assert isinstance(mine, zarr.Array)
        assert mine.metadata.to_dict() == array.metadata.to_dict()


def test_a_shard_counts_only_when_its_status_is_written(
    store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, range(2))
    written: list[str] = []
    original = ResultStore._write

    def dies_before_status(self: ResultStore, names: Any, index: int, arrays: Any) -> None:
        if "status" in names:
            raise KeyboardInterrupt
        written.extend(names)
        original(self, names, index, arrays)

    monkeypatch.setattr(ResultStore, "_write", dies_before_status)
    with pytest.raises(KeyboardInterrupt):
        store.write_shard(4, shard(*PLAN.shards[4]))
    monkeypatch.undo()
    assert written == list(store.names)
    assert zarr.open_array(store.path / "checksums" / "crc32", mode="r")[4] != 0
    assert ResultStore.open(store.path).completed() == {0, 1}
    assert store.status_counts() == {0: 296, 3: 4, 255: 700}


def test_resuming_in_any_order_ends_in_the_same_bytes(store: ResultStore, tmp_path: Path) -> None:
    fill(store)
    store.finalise()
    other = ResultStore.create(tmp_path / "other.zarr", SCHEMA, PLAN)
    fill(other, range(3, 5))
    again = ResultStore.open(other.path)
    assert again.plan == PLAN
    for index in sorted(set(range(len(PLAN.shards))) - again.completed(), reverse=True):
        again.write_shard(index, shard(*PLAN.shards[index]))
    (other.path / "x" / "c" / "0.0123abcd.partial").write_bytes(b"left by a killed process")
    again.finalise()
    assert again.completed() == set(range(7))
    assert contents(store.path) == contents(other.path)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_grown_store_keeps_its_runs_and_asks_for_the_rest(store: ResultStore) -> None:
    fill(store)
    grown = store.grown(1100)
    assert grown.plan == ShardPlan(1100, 50, 150)
    assert grown.completed() == set(range(6))
    fill(grown, range(6, 8))
    dataset = xr.open_zarr(store.path, chunks=None)
    np.testing.assert_array_equal(dataset.x, shard(0, 1100)["x"])
    with pytest.raises(FlowError, match="cannot shrink to 5"):
        grown.grown(5)


def test_final_values_need_no_time(tmp_path: Path) -> None:
    schema = StoreSchema(5, (Variable("x", ("run",)),), {0: "success"}, counters=())
    plan = plan_shards(5, schema.bytes_per_run_largest_variable)
    store = ResultStore.create(tmp_path / "final.zarr", schema, plan)
    store.write_shard(0, {"x": np.arange(5.0), "status": np.zeros(5, np.uint8)})
    dataset = xr.open_zarr(store.path, chunks=None)
    assert dict(dataset.sizes) == {"run": 5}
    np.testing.assert_array_equal(dataset.x, np.arange(5.0))


def test_results_are_never_overwritten(store: ResultStore) -> None:
    before = contents(store.path)
    with pytest.raises(FlowError, match="already exists and is not empty"):
        ResultStore.create(store.path, SCHEMA, PLAN)
    assert contents(store.path) == before


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FlowError, match="is not a results store"):
        ResultStore.open(tmp_path / "absent.zarr")
    assert not (tmp_path / "absent.zarr").exists()
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(FlowError, match="no array 'status'"):
        ResultStore.open(tmp_path / "other.zarr")


def test_a_shard_must_fit_the_store(store: ResultStore) -> None:
    good = shard(0, 150)
    with pytest.raises(FlowError, match="shard 7 is not one of the 7"):
        store.write_shard(7, good)
    with pytest.raises(FlowError, match=r"no array 'energ'; did you mean 'energy'"):
        store.write_shard(0, {**good, "energ": good["energy"]})
    with pytest.raises(FlowError, match="'rho' is missing"):
        store.write_shard(0, {name: a for name, a in good.items() if name != "rho"})
    with pytest.raises(FlowError, match=r"'x' of a shard is float64 \(150, 21\).*needs float32"):
        store.write_shard(0, {**good, "x": good["energy"]})
    with pytest.raises(FlowError, match=r"is float32 \(149, 21\)"):
        store.write_shard(0, {**good, "x": good["x"][1:]})
    with pytest.raises(FlowError, match="means 'not written'"):
        store.write_shard(0, {**good, "status": np.full(150, 255, np.uint8)})
    assert store.completed() == set()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variables": (Variable("time"),)}, "two arrays named 'time'"),
        ({"variables": (Variable("rho"),)}, "two arrays named 'rho'"),
        ({"variables": (Variable("a/b"),)}, "'a/b' cannot be the name"),
        ({"time": None}, "no saved times"),
        ({"time": [0, np.nan]}, "finite numbers"),
        ({"runs": 0}, "at least one run"),
        ({"coordinates": (Variable("k"),)}, "'k' must have the dimension run only"),
        ({"status_flags": {255: "odd"}}, "status value 255"),
    ],
)
def test_a_schema_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FlowError, match=message):
        evolve(SCHEMA, **change)
    with pytest.raises(FlowError, match="dims of 'x'"):
        Variable("x", ("time", "run"))


def test_sizes_are_known_before_anything_is_written() -> None:
    assert SCHEMA.bytes_per_run_largest_variable == TIMES * 8
    assert SCHEMA.total_bytes == RUNS * (TIMES * 12 + 4 + 8 + 4 + 4 + 1)


def test_the_writer_overlaps_and_finishes_on_leaving(store: ResultStore) -> None:
    done: list[int] = []
    with AsyncWriter(store, depth=1, on_written=done.append) as writer:
        for index, bounds in enumerate(PLAN.shards):
            writer.submit(index, shard(*bounds))
    assert store.completed() == set(range(7)) == set(done)
    assert writer.written == 7
    assert writer.seconds > 0
    with pytest.raises(FlowError, match="closed"):
        writer.submit(0, shard(*PLAN.shards[0]))
    with pytest.raises(FlowError, match="depth"):
        AsyncWriter(store, depth=0)


def test_the_queue_bounds_what_waits(store: ResultStore) -> None:
    gate, submitted = threading.Event(), threading.Semaphore(0)

    def hold(_: int) -> None:
        gate.wait(10)

    with AsyncWriter(store, depth=2, on_written=hold) as writer:

        def solve() -> None:
            for index in range(6):
                writer.submit(index, shard(*PLAN.shards[index]))
                submitted.release()

        solver = threading.Thread(target=solve)
        solver.start()
        # One in the writer's hands and two waiting; the fourth has to wait for the gate.
        for _ in range(3):
            assert submitted.acquire(timeout=10)
        assert not submitted.acquire(timeout=0.2)
        gate.set()
        solver.join()
    assert store.completed() == set(range(6))


def test_shards_submitted_before_an_error_are_kept(store: ResultStore) -> None:
    def interrupted() -> None:
        with AsyncWriter(store) as writer:
            writer.submit(2, shard(*PLAN.shards[2]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert store.completed() == {2}


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from cubie_flow.errors import FlowError
from cubie_flow.storage import AsyncWriter, ResultStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = ResultStore.open(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
try:
    with AsyncWriter(store, depth=1) as writer:
        for index, (start, stop) in enumerate(store.plan.shards):
            n, rng = stop - start, np.random.default_rng(index)
            writer.submit(index, {
                "x": rng.random((n, 21), np.float32) if index else np.zeros((n, 21), np.float32),
                "energy": np.zeros((n, 21)), "x_max": np.zeros(n, np.float32), "rho": np.zeros(n),
                "steps": np.zeros(n, np.int32), "rejected": np.zeros(n, np.int32),
                "status": np.zeros(n, np.uint8)})
except FlowError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_full_disk_surfaces_in_the_caller_and_keeps_whole_shards(store: ResultStore) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(store.path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert str(store.path) in done.stdout
    assert "cannot be written: File too large" in done.stdout
    assert done.stdout.count("\n") == 1
    assert ResultStore.open(store.path).completed() == {0}


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FlowError, match=r"file/results\.zarr' cannot be written: Not a directory"):
        ResultStore.create(tmp_path / "file" / "results.zarr", SCHEMA, PLAN)


def test_plan_and_schema_must_agree(tmp_path: Path) -> None:
    with pytest.raises(FlowError, match="plan is for 10 runs but the store for 1000"):
        ResultStore.create(tmp_path / "a.zarr", SCHEMA, ShardPlan(10, 5, 5))


def test_planning_needs_no_zarr_and_writing_no_dask(tmp_path: Path) -> None:
    light = (
        "import sys; from cubie_flow.storage import plan_shards, StoreSchema, provenance;"
        "assert not {'zarr', 'xarray', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", light], check=True)
    writing = (
        # Where dask is installed, xarray loads it by itself.
        "import sys; sys.modules['dask'] = None; import numpy as np;"
        "from cubie_flow.storage import *;"
        "schema = StoreSchema(5, (Variable('x', ('run',)),), {0: 'success'}, counters=());"
        "store = ResultStore.create(sys.argv[1], schema, plan_shards(5, 8));"
        "store.write_shard(0, {'x': np.zeros(5), 'status': np.zeros(5, np.uint8)});"
        "assert 'distributed' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", writing, str(tmp_path / "a.zarr")], check=True)
