"""A new storage client is one class and one registration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
from zarr.storage import MemoryStore

from cubie_flow.errors import FlowError
from cubie_flow.registries import CLIENTS
from cubie_flow.storage import Location, ResultStore, ShardPlan, StoreSchema, Variable, leased
from cubie_flow.storage.backends import RemoteStore
from cubie_flow.storage.client import StorageClient
from cubie_flow.storage.objects import Changed, SmallObject

PLAN = ShardPlan(runs=4, chunk_runs=2, shard_runs=2)
SCHEMA = StoreSchema(4, (Variable("x", ("run",)),), {0: "success"}, counters=())


class ToyObject:
    """A small object in a dictionary; its content is its tag."""

    def __init__(self, objects: dict[str, bytes], name: str) -> None:
        self._objects, self._name = objects, name

    def create(self, data: bytes) -> bytes:
        if self._name in self._objects:
            raise FileExistsError(self._name)
        self._objects[self._name] = data
        return data

    def replace(self, data: bytes, tag: bytes) -> bytes:
        if self._objects.get(self._name) != tag:
            raise Changed
        self._objects[self._name] = data
        return data

    def read(self) -> tuple[bytes, bytes]:
        if self._name not in self._objects:
            raise FileNotFoundError(self._name)
        return self._objects[self._name], self._objects[self._name]

    def delete(self) -> None:
        self._objects.pop(self._name, None)


class ToyClient(StorageClient):
    """Keeps everything in dictionaries."""

    stores: ClassVar[dict[str, dict[str, Any]]] = {}
    objects: ClassVar[dict[str, bytes]] = {}

    def open_store(self, location: Location, *, read_only: bool, create: bool) -> Any:
        files = self.stores.setdefault(location.address, {})
        return RemoteStore(MemoryStore(files, read_only=read_only))

    def small_object(self, address: str, options: Mapping[str, Any]) -> SmallObject:
        return ToyObject(self.objects, address)


@pytest.fixture
def location() -> Iterator[Location]:
    CLIENTS.register("toy", ToyClient)
    yield Location("toy://box/results.zarr", client="toy")
    CLIENTS.unregister("toy")
    ToyClient.stores.clear()
    ToyClient.objects.clear()


def test_a_registered_client_stores_and_locks(location: Location) -> None:
    with leased(location):
        assert list(ToyClient.objects) == ["toy://box/results.zarr.lock"]
        with pytest.raises(FlowError, match="is being written by another process"):
            leased(location).__enter__()
        store = ResultStore.create(location, SCHEMA, PLAN)
        for index, (start, stop) in enumerate(PLAN.shards):
            values = np.arange(start, stop, dtype=float)
            store.write_shard(index, {"x": values, "status": np.zeros(2, np.uint8)})
        store.finalise()
    assert not ToyClient.objects
    again = ResultStore.open(location)
    assert again.completed() == {0, 1}
    assert again.array("x")[:].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_a_client_that_is_not_registered() -> None:
    with pytest.raises(FlowError, match=r"storage\.client is 'fspec'; .*did you mean 'fsspec'"):
        Location("s3://bucket/x", client="fspec").store()
