"""Drivers of a model, read from the entries of its mapping.

An entry names a file, or holds the numbers::

    drivers:
      u: {file: data.csv, time: hour, column: flow, interpolation: linear, outside: hold}
      v: {times: [0, 1, 2], values: [0.0, 1.5, 0.0], outside: periodic}
      w: {file: doses.csv, columns: [anna, ben], series: patient}   # runs choose by `patient`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cubie_flow.errors import FlowError, nearest
from cubie_flow.systems.drivers import Driver
from cubie_flow.systems.quantities import (
    allow_unused,
    check_keys,
    check_name,
    finite,
    is_expression,
    shortened,
)

KEYS = (
    "file", "time", "column", "columns", "times", "values", "interpolation", "outside", "series",
    "unit", "long_name",
)  # fmt: skip


def read_driver(name: object, given: Any, where: str) -> Driver:
    """Return the driver of an entry of a model.

    Parameters
    ----------
    name : str
    given : mapping
    where : str
        Names the system in errors.

    Raises
    ------
    FlowError
        For the first mistake, in one sentence that names it.
    """
    own = check_name(name, f"{where}: the driver")
    where = f"{where}, driver {own}"
    given = _plain(given)
    if not isinstance(given, Mapping):
        raise FlowError(
            f"{where} is {shortened(given)}; it must be a mapping, such as {{file: data.csv}} or "
            "{times: [0, 1], values: [0, 1]}"
        )
    check_keys(given, KEYS, where)
    entry = {key: value for key, value in given.items() if value is not None}
    from_file = [key for key in ("time", "column", "columns") if key in entry]
    inline = [key for key in ("times", "values") if key in entry]
    if ("file" in entry) == bool(inline):
        raise FlowError(f"{where} needs either 'file', or 'times' and 'values'")
    if inline and from_file:
        raise FlowError(f"{where}: '{from_file[0]}' is only for data from a 'file'")
    times, values, several = _inline(entry, where) if inline else _from_file(entry, own, where)
    text = {key: _text(entry, key, where) for key in ("series", "unit", "long_name")}
    if several:
        text["series"] = check_name(text["series"] or f"{own}_series", f"{where}: the series")
    elif text["series"]:
        raise FlowError(f"{where}: 'series' is '{text['series']}', but there is one series only")
    return Driver(
        own,
        times,
        values,
        interpolation=entry.get("interpolation", "linear"),
        outside=entry.get("outside", "hold"),
        **text,
    )


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = entry.get(key, "")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise FlowError(f"{where}, {key} must be text, not {shortened(value)}")
    return str(value)


def _inline(
    entry: Mapping[str, Any], where: str
) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...], bool]:
    """Return times, values, and whether there may be several series."""
    given = [key for key in ("times", "values") if key in entry]
    if len(given) < 2:
        raise FlowError(f"{where}: '{given[0]}' is given, but not the other of times, values")
    times = _row(entry["times"], f"{where}, times")
    return times, _rows(entry["values"], f"{where}, values"), _several(entry["values"])


def _from_file(
    entry: Mapping[str, Any], name: str, where: str
) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...], bool]:
    if "column" in entry and "columns" in entry:
        raise FlowError(f"{where}: 'column' and 'columns' exclude each other; give one")
    several = "columns" in entry
    columns = entry["columns"] if several else [entry.get("column", name)]
    time = entry.get("time", "time")
    if not _is_list(columns) or not columns:
        raise FlowError(f"{where}, columns is {shortened(columns)}; it must be a list of names")
    for key, value in (("file", entry["file"]), ("time", time), *(("column", c) for c in columns)):
        if not isinstance(value, str) or not value:
            raise FlowError(f"{where}, {key} is {shortened(value)}; it must be text")
    from cubie_flow.batches.tables import open_table  # needs numpy

    path = Path(entry["file"]).expanduser()
    series = open_table(path, f"{where}, file", [time, *columns]).to_columns()
    return series[time], tuple(series[column] for column in columns), several


def _is_list(given: Any) -> bool:
    return isinstance(given, Sequence) and not isinstance(given, str | bytes)


def _row(given: Any, where: str) -> tuple[float, ...]:
    if not _is_list(given):
        raise FlowError(f"{where} must be a list of numbers, not {shortened(given)}")
    return tuple(finite(value, f"{where}[{i}]") for i, value in enumerate(given))


def _rows(given: Any, where: str) -> tuple[tuple[float, ...], ...]:
    if not _is_list(given) or not given or not _is_list(given[0]):
        return (_row(given, where),)
    return tuple(_row(row, f"{where}[{i}]") for i, row in enumerate(given))


#: Keys of an entry that give the data.
_SOURCES = ("file", "time", "column", "columns", "times", "values")


def replace_drivers(model: Mapping[str, Any], drivers: Any, where: str) -> dict[str, Any]:
    """Return the mapping of a model with other entries of drivers.

    Parameters
    ----------
    model : mapping
    drivers : mapping
        Entries by the name of a driver, or of a parameter that becomes a driver. What an entry
        leaves out stays as it is.
    where : str
        Names the model in errors.

    Raises
    ------
    FlowError
        If the model has no such driver or parameter.
    """
    if not isinstance(drivers, Mapping):
        raise FlowError(f"drivers must map names to series, not be {shortened(drivers)}")
    changed = dict(model)
    entries = dict(changed.get("drivers") or {})
    parameters = dict(changed.get("parameters") or {})
    computed = any(is_expression(parameters.get(name)) for name in drivers)
    for name, given in drivers.items():
        if name not in entries and name not in parameters:
            known = (*entries, *parameters)
            raise FlowError(
                f"drivers.{name}: {where} has no driver or parameter of that name"
                f"{nearest(str(name), known)}"
            )
        entries[name] = _merged(_plain(given), entries.get(name), parameters.pop(name, None))
    if computed:
        changed = allow_unused(changed)
    changed["drivers"] = entries
    changed["parameters"] = parameters
    suggested = changed.get("suggested") or {}
    # The reader of the model refuses anything but a mapping.
    if isinstance(suggested, Mapping):
        left = {name: value for name, value in suggested.items() if name not in drivers}
        changed["suggested"] = left
    changed["unused"] = [name for name in changed.get("unused") or () if name not in drivers]
    return changed


def _merged(given: Any, old: Mapping[str, Any] | None, parameter: Any) -> Any:
    """Return an entry completed by that of the old driver, or by the texts of a parameter."""
    if not isinstance(given, Mapping):
        return given
    if old is not None:
        kept = dict(old)
        if any(key in given for key in _SOURCES):
            kept = {key: value for key, value in kept.items() if key not in _SOURCES}
            if "columns" not in given and not _several(given.get("values")):
                kept.pop("series", None)
        given = {**kept, **given}
    if isinstance(parameter, Mapping):
        given = {**{key: text for key, text in parameter.items() if key != "value"}, **given}
    return given


def _several(values: Any) -> bool:
    return _is_list(values) and bool(values) and _is_list(values[0])


def _plain(given: Any) -> Any:
    """Return an entry with lists in place of arrays."""
    if isinstance(given, Mapping):
        return {key: _plain(value) for key, value in given.items()}
    return given.tolist() if hasattr(given, "tolist") else given
