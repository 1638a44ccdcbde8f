"""One study's Zarr store: made by xarray, filled shard by shard, opened by anyone.

The store is an xarray Dataset first: xarray writes its schema, so its conventions are xarray's
own. The Dataset is written with no runs at all and its arrays are then lengthened, which changes
one number of their metadata; so nothing of the size of the study is ever made, and no dask is
needed. The bulk goes straight into those arrays through zarr.
"""

from __future__ import annotations

import asyncio
import json
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from attrs import evolve, frozen
from numpy.typing import NDArray
from zarr.core.buffer import cpu
from zarr.core.sync import sync

from cubie_flow.batches.store_names import CHECKSUMS, CONFIG, MEMORY, RUN, STATUS, TIME
from cubie_flow.errors import FlowError, nearest
from cubie_flow.storage.encoding import Encoder, codecs
from cubie_flow.storage.layout import AT_ONCE, ShardPlan
from cubie_flow.storage.location import Location
from cubie_flow.storage.schema import (
    PER_RUN_AND_OCCURRENCE,
    PER_RUN_AND_TIME,
    STATED,
    UNWRITTEN,
    StoreSchema,
    Variable,
    lacks_status,
    plain,
)


@contextmanager
def _transaction(location: Location, store: Any, message: str) -> Iterator[None]:
    """Write what belongs together, in one commit where the store knows commits."""
    with _said(location):
        store.begin()
        yield
        store.commit(message)


@contextmanager
def _said(location: Location, done: str = "written") -> Iterator[None]:
    """Turn what goes wrong with files and networks into one sentence."""
    try:
        yield
    except FlowError:
        raise
    except OSError as error:
        raise location.error(error, done) from error
    except Exception as error:
        # Clients of object stores have errors of their own, and what they say may hold secrets.
        if location.folder is not None:
            raise
        raise location.error(error, done) from None


@frozen(eq=False)
class ResultStore:
    """An open store.

    Attributes
    ----------
    location
        Where it is; another process opens the same store by it.
    plan
        How its runs are cut.
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
        """Make a new store with no run written yet.

        Parameters
        ----------
        path
            A folder, URL or location where there is nothing yet.
        schema
            What the store holds.
        plan
            The cut of its runs, see `cubie_flow.storage.layout.plan_shards`.
        overwrite
            Whether a store that is there already is deleted first.

        Raises
        ------
        FlowError
            Where the place already holds something or cannot be written, or where plan and
            schema speak of different numbers of runs.
        """
        location = Location.of(path)
        if plan.runs != schema.runs:
            raise FlowError(f"the plan is for {plan.runs} runs but the store for {schema.runs}")
        with _said(location):
            if overwrite:
                location.delete()
            location.refuse_what_is_there()
            if location.folder is not None:
                location.folder.mkdir(parents=True, exist_ok=True)
            store = location.store(create=True)
            with _transaction(location, store, f"made for {plan.runs:,} runs{_of(location)}"):
                _write_schema(location, store, schema, plan)
        return cls.open(location)

    @classmethod
    def open(cls, path: str | Path | Location) -> ResultStore:
        """Open a store to read what is complete or to write what is not.

        Raises
        ------
        FlowError
            Where `path` holds no store, or one whose creation was cut short.
        """
        location = Location.of(path)
        name = location.name
        with _said(location, "opened"):
            try:
                if location.folder is not None and not location.folder.is_dir():
                    raise FileNotFoundError(name)  # zarr would make the folder
                group = _open_group(location.store(), location.group)
                arrays = dict(group.arrays())
            except (FileNotFoundError, ValueError) as error:
                raise FlowError(f"'{name}' is not a results store: it has no Zarr group") from error
        if STATUS not in arrays:
            if CHECKSUMS in group:
                raise FlowError(lacks_status(name))
            raise FlowError(f"'{name}' is not a results store: it has no array '{STATUS}'")
        runs = {name: a for name, a in arrays.items() if a.metadata.dimension_names[0] == RUN}
        lengths = {name: array.shape[0] for name, array in runs.items()}
        if len(set(lengths.values())) != 1 or lengths[STATUS] == 0:
            raise FlowError(f"'{name}' was left unfinished while it was made; delete it")
        shard_runs = _shard_runs(runs[STATUS])
        chunk_runs = min(array.chunks[0] for array in runs.values())
        return cls(location, ShardPlan(lengths[STATUS], chunk_runs, shard_runs), group, runs)

    @property
    def path(self) -> Path:
        """The folder of a store that is one, with its group."""
        if self.location.folder is None:
            raise FlowError(f"'{self.location.name}' is no folder")
        return self.location.folder / self.location.group

    @property
    def file_seconds(self) -> float:
        """Seconds spent writing files so far, without encoding."""
        return float(self._group.store.seconds)

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of the root group."""
        return dict(self._group.attrs)

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays every shard must bring, without ``status``."""
        return tuple(name for name in self._arrays if name != STATUS)

    def array(self, name: str) -> zarr.Array[Any]:
        """Return one of the arrays along ``run``."""
        return self._arrays[name]

    def write_shard(self, index: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write one shard: all its data first, its ``status`` last.

        Parameters
        ----------
        index
            Which of ``plan.shards``.
        arrays
            One array for each of `names` and for ``status``, shape ``(runs of the shard,)`` or
            ``(runs of the shard, times)``, in the store's dtypes.

        Raises
        ------
        FlowError
            Where an array is missing, unknown, misshapen or of another dtype, or where the
            folder cannot take it (disk full, permission).
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
            metadata = self._arrays[name].metadata
            key = metadata.encode_chunk_key((index, *(0 for _ in metadata.shape[1:])))
            path = f"{self.location.group}/{name}/{key}".removeprefix("/")
            async with room:
                # Beside the main thread blosc uses one thread, so the bytes are always the same.
                content = await asyncio.to_thread(self._encoders[name].encode, arrays[name])
                if content is None:
                    await store.delete(path)
                else:
                    await store.set(path, cpu.Buffer.from_bytes(content))

        async def put_all() -> None:
            await _all(put(name) for name in names)

        sync(put_all())

    @cached_property
    def _encoders(self) -> dict[str, Encoder]:
        """What makes the bytes of each array."""
        return {name: Encoder.of(array) for name, array in self._arrays.items()}

    def refuse_gaps(self) -> None:
        """Refuse a store that lacks what was written when it was made, beside its arrays.

        Raises
        ------
        FlowError
            Naming what is gone.
        """
        with _said(self.location, "read"):
            groups = [name for name in (MEMORY, CHECKSUMS) if name not in self._group]
        attributes = [name for name in STATED if name not in self.attrs]
        gone = [
            f"its {kind}{'s' * (len(names) > 1)} {', '.join(map(repr, names))}"
            for kind, names in (("group", groups), ("attribute", attributes))
            if names
        ]
        if gone:
            raise FlowError(
                f"'{self.location.name}' was damaged: it lacks {' and '.join(gone)}, so it can be "
                "read but neither checked nor resumed; put back what is gone, or start the study "
                "anew"
            )

    def completed(self) -> set[int]:
        """Return the shards whose ``status`` is written for every run, and can be read."""
        found = set()
        with _said(self.location, "read"):
            for index, (start, stop) in enumerate(self.plan.shards):
                # A file that was cut short is no file: its shard is not complete.
                with suppress(*self._damage):
                    if (self.status(start, stop) != UNWRITTEN).all():
                        found.add(index)
        return found

    @property
    def _damage(self) -> tuple[type[Exception], ...]:
        """What reading raises where bytes are wrong; of a network, a lost connection is not."""
        decoding = (ValueError, RuntimeError)
        return decoding if self.location.folder is None else (*decoding, OSError)

    def damaged(self) -> list[int]:
        """Return the complete shards that do not hold what was written, in order.

        Every array of every complete shard is read and compared with the checksum that was
        recorded when the shard was written.
        """
        bad = []
        complete = sorted(self.completed())
        with _said(self.location, "read"):
            recorded = np.asarray(self._group[CHECKSUMS]["crc32"][:])
            for index in complete:
                start, stop = self.plan.shards[index]
                try:
                    arrays = {name: np.asarray(a[start:stop]) for name, a in self._arrays.items()}
                except self._damage:
                    bad.append(index)
                    continue
                if self._checksum(arrays) != int(recorded[index]):
                    bad.append(index)
        return bad

    def _checksum(self, arrays: Mapping[str, NDArray[Any]]) -> int:
        """Return the CRC-32 of a shard's arrays in order of their names."""
        found = 0
        for name in sorted(self._arrays):
            found = zlib.crc32(np.ascontiguousarray(arrays[name]).view(np.uint8).data, found)
        return found

    def status(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return how the runs from `start` to before `stop` ended."""
        return np.asarray(self._arrays[STATUS][start:stop])

    def status_counts(self) -> dict[int, int]:
        """Return how many runs ended with each status; 255 counts those not yet written."""
        values, counts = np.unique(np.asarray(self._arrays[STATUS][:]), return_counts=True)
        return {int(value): int(count) for value, count in zip(values, counts, strict=True)}

    def grown(self, runs: int) -> ResultStore:
        """Lengthen the store to `runs` runs, keeping its layout, and return it anew.

        A last shard that was not full is no longer complete: its new runs are not written.

        Raises
        ------
        FlowError
            Where `runs` is less than the store already has, or the folder cannot be written.
        """
        if runs < self.plan.runs:
            name = self.location.name
            raise FlowError(f"'{name}' has {self.plan.runs} runs and cannot shrink to {runs}")
        with self._transaction(f"lengthened to {runs:,} runs"):
            for array in self._arrays.values():
                array.resize((runs, *array.shape[1:]))
            grown = ShardPlan(runs, self.plan.chunk_runs, self.plan.shard_runs)
            self._group[CHECKSUMS]["crc32"].resize((len(grown.shards),))
            _consolidate(self.location, self._group.store)
        return ResultStore.open(self.location)

    def finalise(
        self,
        attrs: Mapping[str, Any] | None = None,
        memory: Mapping[str, Any] | None = None,
        shards: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Add what is known only at the end, and gather all metadata in one file.

        For when no writer is left: files that a killed process left half-written are removed.

        Parameters
        ----------
        attrs
            More attributes of the root.
        memory
            More attributes of ``/memory``: what was measured.
        shards
            One row a shard, with the run it starts at as ``start``, added to ``/memory`` along
            ``shard``; a row that is there already is replaced.

        Raises
        ------
        FlowError
            Where the folder cannot be written.
        """
        with self._transaction("finished" if attrs else "stopped"):
            if self.location.folder is not None:
                for partial in list(self.path.rglob("*.partial")):
                    partial.unlink()
            self._group.update_attributes(plain(attrs or {}))
            if shards or memory:
                _add_to_memory(self._group, shards, plain(memory or {}))
            _consolidate(self.location, self._group.store)

    def put_group(self, name: str, table: Any) -> None:
        """Write a small dataset as a group of the store, in place of one of that name.

        Parameters
        ----------
        name
            Of the group.
        table
            An xarray dataset.

        Raises
        ------
        FlowError
            Where the store cannot be written, or has an array of that name.
        """
        if isinstance(self._group.get(name), zarr.Array):
            raise FlowError(
                f"'{self.location.name}' has an array named '{name}', so it cannot have a group of "
                "that name"
            )
        with self._transaction(f"group {name}"):
            store, path = self._group.store, f"{self.location.group}/{name}".strip("/")
            table.to_zarr(store, group=path, mode="w", zarr_format=3, consolidated=False)
            _consolidate(evolve(self.location, group=""), store)

    def _transaction(self, message: str) -> AbstractContextManager[None]:
        message += _of(self.location)
        return _transaction(self.location, self._group.store, message)

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


def _open_group(store: Any, path: str) -> zarr.Group:
    return zarr.open_group(store, path=path, mode="r+", use_consolidated=False, zarr_format=3)


def _write_schema(location: Location, store: Any, schema: StoreSchema, plan: ShardPlan) -> None:
    """Write everything but the bulk.

    The files are made in memory and put in place together: the jobs of a multirun that hold the
    same arrays share the making, and an object store is asked once for all and not file by file.
    """
    layout = repr((schema.runs, schema.variables, schema.coordinates, schema.counters,
                   dict(schema.status_flags), schema.time_unit, plan))  # fmt: skip
    times = b"" if schema.time is None else schema.time.tobytes()
    files = {
        **_remembered(("arrays", layout, times), lambda made: _make_arrays(made, schema, plan)),
        **{
            f"{MEMORY}/{name}": content
            for name, content in _remembered(
                (MEMORY, repr(schema.memory)), lambda made: _make_memory(made, schema)
            ).items()
        },
    }
    held = (("", schema.attrs), (f"{MEMORY}/", schema.plan), (f"{CONFIG}/", schema.config))
    for group, attrs in held:
        files[f"{group}zarr.json"] = _with_attributes(files[f"{group}zarr.json"], attrs)
    if location.group and not sync(store.exists("zarr.json")):
        zarr.create_group(store, zarr_format=3)  # of all jobs that share the store
    prefix = f"{location.group}/" if location.group else ""
    # Without its status a store is none, so one that is left half made is not taken for whole.
    # A repository of Icechunk wants the metadata of an array before its chunks.
    last = f"{STATUS}/zarr.json"
    metadata = {name for name in files if name.endswith("zarr.json")}
    for names in (metadata - {last}, files.keys() - metadata, {last}):
        sync(_put(store, {f"{prefix}{name}": files[name] for name in sorted(names)}))
    _consolidate(location, store)


async def _all(tasks: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Wait until all tasks have ended, whether or not one fails, then raise the first failure."""
    for found in await asyncio.gather(*tasks, return_exceptions=True):
        if found is not None:
            raise found


async def _put(store: Any, files: Mapping[str, Any]) -> None:
    await _all(store.set(name, content) for name, content in files.items())


#: Files by what they were made from, of the last layouts.
_MADE: OrderedDict[tuple[Any, ...], dict[str, Any]] = OrderedDict()


def _remembered(key: tuple[Any, ...], make: Callable[[Any], None]) -> dict[str, Any]:
    """Return the files that `make` writes into an empty store; the last 64 are kept."""
    if key not in _MADE:
        made: dict[str, Any] = {}
        make(zarr.storage.MemoryStore(made))
        _MADE[key] = made
    _MADE.move_to_end(key)
    while len(_MADE) > 64:
        _MADE.popitem(last=False)
    return _MADE[key]


def _with_attributes(content: Any, attrs: Mapping[str, Any]) -> Any:
    """Return the metadata of a group with other attributes."""
    document = {**json.loads(content.to_bytes()), "attributes": plain(attrs)}
    return type(content).from_bytes(json.dumps(document, indent=2).encode())


def _make_memory(store: Any, schema: StoreSchema) -> None:
    import xarray as xr

    table = xr.Dataset(_columns(schema.memory))
    table.to_zarr(store, mode="a", zarr_format=3, consolidated=False)


def _make_arrays(store: Any, schema: StoreSchema, plan: ShardPlan) -> None:
    import xarray as xr

    times = 0 if schema.time is None else schema.time.size
    chunk_bytes = plan.chunk_runs * schema.bytes_per_run_largest_variable
    encoding: dict[str, dict[str, Any]] = {}

    def empty(variable: Variable) -> tuple[tuple[str, ...], NDArray[Any], dict[str, Any]]:
        inner = (times,) if variable.dims == PER_RUN_AND_TIME else ()
        if variable.dims == PER_RUN_AND_OCCURRENCE:
            inner = (variable.length,)
        chunk_runs = plan.chunk_runs_for(schema.bytes_per_run(variable), chunk_bytes)
        layout: dict[str, Any] = {"chunks": (chunk_runs, *inner), "compressors": codecs()}
        if chunk_runs < plan.shard_runs:
            layout["shards"] = (plan.shard_runs, *inner)
        if variable.dtype.kind == "f":
            layout["_FillValue"] = variable.dtype.type("nan")
        encoding[variable.name] = layout
        return variable.dims, np.empty((0, *inner), variable.dtype), variable.attributes

    flags = {**schema.status_flags, UNWRITTEN: "not_written"}
    status = Variable(
        STATUS,
        (RUN,),
        "uint8",
        long_name="how the run ended",
        attrs={
            "flag_values": list(flags),
            "flag_meanings": " ".join("_".join(meaning.split()) for meaning in flags.values()),
        },
    )
    coordinates = {variable.name: empty(variable) for variable in schema.coordinates}
    if schema.time is not None:
        attributes = Variable(TIME, unit=schema.time_unit, long_name="time").attributes
        coordinates[TIME] = ((TIME,), schema.time, attributes)
        encoding[TIME] = {"_FillValue": None}  # a coordinate has no missing values (CF 2.5.1)
    data = {v.name: empty(v) for v in (*schema.variables, *schema.counters, status)}
    # A status chunk is a whole shard, so that completing a shard is the writing of one file.
    encoding[STATUS] = {
        "chunks": (plan.shard_runs,),
        "compressors": codecs(),
        "fill_value": UNWRITTEN,
    }
    root = xr.Dataset(data, coordinates)
    root.to_zarr(store, mode="a", zarr_format=3, consolidated=False, encoding=encoding)
    group = _open_group(store, "")
    group.create_group(CONFIG)
    for _, array in group.arrays():
        if array.metadata.dimension_names[0] == RUN:
            array.resize((schema.runs, *array.shape[1:]))
    # One chunk a shard: two writers never share one, and a shard's is written with it.
    group.create_group(CHECKSUMS).create_array(
        "crc32", shape=(len(plan.shards),), chunks=(1,), dtype="uint32", fill_value=0,
        dimension_names=("shard",), compressors=None,
        attributes={"long_name": "CRC-32 of a shard's arrays in order of their names"},
    )  # fmt: skip


def _add_to_memory(
    root: zarr.Group, shards: Sequence[Mapping[str, Any]], attrs: Mapping[str, Any]
) -> None:
    import xarray as xr

    group, store = root[MEMORY], root.store
    prefix = f"{group.path}/"
    # What an interrupted run measured is kept, unless a shard was done anew; no size of an array
    # is changed, so the columns are written afresh.
    old: dict[str, Any] = {}
    if sync(store.exists(f"{prefix}start/zarr.json")):
        old = {n: a[:] for n, a in group.arrays() if a.metadata.dimension_names == ("shard",)}
        for name in old:
            del group[name]
    kept = [dict(zip(old, row, strict=True)) for row in zip(*old.values(), strict=True)]
    rows = {row["start"]: row for row in (*kept, *shards)}
    columns = _columns([rows[start] for start in sorted(rows)], "shard")

    def make(made: Any) -> None:
        xr.Dataset(columns).to_zarr(made, mode="a", zarr_format=3, consolidated=False)

    kinds = repr([(name, values.dtype.str, len(values)) for name, (_, values) in columns.items()])
    files = dict(_remembered(("shards", kinds), make))
    table = _open_group(zarr.storage.MemoryStore(files), "")
    for name, (_, values) in columns.items():
        table[name][:] = values
    for chunks in (False, True):
        part = {n: c for n, c in files.items() if "/" in n and chunks != n.endswith("zarr.json")}
        sync(_put(store, {f"{prefix}{name}": content for name, content in part.items()}))
    group.update_attributes(attrs)


def _columns(
    rows: Sequence[Mapping[str, Any]], dim: str = "buffer"
) -> dict[str, tuple[str, NDArray[Any]]]:
    """Turn rows into columns along `dim`; a number that a row lacks is NaN."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    columns: dict[str, tuple[str, NDArray[Any]]] = {}
    for name in names:
        values = [row.get(name) for row in rows]
        known = [value for value in values if value is not None]
        if all(isinstance(value, bool | int | float | np.number) for value in known):
            numbers = [np.nan if value is None else value for value in values]
            columns[name] = (dim, np.asarray(numbers))
        else:
            text = ["" if value is None else str(value) for value in values]
            columns[name] = (dim, np.asarray(text, dtype=object))
    return columns


def _consolidate(location: Location, store: Any) -> None:
    """Gather the metadata of a whole store in one file; of a group, its tree's owner does it."""
    if location.group or not store.supports_consolidated_metadata:
        return
    with warnings.catch_warnings():
        # zarr warns that consolidated metadata is not in the format's text yet; readers that do
        # not know it read the same metadata array by array.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(store, zarr_format=3)


def _shard_runs(array: zarr.Array[Any]) -> int:
    return int((array.shards or array.chunks)[0])
