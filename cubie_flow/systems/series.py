"""Measured series: named columns of a CSV or Parquet file."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from cubie_flow.errors import FlowError, nearest
from cubie_flow.process.python_path import import_library
from cubie_flow.systems.quantities import shortened

ENDINGS = (".csv", ".parquet", ".pq")
#: What stands for a value that is missing.
MISSING = ("", "na", "nan", "null", "none", ".")


def read_columns(
    path: Path, names: Sequence[str] | None, key: str, missing: bool = False
) -> dict[str, tuple[float, ...]]:
    """Return columns of a file by name, in the order of its rows.

    Parameters
    ----------
    path : Path
        A ``.csv`` or ``.parquet`` file with one header name a column.
    names : sequence of str or None
        Columns to read; None reads all.
    key : str
        What in the config or model names the file, for errors.
    missing : bool
        Whether a value may be missing; it is NaN then.

    Raises
    ------
    FlowError
        If the file cannot be read, has no such column, or holds what is no number.
    """
    suffix = path.suffix.lower()
    if suffix not in ENDINGS:
        raise FlowError(f"{key} is '{path}'; it must end in {', '.join(ENDINGS)}")
    if not path.is_file():
        raise FlowError(f"{key} is '{path}', which is not a file")
    found = _csv(path, key) if suffix == ".csv" else _parquet(path, key)
    for name in names or ():
        if name not in found:
            raise FlowError(
                f"{key} '{path}' has no column '{name}' (it has: {', '.join(found)})"
                f"{nearest(name, found)}"
            )
    return {
        name: number_column(found[name], f"column '{name}' of '{path}'", missing)
        for name in (found if names is None else names)
    }


def _csv(path: Path, key: str) -> dict[str, list[object]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file, skipinitialspace=True) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FlowError(f"{key} '{path}' cannot be read as CSV: {error}") from error
    if not rows:
        raise FlowError(f"{key} '{path}' is empty; it needs a header of names")
    header = [name.strip() for name in rows[0]]
    if "" in header or len(set(header)) < len(header):
        raise FlowError(f"{key} '{path}': every column needs a name of its own in the header")
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(header):
            raise FlowError(
                f"{key} '{path}': data row {number} has {len(row)} values, but the header has "
                f"{len(header)} names"
            )
    return {name: [row[i] for row in rows[1:]] for i, name in enumerate(header)}


def _parquet(path: Path, key: str) -> dict[str, list[object]]:
    try:
        parquet = import_library("pyarrow.parquet")
    except ImportError:
        raise FlowError(
            f"{key} '{path}' is a Parquet file, which needs pyarrow (pip install pyarrow); a "
            ".csv file needs nothing more"
        ) from None
    try:
        table = parquet.read_table(path)
    except (ValueError, OSError) as error:
        raise FlowError(f"{key} '{path}' cannot be read as Parquet: {error}") from error
    return {name: table.column(name).to_pylist() for name in table.column_names}


def number_column(given: object, where: str, missing: bool = False) -> tuple[float, ...]:
    """Return a list of numbers, or of texts that are numbers.

    Parameters
    ----------
    given : sequence
    where : str
        The place, as errors name it.
    missing : bool
        Whether a value may be missing; it is NaN then.

    Raises
    ------
    FlowError
        If it is no list, or a value no finite number.
    """
    values = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise FlowError(f"{where} is {shortened(given)}; it must be a list of numbers")
    found = []
    for number, value in enumerate(values, start=1):
        text = value.strip() if isinstance(value, str) else value
        if text is None or (isinstance(text, str) and text.lower() in MISSING):
            result = math.nan
        else:
            try:
                result = math.inf if isinstance(text, bool) else float(text)
            except (TypeError, ValueError):
                raise FlowError(
                    f"{where} holds {shortened(value)} in data row {number}, which is no number"
                ) from None
        if math.isinf(result) or (math.isnan(result) and not missing):
            raise FlowError(
                f"{where} is missing or not finite in data row {number}; every row needs a "
                "finite number there"
            )
        found.append(result)
    return tuple(found)
