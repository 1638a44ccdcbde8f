"""Rows of a CSV or Parquet file as runs of a batch."""

from __future__ import annotations

import csv
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cubie_flow.errors import FlowError, nearest
from cubie_flow.process.python_path import import_library

Array = NDArray[np.float64]
HASH_ROWS = 65_536
#: What to do about columns that are no quantities.
SOME = "batch.values={NAME: COLUMN} uses some columns only"


class Rows(ABC):
    """Named numeric columns of one file, read a slice of rows at a time.

    Attributes
    ----------
    path
        The file.
    columns
        The columns read, in the order of the arrays returned.
    """

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.path = path
        self.columns = columns

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of rows."""

    @abstractmethod
    def read(self, start: int, stop: int) -> Array:
        """Return rows `start` to `stop`, shape ``(stop - start, len(columns))``."""

    def content_hash(self, size: int) -> str:
        """Return the SHA-256 of the first `size` rows (of the values, not of the file)."""
        digest = hashlib.sha256()
        for start in range(0, size, HASH_ROWS):
            rows = self.read(start, min(start + HASH_ROWS, size))
            digest.update(np.ascontiguousarray(rows, dtype="<f8").tobytes())
        return digest.hexdigest()

    def _check(self, rows: Array, first: int) -> Array:
        bad = np.argwhere(~np.isfinite(rows))
        if len(bad):
            row, column = bad[0]
            raise FlowError(
                f"column '{self.columns[column]}' of '{self.path}' is missing or not finite "
                f"in data row {first + row + 1}; every row needs a finite number there"
            )
        return rows


class CsvRows(Rows):
    """A CSV file, held in memory as float64 (for very many rows prefer Parquet)."""

    @property
    def size(self) -> int:
        return len(self._values)

    def read(self, start: int, stop: int) -> Array:
        return self._values[start:stop]

    @cached_property
    def _values(self) -> Array:
        import pandas as pd

        header, first = _csv_start(self.path)
        # pandas takes a first value too many as a row label, which shifts every column.
        if len(first) > len(header):
            raise FlowError(
                f"batch.path '{self.path}' has rows with more values than its header has names"
            )
        _refuse_blank_lines(self.path)
        # All columns, because pandas cuts rows that are too long when told to read only some.
        frame = _read_csv(self.path)
        frame.columns = header
        values = np.empty((len(frame), len(self.columns)))
        for i, column in enumerate(self.columns):
            series = frame[column]
            numbers = pd.to_numeric(series, errors="coerce")
            text = np.flatnonzero((numbers.isna() & series.notna()).to_numpy())
            if len(text) or series.dtype == bool:
                row = int(text[0]) if len(text) else 0
                raise FlowError(
                    f"column '{column}' of '{self.path}' holds the text '{series.iloc[row]}' "
                    f"in data row {row + 1}; every row needs a finite number there ({SOME})"
                )
            values[:, i] = numbers.to_numpy(dtype=np.float64)
        return self._check(values, 0)


class ParquetRows(Rows):
    """A Parquet file, read one row group at a time and checked as it is read."""

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

    def _group(self, group: int) -> Array:
        # Sequential slices hit the same group many times, so the last one stays.
        last = self._last
        if last is None or last[0] != group:
            table = self._file.read_row_group(group, columns=list(self.columns))
            columns = []
            for name in self.columns:
                column = table.column(name).to_numpy()
                if column.dtype.kind not in "iuf" and table.column(name).null_count == 0:
                    raise FlowError(
                        f"column '{name}' of '{self.path}' holds {table.schema.field(name).type} "
                        "values; a swept quantity needs numbers"
                    )
                columns.append(column.astype(np.float64))
            rows = self._check(np.column_stack(columns), int(self._starts[group]))
            self._last = last = (group, rows)
        return last[1]

    _last: tuple[int, Array] | None = None

    @cached_property
    def _file(self) -> Any:
        return _parquet(self.path)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        metadata = self._file.metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        return np.cumsum([0, *sizes])


def open_table(path: str | Path, columns: Mapping[str, str] | None) -> tuple[tuple[str, ...], Rows]:
    """Open a table of runs.

    Parameters
    ----------
    path
        A ``.csv`` or ``.parquet`` file with one header name a column. Spaces around the names
        of a CSV file do not count.
    columns
        Quantity name to column name; None takes every column under its own name.

    Returns
    -------
    names, rows
        The quantity names and their columns, in the same order.

    Raises
    ------
    FlowError
        Where the file cannot be read, a column is missing, or a value is not a finite number.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet", ".pq"):
        raise FlowError(f"batch.path '{path}' is neither a .csv nor a .parquet file")
    if not path.is_file():
        raise FlowError(f"batch.path '{path}' is not a file")
    names = _csv_start(path)[0] if suffix == ".csv" else _parquet(path).schema_arrow.names
    header = tuple(map(str, names))
    unnamed = [i for i, name in enumerate(header) if not name]
    if columns is None and unnamed:
        raise FlowError(
            f"column {unnamed[0] + 1} of '{path}' has no name; name it in the header, or say "
            "in batch.values which columns to use"
        )
    wanted = {name: name for name in header} if columns is None else dict(columns)
    for quantity, column in wanted.items():
        if column not in header:
            raise FlowError(
                f"batch.values.{quantity} needs the column '{column}', which '{path}' does not "
                f"have (columns: {', '.join(header)}){nearest(column, header)}"
            )
        if header.count(column) > 1:
            raise FlowError(f"'{path}' has the column '{column}' twice; a quantity needs one")
    rows = (CsvRows if suffix == ".csv" else ParquetRows)(path, tuple(wanted.values()))
    if rows.size == 0:
        raise FlowError(f"batch.path '{path}' has a header but no rows")
    return tuple(wanted), rows


#: What may hide a line without values; what stands in quotes may look like it.
_BLANK = re.compile(rb"\n[ \t\r]*\n")


def _csv_start(path: Path) -> tuple[list[str], list[str]]:
    """Return the header of a CSV file, without the spaces around names, and its first row."""
    rows = (row for _, row in _csv_lines(path) if row)
    header = [name.strip() for name in next(rows, [])]
    if not header:
        raise FlowError(f"batch.path '{path}' cannot be read as CSV: it is empty")
    for mark, said in ((";", "';'"), ("\t", "tabs")):
        if len(header) == 1 and mark in header[0]:
            raise FlowError(
                f"batch.path '{path}' separates its columns by {said}; separate them by ',' and "
                "write numbers with a point, such as 1.5"
            )
    return header, next(rows, [])


def _csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines of a CSV file by their number, split; one without values is empty."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, skipinitialspace=True)
            for row in reader:
                yield reader.line_num, row if len(row) > 1 or any(map(str.strip, row)) else []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FlowError(f"batch.path '{path}' cannot be read as CSV: {error}") from error


def _refuse_blank_lines(path: Path) -> None:
    """Refuse a line without values between two with some: runs are counted by rows."""
    if not _BLANK.search(path.read_bytes().strip()):
        return
    blank, began = 0, False
    for number, row in _csv_lines(path):
        if row and blank and began:
            raise FlowError(
                f"line {blank} of '{path}' is blank, with rows after it; delete the line, or "
                "give the run its numbers"
            )
        blank = 0 if row else number
        began = began or bool(row)


def _read_csv(path: Path) -> Any:
    import pandas as pd

    try:
        return pd.read_csv(path, skipinitialspace=True)
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise FlowError(f"batch.path '{path}' cannot be read as CSV: {reason}") from error


def _parquet(path: Path) -> Any:
    try:
        parquet = import_library("pyarrow.parquet")
    except ImportError:
        raise FlowError(
            f"batch.path '{path}' is a Parquet file, which needs pyarrow (pip install pyarrow); "
            "a .csv file needs nothing more"
        ) from None
    try:
        return parquet.ParquetFile(path)
    except (ValueError, OSError) as error:
        raise FlowError(f"batch.path '{path}' cannot be read as Parquet: {error}") from error
