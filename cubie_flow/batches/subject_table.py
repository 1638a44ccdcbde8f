"""Tables of doses and observations in the layout of NONMEM: one row per event of a subject.

Columns with a meaning of their own: ``ID``, ``TIME``, ``AMT``, ``RATE``, ``II``, ``ADDL``, ``SS``,
``EVID``, ``CMT``, ``MDV``, ``DV`` and ``DVID``. All others are covariates or labels. What of the
layout is not supported is refused with its row and column.

Source: NONMEM Users Guide, Part VI (PREDPP), chapter V, "Event Records".
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from cubie_flow.batches.tables import number_column, raw_columns
from cubie_flow.errors import FlowError

Array = NDArray[np.float64]
KEY = "batch.path"
#: Numbers of a row that are 0 where the table lacks them.
NUMBERS = ("AMT", "RATE", "II", "ADDL", "SS", "EVID", "CMT", "MDV", "DVID")
RESERVED = ("ID", "TIME", "DV", *NUMBERS)
#: Columns of the layout that are not supported, if a row has another number than 0 there.
REFUSED = ("CALL", "CONT", "PCMT", "CENS")
#: Columns of the layout that are not supported at all.
DATES = ("DATE", "DAT1", "DAT2", "DAT3")
#: Most doses that one row may stand for.
MOST_DOSES = 1_000_000
OBSERVATION, DOSE, OTHER, RESET, RESET_DOSE = range(5)
_WHOLE = ("ADDL", "SS", "EVID", "MDV")


@frozen(eq=False)
class SubjectTable:
    """The rows of all subjects.

    Attributes
    ----------
    source : str
        What errors call the table.
    columns : mapping
        An array of shape (rows,) for each of `RESERVED`. Numbers that are missing are 0; those of
        ``TIME`` and ``DV`` are not. ``CMT`` and ``DVID`` may hold texts.
    others : mapping
        All other columns, as numbers or as texts.
    first : ndarray of int, shape (subjects + 1,)
        First row of every subject, and the number of rows.
    """

    source: str
    columns: Mapping[str, NDArray[Any]]
    others: Mapping[str, NDArray[Any]]
    first: NDArray[np.int64]
    content_hash: str = field(init=False)

    @content_hash.default
    def _hash(self) -> str:
        digest = hashlib.sha256()
        for name, values in (*self.columns.items(), *self.others.items()):
            texts = values.dtype.kind not in "fiu"
            content = "\n".join(values.tolist()).encode() if texts else values.tobytes()
            digest.update(name.encode() + b":" + content + b";")
        return digest.hexdigest()

    @property
    def size(self) -> int:
        """Number of subjects."""
        return len(self.first) - 1

    def place(self, row: int, column: str) -> str:
        """Return what errors call a cell: the table, its row and column."""
        return f"{self.source}, data row {row + 1}, column {column}"


def read_subject_table(given: str | Path | Mapping[str, Any]) -> SubjectTable:
    """Return a checked table.

    Parameters
    ----------
    given : path or mapping
        A CSV or Parquet file, or columns by name, such as those of a DataFrame.

    Raises
    ------
    FlowError
        For the first mistake, with its row and column.
    """
    source = f"{KEY} '{given}'" if isinstance(given, str | Path) else "the table of subjects"
    raw = raw_columns(given, KEY)
    named = _reserved(raw, source)
    others = {
        name: _numbers_or_texts(values, f"column '{name}' of {source}")
        for name, values in raw.items()
        if name not in named.values()
    }
    rows = len(next(iter(raw.values())))
    columns: dict[str, NDArray[Any]] = {}
    for name in RESERVED:
        values = raw[named[name]] if name in named else None
        columns[name] = _column(name, values, rows, source)
    _complete(columns, named)
    table = SubjectTable(source, columns, others, _first_rows(columns["ID"], source))
    _Checks(table).run()
    return table


def _reserved(raw: Mapping[str, Any], source: str) -> dict[str, str]:
    """Return the names in the table of the columns with a meaning, by their meaning."""
    named: dict[str, str] = {}
    for name in raw:
        meaning = name.upper() if name in (name.upper(), name.lower()) else name
        if meaning in DATES:
            raise FlowError(
                f"{source} has the column '{name}'; dates are not read, so give TIME as one number"
            )
        if meaning in RESERVED:
            if meaning in named:
                raise FlowError(f"{source} has the columns '{named[meaning]}' and '{name}'")
            named[meaning] = name
    for name in ("ID", "TIME"):
        if name not in named:
            raise FlowError(f"{source} has no column '{name}' (columns: {', '.join(raw)})")
    return named


def _numbers_or_texts(values: Any, where: str) -> NDArray[Any]:
    """Return a column as float64, or as texts if one of its values is not a number."""
    try:
        return number_column(values, where, missing=True)
    except FlowError:
        return np.array(["" if _is_missing(one) else str(one).strip() for one in values], str)


def _is_missing(value: Any) -> bool:
    return value is None or value == "." or (isinstance(value, float) and math.isnan(value))


def _column(name: str, values: Any, rows: int, source: str) -> NDArray[Any]:
    """Return a column with a meaning."""
    if values is None:
        return np.full(rows, math.nan) if name == "DV" else np.zeros(rows)
    where = f"column '{name}' of {source}"
    if name in ("ID", "CMT", "DVID"):
        found = _numbers_or_texts(values, where)
    else:
        found = number_column(values, where, missing=True)
    if found.dtype.kind != "f" or name == "DV":
        return found
    if name in ("ID", "TIME"):
        missing = np.flatnonzero(np.isnan(found))
        if missing.size:
            raise FlowError(f"{source}, data row {missing[0] + 1}: {name} is missing")
        return found
    return np.where(np.isnan(found), 0.0, found)


def _first_rows(ids: NDArray[Any], source: str) -> NDArray[np.int64]:
    """Return the first row of every subject, and the number of rows."""
    first = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])
    _, counts = np.unique(ids[first], return_counts=True)
    if (counts > 1).any():
        seen: set[Any] = set()
        for row in first:
            if ids[row] in seen:
                raise FlowError(
                    f"{source}, data row {row + 1}, column ID: {_shown(ids[row])} had rows before "
                    "those of another subject; the rows of a subject must follow each other"
                )
            seen.add(ids[row])
    return np.append(first, len(ids)).astype(np.int64)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else f"'{value}'"


def _complete(c: Mapping[str, NDArray[Any]], named: Mapping[str, str]) -> None:
    """Fill in EVID and MDV where the table has no such column, as NM-TRAN does."""
    if "EVID" not in named:
        c["EVID"][:] = np.where((c["AMT"] != 0) | (c["RATE"] != 0), DOSE, OBSERVATION)
    if "MDV" not in named:
        c["MDV"][:] = (c["EVID"] != OBSERVATION) | np.isnan(c["DV"])


class _Checks:
    """Refuses what the layout does not allow or what is not supported, with row and column."""

    def __init__(self, table: SubjectTable) -> None:
        self.table = table

    def _refuse(self, wrong: NDArray[np.bool_], column: str, text: str) -> None:
        """Refuse the first row where `wrong` holds; ``{}`` in the text is its value."""
        rows = np.flatnonzero(wrong)
        if rows.size:
            known = {**self.table.others, **self.table.columns}[column]
            value = _shown(known[rows[0]])
            raise FlowError(f"{self.table.place(int(rows[0]), column)}: {text.format(value)}")

    def run(self) -> None:
        """Check every row."""
        c, others = self.table.columns, self.table.others
        for name in _WHOLE:
            self._refuse((c[name] != np.round(c[name])) | (c[name] < 0), name,
                         "{} is not a whole number of at least 0")  # fmt: skip
        self._refuse(c["EVID"] > RESET_DOSE, "EVID", "{} is not one of 0, 1, 2, 3 and 4")
        for name, values in others.items():
            if name.upper() in REFUSED:
                wrong = values != ("" if values.dtype.kind == "U" else 0.0)
                if values.dtype.kind == "f":
                    wrong &= ~np.isnan(values)
                self._refuse(wrong, name, "{} is not supported; it must be 0 or missing")
        later = np.diff(c["TIME"]) < 0
        later[self.table.first[1:-1] - 1] = False
        self._refuse(
            np.r_[False, later], "TIME",
            "{} is before the time of the row above; the times of a subject must not decrease, "
            "also not after a reset",
        )  # fmt: skip
        self._doses()
        self._observations()

    def _doses(self) -> None:
        """Check the columns of doses."""
        c = self.table.columns
        dose = (c["EVID"] == DOSE) | (c["EVID"] == RESET_DOSE)
        for name in ("AMT", "RATE", "SS", "ADDL"):
            self._refuse(~dose & (c[name] != 0), name,
                         "{} belongs to a dose, but EVID is not 1 or 4")  # fmt: skip
        self._refuse(dose & (c["AMT"] < 0), "AMT", "{} is negative")
        self._refuse(
            dose & np.isin(c["RATE"], (-1.0, -2.0)), "RATE",
            "{} asks for a rate or duration that is a parameter, which is not supported; give a "
            "positive rate",
        )  # fmt: skip
        self._refuse(dose & (c["RATE"] < 0), "RATE", "{} is negative")
        self._refuse(c["SS"] > 2, "SS", "{} is not supported; it must be 0, 1 or 2")
        self._refuse(c["II"] < 0, "II", "{} is negative")
        constant = (c["SS"] > 0) & (c["RATE"] > 0) & (c["AMT"] == 0)
        self._refuse(dose & ~constant & (c["AMT"] == 0), "AMT",
                     "{} is the amount of a dose; it must be positive")  # fmt: skip
        self._refuse(constant & (c["II"] > 0), "II",
                     "{} must be 0 for a constant infusion, which has no AMT")  # fmt: skip
        self._refuse(constant & (c["ADDL"] > 0), "ADDL",
                     "{} must be 0 for a constant infusion, which has no AMT")  # fmt: skip
        self._refuse(dose & (c["SS"] > 0) & ~constant & (c["II"] == 0), "II",
                     "{}, but a steady state needs the time between two doses")  # fmt: skip
        self._refuse(dose & (c["ADDL"] > 0) & (c["II"] == 0), "II",
                     "{}, but additional doses need the time between two doses")  # fmt: skip
        self._numbers_of_doses(dose)

    def _numbers_of_doses(self, dose: NDArray[np.bool_]) -> None:
        """Refuse a row that stands for more doses than a list can hold."""
        c, first = self.table.columns, self.table.first
        left = np.repeat(c["TIME"][first[1:] - 1], np.diff(first)) - c["TIME"]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            more = dose & (c["ADDL"] > 0) & (np.minimum(c["ADDL"], left / c["II"]) > MOST_DOSES)
            length = c["AMT"] / np.where(c["RATE"] > 0, c["RATE"], np.inf)
            overlaps = dose & (c["SS"] > 0) & (c["AMT"] > 0) & (length / c["II"] > MOST_DOSES)
        self._refuse(more, "ADDL", f"{{}} makes more than {MOST_DOSES:,} doses up to the last row")
        self._refuse(
            overlaps, "RATE", f"{{}} makes more than {MOST_DOSES:,} infusions run at the same time"
        )
        # Further doses than can be counted come after the last row.
        np.minimum(c["ADDL"], 2.0**53, out=c["ADDL"])

    def _observations(self) -> None:
        """Check the columns of observations."""
        c = self.table.columns
        self._refuse((c["EVID"] == OBSERVATION) & (c["MDV"] == 0) & np.isnan(c["DV"]), "DV",
                     "it is missing, but MDV is 0; set MDV to 1")  # fmt: skip


def compartment(
    table: SubjectTable, row: int, states: Sequence[str], named: Mapping[str, str]
) -> int:
    """Return the number of the state that a row's CMT names.

    Parameters
    ----------
    table : SubjectTable
    row : int
    states : sequence of str
    named : mapping
        States by the text of their CMT; other numbers count the states from 1. 0 and a missing
        value mean 1.

    Raises
    ------
    FlowError
        If there is no such state, with row and column.
    """
    value = table.columns["CMT"][row]
    text = f"{value:g}" if isinstance(value, float) else str(value)
    name = named.get(text, text)
    if name in states:
        return list(states).index(name)
    if text in ("", "0"):
        return 0
    number = int(text) if text.isdigit() else 0
    if text in named or not 1 <= number <= len(states):
        raise FlowError(
            f"{table.place(row, 'CMT')}: {text} is not the number or the name of a state "
            f"(states: {', '.join(states)}; batch.compartments={{NUMBER: STATE}} names others)"
        )
    return number - 1
