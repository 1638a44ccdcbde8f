"""Tables: named columns of numbers in a CSV or Parquet file.

The runs of a batch, the series of a driver and measured data are read here, so that a file means
the same wherever it is used.
"""

from __future__ import annotations

import csv
import hashlib
import math
import re
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cubie_flow.errors import FlowError, nearest
from cubie_flow.process.python_path import import_library

Array = NDArray[np.float64]
ENDINGS = (".csv", ".parquet", ".pq")
HASH_ROWS = 65_536
#: Texts that mean a missing value, in lower case.
MISSING = ("", "na", "nan", "null", "none", ".")
#: How a batch reads only the columns that are quantities.
SOME = "batch.values={NAME: COLUMN} uses some columns only"

#: What pandas reads as missing in addition to its own list.
_MISSING_TEXTS = [spell(text) for text in MISSING for spell in (str, str.upper, str.title)]
#: What may be a blank line; a quoted text may contain the same characters.
_BLANK = re.compile(rb"\n[ \t\r]*\n")


class Rows(ABC):
    """Numeric columns of one file, read one slice of rows at a time.

    Parameters
    ----------
    path : Path
    key : str
        What names the file in a config or model, such as ``batch.path``; for errors.
    columns : tuple of str
        Columns to read, in the order of the arrays returned.
    missing : bool
        Whether a value may be missing; it is NaN then.
    hint : str
        Advice for a column that does not hold numbers.
    """

    def __init__(
        self, path: Path, key: str, columns: tuple[str, ...], missing: bool = False, hint: str = ""
    ) -> None:
        self.path = path
        self.key = key
        self.columns = columns
        self.missing = missing
        self.hint = hint

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of rows."""

    @abstractmethod
    def raw(self) -> dict[str, Any]:
        """Return every column as it is, numbers or texts."""

    @abstractmethod
    def read(self, start: int, stop: int) -> Array:
        """Return rows `start` to `stop`, shape ``(stop - start, len(columns))``."""

    def to_columns(self) -> dict[str, tuple[float, ...]]:
        """Return the values of every column by name."""
        values = self.read(0, self.size)
        return {name: tuple(values[:, i].tolist()) for i, name in enumerate(self.columns)}

    def content_hash(self, size: int) -> str:
        """Return the SHA-256 of the values in the first `size` rows, whatever the file format."""
        digest = hashlib.sha256()
        for start in range(0, size, HASH_ROWS):
            rows = self.read(start, min(start + HASH_ROWS, size))
            digest.update(np.ascontiguousarray(rows, dtype="<f8").tobytes())
        return digest.hexdigest()

    def _numbers(self, series: Any, column: str, first: int) -> Array:
        where = f"column '{column}' of '{self.path}'"
        return number_column(series, where, self.missing, first, self.hint)


class CsvRows(Rows):
    """A CSV file, held in memory as float64; prefer Parquet for very many rows."""

    @property
    def size(self) -> int:
        return len(self._values)

    def read(self, start: int, stop: int) -> Array:
        return self._values[start:stop]

    @cached_property
    def _values(self) -> Array:
        header, frame = self._frame()
        values = np.empty((len(frame), len(self.columns)))
        for i, column in enumerate(self.columns):
            values[:, i] = self._numbers(frame.iloc[:, header.index(column)], column, 0)
        return values

    def raw(self) -> dict[str, Any]:
        header, frame = self._frame()
        return {name: frame.iloc[:, header.index(name)] for name in self.columns}

    def _frame(self) -> tuple[list[str], Any]:
        """Return the header and the rows as pandas reads them, refusing irregular lines."""
        import pandas as pd

        header, first = _csv_start(self.path, self.key)
        # pandas takes a first value too many as a row label, which shifts every column.
        if len(first) > len(header):
            raise FlowError(
                f"{self.key} '{self.path}' has rows with more values than its header has names"
            )
        blank = _BLANK.search(self.path.read_bytes().strip()) is not None
        try:
            # With a selection of columns, pandas cuts rows that are too long.
            frame = pd.read_csv(self.path, skipinitialspace=True, na_values=_MISSING_TEXTS)
        except (ValueError, OSError) as error:
            reason = " ".join(str(error).split())
            raise FlowError(f"{self.key} '{self.path}' cannot be read as CSV: {reason}") from error
        # pandas skips blank lines, and fills a row that is too short with missing values.
        if blank or (len(header) > 1 and frame.iloc[:, -1].hasnans):
            _check_lines(self.path, self.key)
        return header, frame


class ParquetRows(Rows):
    """A Parquet file, read and checked one row group at a time."""

    @property
    def size(self) -> int:
        return int(self._starts[-1])

    def read(self, start: int, stop: int) -> Array:
        parts = [np.empty((0, len(self.columns)))]
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        for group in range(max(first, 0), len(self._starts) - 1):
            begin = int(self._starts[group])
            if begin >= stop:
                break
            rows = self._group(group)
            parts.append(rows[max(start - begin, 0) : stop - begin])
        return np.concatenate(parts)

    def raw(self) -> dict[str, Any]:
        table = self._file.read(columns=list(self.columns))
        return {name: table.column(name).to_pandas() for name in self.columns}

    def _group(self, group: int) -> Array:
        # Consecutive slices use the same group, so the last one stays in memory.
        last = self._last
        if last is None or last[0] != group:
            table = self._file.read_row_group(group, columns=list(dict.fromkeys(self.columns)))
            first = int(self._starts[group])
            columns = [
                self._numbers(table.column(name).to_pandas(), name, first) for name in self.columns
            ]
            self._last = last = (group, np.column_stack(columns))
        return last[1]

    _last: tuple[int, Array] | None = None

    @cached_property
    def _file(self) -> Any:
        return _parquet(self.path, self.key)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        metadata = self._file.metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        return np.cumsum([0, *sizes])


def open_table(
    path: str | Path,
    key: str,
    columns: Sequence[str] | None = None,
    missing: bool = False,
    hint: str = "",
    whole: bool = True,
) -> Rows:
    """Open a table of numbers.

    The first line of a CSV file that is not blank holds the names of its columns, separated by
    commas; spaces around names are ignored. Blank lines before the header and after the last row
    are ignored. A blank line between rows, a comment and a row that is too short or too long are
    errors.

    Parameters
    ----------
    path : str or Path
        A ``.csv`` or ``.parquet`` file.
    key : str
        What names the file in a config or model, such as ``batch.path``; for errors.
    columns : sequence of str, optional
        Columns to read; by default all.
    missing : bool
        Whether a value may be missing; it is NaN then.
    hint : str
        Advice for a column that does not hold numbers or has no name.
    whole : bool
        Whether a CSV file is read now, as numbers; else when a column is asked for.

    Raises
    ------
    FlowError
        If the file cannot be read or has no such column. A value that is not a number is an error
        when it is read.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in ENDINGS:
        raise FlowError(f"{key} '{path}' must end in one of {', '.join(ENDINGS)}")
    if not path.is_file():
        raise FlowError(f"{key} '{path}' is not a file")
    is_csv = suffix == ".csv"
    names = _csv_start(path, key)[0] if is_csv else _parquet(path, key).schema_arrow.names
    header = [str(name) for name in names]
    if columns is None and "" in header:
        raise FlowError(
            f"column {header.index('') + 1} of '{path}' has no name; name it in the header"
            + (f" ({hint})" if hint else "")
        )
    columns = tuple(header if columns is None else columns)
    for column in columns:
        if column not in header:
            raise FlowError(
                f"{key} '{path}' has no column '{column}' (columns: {', '.join(header)})"
                f"{nearest(column, header)}"
            )
        if header.count(column) > 1:
            raise FlowError(f"{key} '{path}' has the column '{column}' twice; rename one")
    rows = (CsvRows if is_csv else ParquetRows)(path, key, columns, missing, hint)
    if whole and rows.size == 0:
        raise FlowError(f"{key} '{path}' has a header but no rows")
    return rows


def raw_columns(given: str | Path | Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the columns of a table as they are, numbers and texts.

    Parameters
    ----------
    given : path or mapping
        A ``.csv`` or ``.parquet`` file, or columns of one length by name.
    key : str
        What names the table in a config; for errors.

    Raises
    ------
    FlowError
        If it cannot be read, has no rows, or its columns differ in length.
    """
    if isinstance(given, str | Path):
        columns = open_table(Path(given).expanduser(), key, missing=True, whole=False).raw()
    else:
        columns = {str(name): list(values) for name, values in dict(given).items()}
    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1 or lengths == {0}:
        raise FlowError(f"{key}: the columns of a table must have one length of at least 1")
    return columns


def number_column(
    values: Any, where: str, missing: bool = False, first: int = 0, hint: str = ""
) -> Array:
    """Return a column as finite numbers, float64.

    Parameters
    ----------
    values : pandas.Series or sequence
        Numbers, or texts that are numbers.
    where : str
        What errors call the column.
    missing : bool
        Whether a value may be missing; it is NaN then.
    first : int
        Row of the table that the first value belongs to, from 0.
    hint : str
        Advice for a column that does not hold numbers.

    Raises
    ------
    FlowError
        For the first value that is not a finite number, with its row.
    """
    if getattr(values, "dtype", None) is not None and values.dtype.kind in "iuf":
        numbers = np.asarray(values, dtype=np.float64)
    else:
        numbers = np.empty(len(values))
        for row, cell in enumerate(values):
            try:
                numbers[row] = _number(cell)
            except (TypeError, ValueError):
                raise FlowError(
                    f"{where} holds {reprlib.repr(cell)} in data row {first + row + 1}, which is "
                    "not a number" + (f"; {hint}" if hint else "")
                ) from None
    bad = np.isinf(numbers) if missing else ~np.isfinite(numbers)
    if bad.any():
        raise FlowError(
            f"{where} is missing or not finite in data row {first + int(bad.argmax()) + 1}; every "
            "row needs a finite number there"
        )
    return numbers


def _number(cell: Any) -> float:
    """Return a cell as a number, NaN where it is missing."""
    if isinstance(cell, str):
        cell = cell.strip()
    if cell is None or (isinstance(cell, str) and cell.lower() in MISSING):
        return math.nan
    if isinstance(cell, bool | np.bool_):
        raise TypeError
    return float(cell)


def _csv_start(path: Path, key: str) -> tuple[list[str], list[str]]:
    """Return the names in the header of a CSV file, and its first row."""
    rows = (row for _, row in _csv_lines(path, key) if row)
    header = [name.strip() for name in next(rows, [])]
    if not header:
        raise FlowError(f"{key} '{path}' cannot be read as CSV: it is empty")
    if header[0].startswith("#"):
        raise FlowError(f"{key} '{path}' begins with a comment; begin with the names of columns")
    for mark, name in ((";", "';'"), ("\t", "tabs")):
        if len(header) == 1 and mark in header[0]:
            raise FlowError(
                f"{key} '{path}' separates its columns by {name}; separate them by ',' and "
                "write numbers with a point, such as 1.5"
            )
    return header, next(rows, [])


def _csv_lines(path: Path, key: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of every line of a CSV file; a blank line has no cells."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, skipinitialspace=True)
            for row in reader:
                yield reader.line_num, row if len(row) > 1 or any(map(str.strip, row)) else []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FlowError(f"{key} '{path}' cannot be read as CSV: {error}") from error


def _check_lines(path: Path, key: str) -> None:
    """Refuse a blank line between rows, a comment, and a row that is too short."""
    blank, width = 0, 0
    for number, row in _csv_lines(path, key):
        if not row:
            blank = number if width else 0
        elif blank:
            raise FlowError(
                f"{key}: line {blank} of '{path}' is blank, with rows after it; delete the line, "
                "or give the row its numbers"
            )
        elif row[0].startswith("#"):
            raise FlowError(f"{key}: line {number} of '{path}' is a comment; delete the line")
        elif len(row) < width:
            raise FlowError(
                f"{key}: line {number} of '{path}' has {len(row)} values, but the header has "
                f"{width} names"
            )
        width = width or len(row)


def _parquet(path: Path, key: str) -> Any:
    try:
        parquet = import_library("pyarrow.parquet")
    except ImportError:
        raise FlowError(
            f"{key} '{path}' is a Parquet file, which needs pyarrow (pip install pyarrow); a "
            ".csv file needs nothing more"
        ) from None
    try:
        return parquet.ParquetFile(path)
    except (ValueError, OSError) as error:
        raise FlowError(f"{key} '{path}' cannot be read as Parquet: {error}") from error
