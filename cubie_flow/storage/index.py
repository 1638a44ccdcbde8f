"""The store of a multirun: one group per job, and a table of the jobs at the root."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr

from cubie_flow.errors import FlowError
from cubie_flow.storage.groups import consolidate, open_group, reported, transaction
from cubie_flow.storage.inspection import MARK, read_root
from cubie_flow.storage.location import Location
from cubie_flow.storage.schema import CONVENTIONS, attributes_of

JOB = "job"
#: Values of ``job_status``: how a job ended.
SUCCESS, FAILED, STOPPED, PENDING = 0, 1, 2, 255
STATES = {SUCCESS: "success", FAILED: "failed", STOPPED: "stopped", PENDING: "not_done"}
#: Columns of the table: dtype ("text" is a string), units and meaning.
COLUMNS: dict[str, tuple[str, str, str]] = {
    "overrides": ("text", "", "overrides that differ between the jobs"),
    "group": ("text", "", "group of the store that holds the job's results"),
    "job_status": ("uint8", "", "how the job ended"),
    "error": ("text", "", "why it failed"),
    "runs": ("int64", "1", "runs of the job"),
    "runs_failed": ("int64", "1", "runs that did not end well"),
    "mean_steps": ("float64", "1", "mean accepted steps of the runs"),
    "mean_rejected": ("float64", "1", "mean rejected steps of the runs"),
    "runs_per_second": ("float64", "s-1", "runs by the seconds of the kernel"),
    "seconds_total": ("float64", "s", "the whole job"),
    "seconds_build": ("float64", "s", "compiling or loading the kernel"),
    "seconds_kernel": ("float64", "s", "integrating"),
    "seconds_write": ("float64", "s", "encoding and writing"),
    "store_bytes": ("int64", "byte", "size of the group"),
    "config": ("text", "", "composed config of the job, interpolations unresolved"),
}
Row = dict[str, Any]


def group_name(job: int) -> str:
    """Return the group of a job."""
    return f"job_{job}"


def write_index(
    location: Location,
    rows: Sequence[Mapping[str, Any]],
    attrs: Mapping[str, Any],
    swept: Sequence[str] = (),
    *,
    finished: bool = False,
) -> None:
    """Write the table of the jobs at the root of a multirun's store.

    Parameters
    ----------
    location
        The root.
    rows
        One row per job, in order: `COLUMNS`, and a text for each of `swept`. A missing number is
        NaN, or 0 in a column of integers.
    attrs
        Attributes of the root.
    swept
        Keys that differ between the jobs; each is a coordinate along ``job``.
    finished
        Whether no writer is left; then the metadata is consolidated.

    Raises
    ------
    FlowError
        If the store cannot be written.
    """
    import xarray as xr

    data: dict[str, Any] = {}
    for name, (dtype, unit, meaning) in COLUMNS.items():
        column: dict[str, Any] = {"long_name": meaning}
        if unit:
            column["units"] = unit
        if name == "job_status":
            column["flag_values"] = np.array(list(STATES), np.uint8)
            column["flag_meanings"] = " ".join(STATES.values())
        data[name] = ((JOB,), _column(rows, name, dtype), column)
    done = [row for row in rows if row.get("job_status") == SUCCESS]
    ended = Counter(STATES[row.get("job_status", PENDING)] for row in rows)
    totals = {
        "jobs_ended": json.dumps(ended),
        "runs": sum(row.get("runs") or 0 for row in done),
        "runs_failed": sum(row.get("runs_failed") or 0 for row in done),
    }
    coordinates: dict[str, Any] = {
        key: ((JOB,), _column(rows, key, "text"), {"long_name": f"value of {key}"}) for key in swept
    }
    coordinates[JOB] = ((JOB,), np.arange(len(rows)), {"long_name": "number of the job"})
    about = {"Conventions": CONVENTIONS, **attributes_of(attrs), **totals}
    about |= {MARK: len(rows), "swept": list(swept)}
    table = xr.Dataset(data, coordinates, about)
    with reported(location):
        store = location.store(create=True)
    with transaction(location, store, "table of the jobs"):
        table.to_zarr(
            store,
            group=location.group or None,
            mode="a",
            zarr_format=3,
            consolidated=False,
            # With xarray's fill value a status of 255 would be read as missing.
            encoding={} if _exists(location) else {"job_status": {"fill_value": PENDING}},
        )
        if finished:
            consolidate(store, location.group)


def _column(rows: Sequence[Mapping[str, Any]], name: str, dtype: str) -> np.ndarray[Any, Any]:
    if dtype == "text":
        return np.array([str(row.get(name) or "") for row in rows], object)
    missing = np.nan if dtype == "float64" else 0
    values = [missing if row.get(name) is None else row[name] for row in rows]
    return np.array(values, dtype)


def _exists(location: Location) -> bool:
    return "job_status" in (_root(location) or {})


def _root(location: Location) -> zarr.Group | None:
    """Return the root of a store, None if there is none."""
    with reported(location, "opened"):
        try:
            if location.folder is None or location.folder.is_dir():
                if location.folder is not None:
                    read_root(location.folder / location.group)
                return open_group(location.store(), location.group, "r")
        except FlowError:
            raise
        except (FileNotFoundError, ValueError, NotADirectoryError):
            pass
    return None


def is_multirun(location: Location) -> bool:
    """Return whether a location holds the store of a multirun."""
    root = _root(location)
    return root is not None and MARK in root.attrs


def read_index(location: Location) -> tuple[list[Row], dict[str, Any]]:
    """Return the table of the jobs, one row per job, and the attributes of the root.

    Raises
    ------
    FlowError
        If there is no such table, or it names other groups than it may.
    """
    root = _root(location)
    if root is None or MARK not in root.attrs:
        raise FlowError(f"'{location.name}' is not the store of a multirun")
    attrs = dict(root.attrs)
    names = [*COLUMNS, *attrs["swept"]]
    columns = {name: root[name][:].tolist() for name in names}
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    for job, row in enumerate(rows):
        if row["group"] != group_name(job):
            raise FlowError(
                f"'{location.name}' is damaged: its table says that job {job} is in the group "
                f"{row['group']!r:.60}, not in {group_name(job)}"
            )
    return rows, attrs
