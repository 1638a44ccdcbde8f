"""One description of where a store is, wherever that may be."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from attrs import evolve

from cubie_flow.errors import FlowError
from cubie_flow.storage import Location, ResultStore, ShardPlan, StoreSchema, Variable

PLAN = ShardPlan(runs=10, chunk_runs=2, shard_runs=4)
SCHEMA = StoreSchema(
    runs=10,
    variables=(Variable("x", ("run",)),),
    status_flags={0: "success"},
    attrs={"title": "ten runs"},
    memory=({"buffer": "state", "bytes": 8},),
    counters=(),
)


def fill(store: ResultStore, *indices: int) -> None:
    for index in indices:
        start, stop = store.plan.shards[index]
        values = np.arange(start, stop, dtype=float)
        store.write_shard(index, {"x": values, "status": np.zeros(stop - start, np.uint8)})


@pytest.fixture(params=["folder", "file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    address = {
        "folder": tmp_path / "results.zarr",
        "file": f"file://{tmp_path}/results.zarr",
        "memory": f"memory://{tmp_path.name}/results.zarr",
    }[request.param]
    return Location(address)


@pytest.mark.parametrize("group", ["", "jobs/3"])
def test_a_store_is_made_filled_and_opened_again_by_its_location(
    place: Location, group: str
) -> None:
    place = place.child(group) if group else place
    store = ResultStore.create(place, SCHEMA, PLAN)
    fill(store, 0)
    store.finalise(memory={"measured": 1}, shards=[{"start": 0, "runs": 4}])
    # What a worker gets is the location alone.
    again = ResultStore.open(pickle.loads(pickle.dumps(store.location)))
    assert again.completed() == {0}
    fill(again, 1, 2)
    again.finalise({"completed": "now"}, shards=[{"start": 4, "runs": 4}])
    assert again.completed() == {0, 1, 2}
    assert again.damaged() == []
    data = xr.open_zarr(
        place.store(read_only=True), group=group or None, chunks=None, consolidated=not group
    )
    np.testing.assert_array_equal(data.x, np.arange(10.0))
    assert data.attrs["completed"] == "now"
    memory = xr.open_zarr(
        place.store(read_only=True), group=f"{group}/memory", chunks=None, consolidated=False
    )
    assert memory.start.values.tolist() == [0, 4]
    assert memory.attrs["measured"] == 1
    grown = again.grown(14)
    assert grown.completed() == {0, 1}, "the last shard has new runs"
    assert place.size() > 500


def test_groups_share_a_store(place: Location) -> None:
    for name in ("a", "b"):
        fill(ResultStore.create(place.child(name), SCHEMA, PLAN), 0, 1, 2)
    root = zarr.open_group(place.store(), mode="r")
    assert {name for name, _ in root.groups()} == {"a", "b"}
    for name in ("a", "b"):
        with pytest.raises(FlowError, match="already exists"):
            ResultStore.create(place.child(name), SCHEMA, PLAN)
    ResultStore.create(place.child("a"), SCHEMA, PLAN, overwrite=True)
    assert ResultStore.open(place.child("a")).completed() == set()
    assert ResultStore.open(place.child("b")).completed() == {0, 1, 2}


def test_nothing_is_overwritten_silently(place: Location) -> None:
    fill(ResultStore.create(place, SCHEMA, PLAN), 0)
    with pytest.raises(FlowError, match=r"already exists.*storage\.overwrite=true"):
        ResultStore.create(place, SCHEMA, PLAN)
    assert ResultStore.open(place).completed() == {0}
    smaller = evolve(SCHEMA, runs=6)
    ResultStore.create(place, smaller, ShardPlan(6, 2, 4), overwrite=True)
    assert ResultStore.open(place).plan.runs == 6


def test_only_a_store_is_ever_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("three years")
    with pytest.raises(FlowError, match="holds something that is not a results store"):
        ResultStore.create(tmp_path, SCHEMA, PLAN, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "three years"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("s3://user:hunter22@bucket/x", r"s3://\*\*\*@bucket/x holds a user, a password"),
        ("az://box/x?sv=1&sig=hunter22", r"az://box/x\?\*\*\* holds a user, a password"),
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(address: str, words: str) -> None:
    with pytest.raises(FlowError, match=words) as refused:
        Location(address)
    assert "hunter22" not in str(refused.value)


def test_an_unknown_protocol_and_a_place_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(FlowError, match=r"'nowhere://x' cannot be opened: .*nowhere"):
        Location("nowhere://x").store()
    with pytest.raises(FlowError, match="it has no Zarr group"):
        ResultStore.open("memory://empty/place")
    with pytest.raises(FlowError, match="it has no Zarr group"):
        ResultStore.open(tmp_path)


def test_options_are_never_shown() -> None:
    place = Location("s3://bucket", options={"secret": "hunter22", "anon": False})
    assert "hunter22" not in f"{place!r} {place.name}"
    assert "hunter22" not in str(place.error(OSError("bad key hunter22")))
