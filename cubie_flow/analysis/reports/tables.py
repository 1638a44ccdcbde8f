"""The tables of a report, made from a result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen

from cubie_flow.analysis.pictures.reading import Array, metrics, quantiles
from cubie_flow.analysis.pictures.style import unit_of
from cubie_flow.analysis.runs import swept
from cubie_flow.study.tolerance_record import ranged, recorded_atol

if TYPE_CHECKING:
    from pandas import DataFrame
    from xarray import DataArray, Dataset

#: Most rows of a table, and most metrics.
ROWS, METRICS = 60, 40


@frozen
class Table:
    """A table of texts.

    Attributes
    ----------
    caption
    head
        Names of the columns; the first column names the rows.
    rows
    note
        Number and place of the rows that are not shown.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def table(
    caption: str,
    head: Sequence[str],
    rows: Iterable[Sequence[Any]],
    total: int | None = None,
    where: str = "in the store",
) -> Table | None:
    """Return a table of the first `ROWS` rows, without columns that are empty in all of them.

    Parameters
    ----------
    caption : str
    head : sequence of str
    rows : iterable of sequences
        Texts and numbers.
    total : int, optional
        Number of rows, if `rows` are only the first of them.
    where : str
        Where the other rows are.

    Returns
    -------
    Table or None
        None if there are no rows.
    """
    texts = [[number(cell) for cell in row] for row in rows]
    if not texts:
        return None
    more, texts = (total or len(texts)) - min(len(texts), ROWS), texts[:ROWS]
    kept = [i for i in range(len(head)) if i == 0 or any(row[i] for row in texts)]
    note = f"{more:,} more are {where}." if more > 0 else ""
    return Table(caption, [head[i] for i in kept], [[row[i] for i in kept] for row in texts], note)


def number(value: Any) -> str:
    """Return a number as text: four digits, or a whole number with separators."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return str(value)
    if isinstance(value, int | np.integer):
        return f"{int(value):,}"
    return f"{float(value):.4g}" if np.isfinite(value) else "none"


def size_text(count: float) -> str:
    """Return a number of bytes as text."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,.0f} B"


def equations(system: Mapping[str, Any]) -> Table | None:
    """Return states with their equations, definitions, observables and parameters."""
    units, names = system.get("units", {}), system.get("long_names", {})
    derivatives = system.get("equations", {})
    rows = [
        [name, "state", f"d{name}/dt = {derivatives.get(name, '?')}", f"starts at {number(value)}"]
        for name, value in system.get("states", {}).items()
    ]
    for group, kind in (("definitions", "definition"), ("observables", "observable")):
        rows += [[n, kind, f"{n} = {text}", ""] for n, text in system.get(group, {}).items()]
    rows += [
        [name, "parameter", "", number(value)]
        for name, value in system.get("parameters", {}).items()
    ]
    full = [
        [*row, "" if units.get(row[0], "1") == "1" else units[row[0]], names.get(row[0], "")]
        for row in rows
    ]
    return table("The model", ["name", "kind", "equation", "value", "unit", "meaning"], full)


def varied(data: Dataset, kind: str | None, sample: Array) -> Table | None:
    """Return what varies between the runs.

    Parameters
    ----------
    data : xarray.Dataset
    kind : str or None
        Kind of the design.
    sample : ndarray of int
        Positions of the runs whose quantiles are computed.
    """
    head = ["quantity", "lowest", "median", "highest", "unit", "meaning"]
    rows = [
        [name, *_distribution(data[name], (0.5,), sample), *_meaning(data[name])]
        for name in swept(data)
    ]
    made = f" ({kind.replace('_', ' ')})" if kind else ""
    return table(f"What varies between the {data.sizes['run']:,} runs{made}", head, rows)


def spread(data: Dataset, sample: Array) -> Table | None:
    """Return how the metrics are distributed over the runs; see `varied`."""
    head = ["name", "lowest", "5 %", "median", "95 %", "highest", "unit", "meaning"]
    names = metrics(data)
    rows = [
        [name, *_distribution(data[name], (0.05, 0.5, 0.95), sample), *_meaning(data[name])]
        for name in names[:METRICS]
    ]
    return table("Metrics of the runs: their distribution", head, rows, len(names))


def _distribution(array: DataArray, shares: Sequence[float], sample: Array) -> list[float]:
    """Return the lowest value of all runs, quantiles of a sample of them, and the highest value."""
    values = array.to_numpy()
    inner = quantiles(values[sample].astype(np.float64), shares).tolist()
    if values.size and not np.isfinite([values.min(), values.max()]).all():
        values = values[np.isfinite(values)]
    if not values.size:
        return [np.nan] * (len(shares) + 2)
    return [float(values.min()), *inner, float(values.max())]


def _meaning(array: DataArray) -> tuple[str, str]:
    text = str(array.attrs.get("long_name", ""))
    return unit_of(array), "" if text == array.name else text


def settings(config: Mapping[str, Any], attrs: Mapping[str, Any]) -> Table | None:
    """Return how the study was integrated."""
    controller, batch = config.get("controller") or {}, config.get("batch") or {}
    output, target = config.get("output") or {}, config.get("target") or {}
    atol = recorded_atol(attrs)
    rows = [
        ["method", attrs.get("algorithm", "")],
        ["precision", config.get("precision")],
        ["duration", config.get("duration")],
        ["relative tolerance", controller.get("rtol")],
        ["absolute tolerance", ranged(atol) if atol else controller.get("atol")],
        ["step control", controller.get("kind")],
        ["batch", batch.get("kind")],
        ["saved every", output.get("save_every")],
        ["target", target.get("kind")],
        ["rescue", config.get("rescue")],
        ["device", attrs.get("device")],
    ]
    known = [row for row in rows if row[1] not in (None, "", False)]
    return table("How it was integrated", ["setting", "value"], known)


def statuses(summary: Mapping[str, Any]) -> Table | None:
    """Return how many runs ended in each way; `summary` holds the values of a `Summary`."""
    total, remedies = max(summary["runs"], 1), summary["remedies"]
    rows = [
        [name.replace("_", " "), count, _share(count, total), remedies.get(name, "")]
        for name, count in summary["statuses"].items()
    ]
    return table("Runs by status", ["status", "runs", "share", "what to do"], rows)


def _share(count: int, total: int) -> str:
    share = 100 * count / total
    return f"{share:.1f} %" if share >= 0.1 or not count else "under 0.1 %"


#: What is both predicted and measured, by its name in the store, and whether it is in bytes.
_PREDICTED = {
    "host_bytes": ("memory of the process at its peak", True),
    "device_bytes": ("memory of the GPU", True),
    "buffer_bytes": ("buffers of all threads", True),
    "shard_bytes": ("one shard of results", True),
    "store_bytes": ("the store on disk", True),
    "threads": ("CPU threads", False),
}


def memory(attrs: Mapping[str, Any]) -> Table | None:
    """Return predicted and measured memory, from the attributes of the group ``/memory``."""
    rows = []
    for name, (text, is_bytes) in _PREDICTED.items():
        plan, real = (attrs.get(f"{word}_{name}") for word in ("predicted", "measured"))
        if not (plan or real):
            continue
        ratio = f"{real / plan:.0%}" if plan and real is not None else ""
        show = size_text if is_bytes else number
        rows.append([text, *("" if v is None else show(v) for v in (plan, real)), ratio])
    head = ["what", "predicted", "measured", "measured / predicted"]
    return table("Memory: predicted and measured", head, rows)


def compiler(attrs: Mapping[str, Any]) -> Table | None:
    """Return what the compiler reported, from the attributes of the group ``/memory``."""
    rows = _with_prefix(attrs, "compiler_", " ")
    return table("What the compiler reports", ["figure", "value"], rows)


def buffers(rows: DataFrame) -> Table | None:
    """Return the table of buffers, from `FlowAccessor.buffers`."""
    names = ("location", "dtype", "elements", "bytes", "offset", "owner")
    shown = rows[[name for name in names if name in rows]].reset_index()
    cells = shown.astype(object).to_numpy().tolist()
    where = "in the group /memory of the store"
    return table("Buffers of one run", list(shown.columns), cells, where=where)


def times(seconds: Mapping[str, float]) -> Table | None:
    """Return how long each phase took."""
    phases = {
        "plan": "planning",
        "build": "building the kernel",
        "store": "making the store",
        "solve": "solving and writing the shards",
        "kernel": "of which the kernel",
        "write": "of which encoding and writing, in parallel",
        "finish": "finishing the store",
        "solver_waited": "the solver waited for the writer",
        "writer_waited": "the writer waited for the solver",
        "total": "total",
    }
    rows = [[text, f"{seconds[name]:.2f} s"] for name, text in phases.items() if name in seconds]
    return table("Time per phase", ["phase", "time"], rows)


def provenance(attrs: Mapping[str, Any]) -> Table | None:
    """Return when, where and with which versions the result was made."""
    names = {
        "created": "begun (UTC)",
        "completed": "completed (UTC)",
        "git_commit": "git commit",
        "system_hash": "hash of the model",
        "device": "device",
        "cpu": "processor",
        "platform": "platform",
        "python": "Python",
    }
    rows = [[text, attrs[name]] for name, text in names.items() if attrs.get(name)]
    rows += _with_prefix(attrs, "version_", "-")
    if "schema_version" in attrs:
        rows.append(["layout of the store", f"version {attrs['schema_version']}"])
    return table("Origin", ["what", "value"], rows)


def _with_prefix(attrs: Mapping[str, Any], prefix: str, separator: str) -> list[list[Any]]:
    """Return name and value of the attributes with a prefix."""
    return [
        [name.removeprefix(prefix).replace("_", separator), value]
        for name, value in attrs.items()
        if name.startswith(prefix)
    ]
