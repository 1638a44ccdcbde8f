"""Gathering what a report says, and writing it."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen

from cubie_flow.analysis import describe, groups
from cubie_flow.analysis.pictures import drawer
from cubie_flow.analysis.pictures.reading import as_float, metrics, quantiles, saved, swept
from cubie_flow.analysis.reports import charts
from cubie_flow.errors import FlowError
from cubie_flow.study.tolerance_record import ranged, recorded_atol

if TYPE_CHECKING:
    from xarray import DataArray, Dataset

    from cubie_flow.analysis.pictures.style import Picture

#: Inches of a picture across, and dots an inch.
NARROW, SHARP = 6.4, 150
STATES_SHOWN, BUFFERS_SHOWN = 60, 60


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
        What is left out.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    @property
    def filled(self) -> Table:
        """The table without columns that are empty in every row."""
        kept = [i for i in range(len(self.head)) if i == 0 or any(row[i] for row in self.rows)]
        rows = [[row[i] for i in kept] for row in self.rows]
        return Table(self.caption, [self.head[i] for i in kept], rows, self.note)


@frozen
class Figure:
    """A picture as it stands in the page: PNG in text, what it shows, and its caption."""

    source: str
    description: str
    caption: str


def write_report(data: Dataset, target: str | Path) -> Path:
    """Write the report of a result: one file that needs no network and no other file.

    Parameters
    ----------
    data : xarray.Dataset
        A result opened with `cubie_flow.open_results`.
    target : path
        The ``.html`` file; one that is there is replaced.

    Raises
    ------
    FlowError
        If the file cannot be written, or the dataset holds no runs.
    """
    path = Path(target)
    if path.suffix.lower() not in (".html", ".htm"):
        raise FlowError(f"the report is '{target}'; it must end in .html")
    text = page(data)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise FlowError(f"the report '{target}' cannot be written: {reason}") from error
    return path


def page(data: Dataset) -> str:
    """Return the report as HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cubie_flow.analysis", "reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    here = files("cubie_flow.analysis.reports")

    def asset(name: str) -> str:
        return here.joinpath(name).read_text(encoding="utf-8")

    return environment.get_template("report.html.j2").render(content(data), asset=asset)


def content(data: Dataset) -> dict[str, Any]:
    """Return everything that the page shows, by the names its template uses."""
    attrs = data.attrs
    told = describe.summary(data).values
    system = json.loads(attrs.get("system", "{}"))
    config = describe.config(data) if "config" in attrs else {}
    memory = _memory(data)
    explored = {"time": charts.over_time(data), "quantities": charts.over_quantities(data)}
    return {
        "title": str(attrs.get("title") or attrs.get("study") or "Result"),
        "study": str(attrs.get("study", "")),
        "summary": [list(fact) for fact in describe.summary(data).facts if fact[0] != "remedy"],
        "model": {name: str(system.get(name, "")) for name in ("description", "source")},
        "equations": _equations(system),
        "swept": _swept(data, told),
        "settings": _settings(config, attrs),
        "statuses": _statuses(told),
        "numbers": _numbers(data),
        "figures": _figures(data),
        "explored": explored,
        "memory": _planned(memory),
        "compiler": _compiler(memory),
        "buffers": _buffers(memory),
        "times": _times(attrs),
        "provenance": _provenance(attrs),
        "command": _command(attrs),
        "changed": bool(attrs.get("git_modified")),
        "config": str(attrs.get("config", "")),
    }


def _memory(data: Dataset) -> Dataset | None:
    """Return the group ``/memory`` of the store, or None for a dataset made in memory."""
    try:
        return groups.group(data, "memory").load()
    except FlowError:
        return None


# tables -------------------------------------------------------------------------------------------


def _number(value: Any) -> str:
    """Return a number as people read it."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return str(value)
    if isinstance(value, int | np.integer):
        return f"{int(value):,}"
    return f"{float(value):.4g}" if np.isfinite(value) else "none"


def _equations(system: Mapping[str, Any]) -> Table | None:
    """Return states with their equations, parameters and observables."""
    units, names = system.get("units", {}), system.get("long_names", {})
    equations = system.get("equations", {})
    rows = []
    for name, value in system.get("states", {}).items():
        said = f"d{name}/dt = {equations.get(name, '?')}"
        rows.append([name, "state", said, f"starts at {_number(value)}"])
    for group, kind in (("definitions", "definition"), ("observables", "observable")):
        rows += [[n, kind, f"{n} = {text}", ""] for n, text in system.get(group, {}).items()]
    for name, value in system.get("parameters", {}).items():
        rows.append([name, "parameter", "", _number(value)])
    full = [
        [*row, "" if units.get(row[0], "1") == "1" else str(units[row[0]]), names.get(row[0], "")]
        for row in rows
    ]
    if not full:
        return None
    head = ["name", "kind", "equation", "value", "unit", "meaning"]
    more = len(full) - STATES_SHOWN
    note = f"{more:,} more rows are in the store." if more > 0 else ""
    return Table("The model", head, full[:STATES_SHOWN], note)


def _swept(data: Dataset, told: Mapping[str, Any]) -> Table | None:
    rows = []
    for name in swept(data):
        low, middle, high = quantiles(as_float(data[name]), (0.0, 0.5, 1.0))
        rows.append([name, _number(low), _number(middle), _number(high), *_meaning(data[name])])
    if not rows:
        return None
    kind = str(told.get("design") or "").replace("_", " ")
    caption = f"What varies between the {told['runs']:,} runs{f' ({kind})' if kind else ''}"
    return Table(caption, ["quantity", "lowest", "median", "highest", "unit", "meaning"], rows)


def _meaning(array: DataArray) -> tuple[str, str]:
    unit, text = str(array.attrs.get("units", "")), str(array.attrs.get("long_name", ""))
    return "" if unit == "1" else unit, "" if text == array.name else text


def _settings(config: Mapping[str, Any], attrs: Mapping[str, Any]) -> Table:
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
    shown = [[name, _number(value)] for name, value in rows if value not in (None, "", False)]
    return Table("How it was integrated", ["setting", "value"], shown)


def _statuses(told: Mapping[str, Any]) -> Table:
    counts, total = told["statuses"], max(told["runs"], 1)
    rows = [
        [name.replace("_", " "), f"{n:,}", _share(n, total), told["remedies"].get(name, "")]
        for name, n in counts.items()
    ]
    return Table("Runs by status", ["status", "runs", "share", "what to do"], rows)


def _share(count: int, total: int) -> str:
    share = 100 * count / total
    return f"{share:.1f} %" if share >= 0.1 or not count else "under 0.1 %"


def _numbers(data: Dataset) -> Table | None:
    rows = []
    names = metrics(data)
    for name in names[:40]:
        shares = quantiles(as_float(data[name]), (0.0, 0.05, 0.5, 0.95, 1.0))
        unit, text = _meaning(data[name])
        rows.append([name, *(_number(share) for share in shares), unit, text])
    if not rows:
        return None
    head = ["name", "lowest", "5 %", "median", "95 %", "highest", "unit", "meaning"]
    more = len(names) - len(rows)
    note = f"{more:,} more are in the store." if more > 0 else ""
    return Table("One number of each run: how the runs are spread", head, rows, note)


#: What is both planned and measured, by its name in the store, and whether it is bytes.
_PAIRS = {
    "host_bytes": ("memory of the process at its peak", True),
    "device_bytes": ("memory of the GPU", True),
    "buffer_bytes": ("buffers of all threads", True),
    "shard_bytes": ("one shard of results", True),
    "store_bytes": ("the store on disk", True),
    "threads": ("CPU threads", False),
}


def _planned(memory: Dataset | None) -> Table | None:
    if memory is None:
        return None
    rows = []
    for name, (text, size) in _PAIRS.items():
        plan, found = (memory.attrs.get(f"{word}_{name}") for word in ("predicted", "measured"))
        if (plan is None and found is None) or not (plan or found):
            continue
        ratio = f"{found / plan:.0%}" if plan and found is not None else ""
        shown = [("" if v is None else _bytes(v) if size else f"{v:,}") for v in (plan, found)]
        rows.append([text, *shown, ratio])
    if not rows:
        return None
    head = ["what", "planned", "measured", "measured by planned"]
    return Table("Memory: the plan beside what was measured", head, rows)


def _bytes(value: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:,.1f} {unit}"
    return f"{value:,.0f} B"


def _compiler(memory: Dataset | None) -> Table | None:
    if memory is None:
        return None
    rows = [
        [name.removeprefix("compiler_").replace("_", " "), _number(value)]
        for name, value in memory.attrs.items()
        if name.startswith("compiler_")
    ]
    return Table("What the compiler reports", ["figure", "value"], rows) if rows else None


def _buffers(memory: Dataset | None) -> Table | None:
    if memory is None or not memory.sizes.get("buffer"):
        return None
    names = [
        n for n in ("location", "dtype", "elements", "bytes", "offset", "owner") if n in memory
    ]
    columns = [memory[name].values.tolist() for name in ("buffer", *names)]
    rows = [[_number(cell) for cell in row] for row in zip(*columns, strict=True)]
    more = len(rows) - BUFFERS_SHOWN
    note = f"{more:,} more are in the group /memory of the store." if more > 0 else ""
    return Table("Buffers of one run", ["buffer", *names], rows[:BUFFERS_SHOWN], note)


def _times(attrs: Mapping[str, Any]) -> Table | None:
    words = {
        "build": "building the kernel",
        "kernel": "solving",
        "write": "encoding and writing, meanwhile",
        "solver_waited": "the solver waited for the writer",
        "writer_waited": "the writer waited for the solver",
        "total": "all of it",
    }
    rows = [
        [text, f"{attrs[f'seconds_{name}']:.2f} s"]
        for name, text in words.items()
        if f"seconds_{name}" in attrs
    ]
    return Table("Where the time went", ["what", "time"], rows) if rows else None


def _provenance(attrs: Mapping[str, Any]) -> Table:
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
    rows = [[text, str(attrs[name])] for name, text in names.items() if attrs.get(name)]
    rows += [
        [name.removeprefix("version_").replace("_", "-"), str(value)]
        for name, value in attrs.items()
        if name.startswith("version_")
    ]
    if "schema_version" in attrs:
        rows.append(["layout of the store", f"version {attrs['schema_version']}"])
    return Table("Where it came from", ["what", "value"], rows)


def _command(attrs: Mapping[str, Any]) -> str:
    """Return the command line that makes the result again; empty for one made in Python."""
    if "overrides" not in attrs or not attrs.get("config"):
        return ""
    return shlex.join(["python", "-m", "cubie_flow", *map(str, attrs["overrides"])])


# pictures -----------------------------------------------------------------------------------------


def _figures(data: Dataset) -> list[Figure]:
    """Return the pictures that suit the result."""
    varied, kept = swept(data), saved(data)
    many = data.sizes["run"] > 1
    found = [_figure(drawer("overview"), data, "What the result holds")]
    if len(varied) == 1 and many and kept:  # else the overview is this
        found.append(_figure(drawer("bands"), data, "The runs over time"))
    if len(varied) >= 2 and many:
        caption = f"Over {varied[0]} and {varied[1]}; the mean where several runs meet"
        found.append(_figure(drawer("heatmap"), data, caption))
    # One shard has no timeline, and results made in memory or before shards were timed have none.
    with suppress(FlowError):
        if groups.group(data, "memory").sizes.get("shard", 0) > 1:
            found.append(_figure(drawer("stalls"), data, "When the shards were solved and written"))
    return found


def _figure(draw: Callable[[Dataset], Picture], data: Dataset, caption: str) -> Figure:
    picture = draw(data)
    # A narrower sheet makes letters larger beside the rest, for phones.
    _, height = picture.get_size_inches()
    picture.set_size_inches(NARROW, 0.92 * height)
    source = base64.b64encode(picture.png(SHARP)).decode("ascii")
    return Figure(f"data:image/png;base64,{source}", picture.description, caption)
