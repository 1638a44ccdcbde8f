"""The Zarr store of one study, written shard by shard and readable by any reader of Zarr.

Xarray makes the schema, see `cubie_flow.storage.creation`; shards go straight into its arrays.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from attrs import frozen
from numpy.typing import NDArray

from cubie_flow.batches.store_names import CHECKSUMS, MEMORY, RUN, STATUS, TIME
from cubie_flow.errors import FlowError, nearest
from cubie_flow.process.safe_files import LinkRefused
from cubie_flow.storage.creation import write_schema
from cubie_flow.storage.encoding import Encoder
from cubie_flow.storage.groups import (
    consolidate,
    open_group,
    reported,
    transaction,
    wait_for_all,
)
from cubie_flow.storage.inspection import read_metadata
from cubie_flow.storage.layout import AT_ONCE, ShardPlan
from cubie_flow.storage.location import Location
from cubie_flow.storage.memory_table import add_to_memory
from cubie_flow.storage.schema import (
    ENDED,
    STATED,
    UNWRITTEN,
    StoreSchema,
    attributes_of,
    lacks_status,
)
from cubie_flow.storage.zarr_adapter import (
    arrays_of,
    buffer,
    chunk_key,
    dimension_names,
    shard_runs,
    sync,
)


@frozen(eq=False)
class ResultStore:
    """An open store.

    Attributes
    ----------
    location
        Where the store is; another process opens it by this.
    plan
        How the runs are divided into shards.
    """

    location: Location
    plan: ShardPlan
    _group: zarr.Group
    _arrays: dict[str, zarr.Array[Any]]

    @classmethod
    def create(
        cls,
        path: str | Path | Location,
        schema: StoreSchema,
        plan: ShardPlan,
        overwrite: bool = False,
    ) -> ResultStore:
        """Create a store without any runs written.

        Parameters
        ----------
        path
            An empty folder, URL or location.
        schema
            What the store holds.
        plan
            The division of its runs into shards, see `cubie_flow.storage.layout.plan_shards`.
        overwrite
            Whether to delete an existing store first.

        Raises
        ------
        FlowError
            If the location is not empty or cannot be written, or if plan and schema have
            different numbers of runs.
        """
        location = Location.of(path)
        if plan.runs != schema.runs:
            raise FlowError(f"the plan is for {plan.runs} runs but the store for {schema.runs}")
        with reported(location):
            if overwrite:
                location.delete()
            location.require_empty()
            if location.folder is not None:
                location.folder.mkdir(parents=True, exist_ok=True)
            store = location.store(create=True)
            with transaction(location, store, f"made for {plan.runs:,} runs{_of(location)}"):
                write_schema(location, store, schema, plan)
        return cls.open(location)

    @classmethod
    def open(cls, path: str | Path | Location) -> ResultStore:
        """Open a store to read complete shards or to write the others.

        Raises
        ------
        FlowError
            If `path` holds no store, or one whose creation was interrupted.
        """
        location = Location.of(path)
        name = location.name
        with reported(location, "opened"):
            try:
                if location.folder is not None and not location.folder.is_dir():
                    raise FileNotFoundError(name)  # zarr would create the folder
                if location.folder is not None:
                    read_metadata(location.folder / location.group)
                group = open_group(location.store(), location.group)
                arrays = arrays_of(group)
            except FlowError:
                raise
            except (FileNotFoundError, ValueError) as error:
                raise FlowError(f"'{name}' is not a results store: it has no Zarr group") from error
        if STATUS not in arrays:
            if CHECKSUMS in group:
                raise FlowError(lacks_status(name))
            raise FlowError(f"'{name}' is not a results store: it has no array '{STATUS}'")
        runs = {
            name: array for name, array in arrays.items() if dimension_names(array)[:1] == (RUN,)
        }
        lengths = {name: array.shape[0] for name, array in runs.items()}
        if len(set(lengths.values())) != 1 or lengths[STATUS] == 0:
            raise FlowError(f"'{name}' was left incomplete when it was created; delete it")
        chunk_runs = min(array.chunks[0] for array in runs.values())
        plan = ShardPlan(lengths[STATUS], chunk_runs, shard_runs(runs[STATUS]))
        return cls(location, plan, group, runs)

    @property
    def path(self) -> Path:
        """The folder of the store, with its group; a URL has none."""
        if self.location.folder is None:
            raise FlowError(f"'{self.location.name}' is not a folder")
        return self.location.folder / self.location.group

    @property
    def file_seconds(self) -> float:
        """Seconds spent on writing files so far, without encoding."""
        return float(self._group.store.seconds)

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of the root group."""
        return dict(self._group.attrs)

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays that every shard must have, without ``status``."""
        return tuple(name for name in self._arrays if name != STATUS)

    def array(self, name: str) -> zarr.Array[Any]:
        """Return one of the arrays along ``run``."""
        return self._arrays[name]

    def write_shard(self, index: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write one shard: all its data first, its ``status`` last.

        Parameters
        ----------
        index
            Number of the shard in ``plan.shards``.
        arrays
            One array for each of `names` and for ``status``, shape ``(runs of the shard,)`` or
            ``(runs of the shard, times)``, in the store's dtypes.

        Raises
        ------
        FlowError
            If an array is missing, unknown, of another shape or dtype, or if the store cannot be
            written (disk full, permission, a folder that was moved).
        """
        if not 0 <= index < len(self.plan.shards):
            raise FlowError(f"shard {index} is not one of the {len(self.plan.shards)} of the study")
        start, stop = self.plan.shards[index]
        self._check(arrays, stop - start)
        with self._transaction(f"shard {index}: runs {start:,} to {stop - 1:,}"):
            self._write(self.names, index, arrays)
            checksums = self._group[CHECKSUMS]["crc32"]
            checksums[index] = self._checksum(arrays)
            self._write((STATUS,), index, arrays)

    def _write(self, names: Sequence[str], index: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write some arrays of a shard."""
        store, room = self._group.store, asyncio.Semaphore(AT_ONCE)

        async def put(name: str) -> None:
            key = chunk_key(self._arrays[name], index)
            path = f"{self.location.group}/{name}/{key}".removeprefix("/")
            async with room:
                # Outside the main thread blosc uses one thread, so the bytes never differ.
                content = await asyncio.to_thread(self._encoders[name].encode, arrays[name])
                if content is None:
                    await store.delete(path)
                else:
                    await store.set(path, buffer(content))

        sync(wait_for_all(put(name) for name in names))

    @cached_property
    def _encoders(self) -> dict[str, Encoder]:
        """The encoder of each array."""
        return {name: Encoder.of(array) for name, array in self._arrays.items()}

    def refuse_gaps(self) -> None:
        """Refuse a store that lost groups or attributes that its creation wrote.

        Raises
        ------
        FlowError
            Naming what is missing.
        """
        with reported(self.location, "read"):
            groups = [name for name in (MEMORY, CHECKSUMS) if name not in self._group]
        attributes = [name for name in STATED if name not in self.attrs]
        missing = [
            f"its {kind}{'s' * (len(names) > 1)} {', '.join(map(repr, names))}"
            for kind, names in (("group", groups), ("attribute", attributes))
            if names
        ]
        if missing:
            raise FlowError(
                f"'{self.location.name}' was damaged: it lacks {' and '.join(missing)}, so it "
                "can be read but neither checked nor resumed; restore the missing parts, or start "
                "the study again"
            )

    def completed(self) -> set[int]:
        """Return the shards whose ``status`` is written for every run and can be read."""
        complete = set()
        with reported(self.location, "read"):
            for index, (start, stop) in enumerate(self.plan.shards):
                try:
                    if (self.status(start, stop) != UNWRITTEN).all():
                        complete.add(index)
                except LinkRefused:
                    raise
                except self._damage:
                    continue  # a shard with a truncated file is not complete
        return complete

    @property
    def _damage(self) -> tuple[type[Exception], ...]:
        """Exceptions of damaged bytes; for a URL, an `OSError` is a lost connection instead."""
        decoding = (ValueError, RuntimeError)
        return decoding if self.location.folder is None else (*decoding, OSError)

    def damaged(self) -> list[int]:
        """Return the complete shards whose contents have changed since they were written, in order.

        Every array of every complete shard is read, and its checksum is compared with the one
        that was recorded when the shard was written.
        """
        damaged = []
        complete = sorted(self.completed())
        with reported(self.location, "read"):
            recorded = self._recorded()
            self._check_times()
            for index in complete:
                start, stop = self.plan.shards[index]
                try:
                    arrays = {name: np.asarray(a[start:stop]) for name, a in self._arrays.items()}
                except LinkRefused:
                    raise
                except self._damage:
                    damaged.append(index)
                    continue
                if self._checksum(arrays) != int(recorded[index]):
                    damaged.append(index)
        return damaged

    def _recorded(self) -> NDArray[Any]:
        """Return the checksums of all shards as they were recorded."""
        array = self._group[CHECKSUMS].get("crc32")
        if not isinstance(array, zarr.Array) or array.shape != (len(self.plan.shards),):
            raise FlowError(
                f"'{self.location.name}' is damaged: its checksums are not one per shard; restore "
                "them from a copy, or start the study again"
            )
        return np.asarray(array[:])

    def _check_times(self) -> None:
        """Refuse saved times that are missing or damaged, which belong to no shard."""
        array = self._group.get(TIME)
        if not isinstance(array, zarr.Array):
            return
        reason = ""
        try:
            times = np.asarray(array[:])
            if not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
                reason = "they are not finite and increasing"
        except self._damage as error:
            reason = str(error).split(".")[0]
        if reason:
            raise FlowError(
                f"the saved times in '{self.location.name}/{TIME}' are damaged ({reason}); "
                "restore them from a copy, or start the study again"
            )

    def _checksum(self, arrays: Mapping[str, NDArray[Any]]) -> int:
        """Return the CRC-32 of a shard's arrays in order of their names."""
        checksum = 0
        for name in sorted(self._arrays):
            data = np.ascontiguousarray(arrays[name]).view(np.uint8).data
            checksum = zlib.crc32(data, checksum)
        return checksum

    def status(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return the status of the runs from `start` to before `stop`."""
        return np.asarray(self._arrays[STATUS][start:stop])

    def status_counts(self) -> dict[int, int]:
        """Return the number of runs per status; 255 counts the unwritten ones."""
        values, counts = np.unique(np.asarray(self._arrays[STATUS][:]), return_counts=True)
        return {int(value): int(count) for value, count in zip(values, counts, strict=True)}

    def grown(self, runs: int, attrs: Mapping[str, Any] | None = None) -> ResultStore:
        """Lengthen the store to `runs` runs with the same layout, and return it opened again.

        A last shard that was not full becomes incomplete: its new runs are not written.

        Parameters
        ----------
        runs
        attrs
            Attributes of the root that describe the larger study.

        Raises
        ------
        FlowError
            If `runs` is less than the store already has, or the store cannot be written.
        """
        if runs < self.plan.runs:
            name = self.location.name
            raise FlowError(f"'{name}' has {self.plan.runs} runs and cannot shrink to {runs}")
        with self._transaction(f"lengthened to {runs:,} runs"):
            # First of all: a process that is killed here has promised what it begins.
            kept = {k: v for k, v in self._group.attrs.items() if k not in ENDED}
            self._group.attrs.put({**kept, **attributes_of(attrs or {})})
            for array in self._arrays.values():
                array.resize((runs, *array.shape[1:]))
            grown = ShardPlan(runs, self.plan.chunk_runs, self.plan.shard_runs)
            self._group[CHECKSUMS]["crc32"].resize((len(grown.shards),))
            self._consolidate()
        return ResultStore.open(self.location)

    def finalise(
        self,
        attrs: Mapping[str, Any] | None = None,
        memory: Mapping[str, Any] | None = None,
        shards: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Add results that are known only at the end, and consolidate the metadata.

        Call it when no writer is left: incomplete files of a killed process are removed.

        Parameters
        ----------
        attrs
            More attributes of the root.
        memory
            More attributes of ``/memory``: measurements.
        shards
            One row per shard, with the run it starts at as ``start``, added to ``/memory`` along
            ``shard``; an existing row is replaced.

        Raises
        ------
        FlowError
            If the store cannot be written.
        """
        with self._transaction("finished" if attrs else "stopped"):
            if self.location.folder is not None:
                for partial in list(self.path.rglob("*.partial")):
                    partial.unlink()
            self._group.update_attributes(attributes_of(attrs or {}))
            if shards or memory:
                add_to_memory(self._group, shards, attributes_of(memory or {}))
            self._consolidate()

    def put_group(self, name: str, table: Any) -> None:
        """Write a small dataset as a group of the store; a group of that name is replaced.

        Parameters
        ----------
        name
            Name of the group.
        table
            An xarray dataset.

        Raises
        ------
        FlowError
            If the store cannot be written, or has an array of that name.
        """
        if isinstance(self._group.get(name), zarr.Array):
            raise FlowError(
                f"'{self.location.name}' has an array named '{name}', so it cannot have a group of "
                "that name"
            )
        with self._transaction(f"group {name}"):
            store, path = self._group.store, f"{self.location.group}/{name}".strip("/")
            table.to_zarr(store, group=path, mode="w", zarr_format=3, consolidated=False)
            consolidate(store)

    def _transaction(self, message: str) -> AbstractContextManager[None]:
        message += _of(self.location)
        return transaction(self.location, self._group.store, message)

    def _consolidate(self) -> None:
        """Consolidate the metadata; for a job of a multirun the owner of the root does it."""
        if not self.location.group:
            consolidate(self._group.store)

    def _check(self, arrays: Mapping[str, NDArray[Any]], runs: int) -> None:
        for name in arrays:
            if name not in self._arrays:
                raise FlowError(f"the store has no array '{name}'{nearest(name, self._arrays)}")
        for name, target in self._arrays.items():
            if name not in arrays:
                raise FlowError(f"the array '{name}' is missing from a shard")
            given, shape = arrays[name], (runs, *target.shape[1:])
            if given.shape != shape or given.dtype != target.dtype:
                raise FlowError(
                    f"the array '{name}' of a shard is {given.dtype} {given.shape}; the store "
                    f"needs {target.dtype} {shape}"
                )
        if (arrays[STATUS] == UNWRITTEN).any():
            raise FlowError(f"a status of {UNWRITTEN} means 'not written' and cannot be written")


def _of(location: Location) -> str:
    return f" of {location.group}" if location.group else ""
