"""The design of a table of subjects: one run per subject, with its own doses and observations."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from attrs import field, frozen

from cubie_flow.allowed_values import CARRIES
from cubie_flow.batches.design import Design
from cubie_flow.batches.store_names import OBSERVATION_TIME, SUBJECT
from cubie_flow.batches.subject_table import SubjectTable, read_subject_table
from cubie_flow.batches.values import Array, Constant, parse_value
from cubie_flow.errors import FlowError, nearest

_DURATION = "duration"
#: Names that the runs of subjects have themselves.
_OWN = {
    _DURATION: "the time from the first to the last row of a subject",
    SUBJECT: "the number of a subject",
    OBSERVATION_TIME: "the time of an observation",
}


def _texts(given: Mapping[Any, Any] | None) -> dict[str, str]:
    return {f"{key:g}" if isinstance(key, float) else str(key): str(value)
            for key, value in dict(given or {}).items()}  # fmt: skip


def _observed(given: Any) -> str | dict[str, str] | None:
    return _texts(given) if isinstance(given, Mapping) else given


@frozen
class SubjectOptions:
    """How the columns of a table of subjects are read.

    Attributes
    ----------
    observed : str, mapping or None
        State or observable that ``DV`` measures; or several, by the value of ``DVID`` if the table
        has that column, else of ``CMT``. None: the only observable of the model.
    compartments : mapping
        States by the value of ``CMT``, where they are not numbered in the order of the model.
    covariates : {"forward", "backward"}
        Whether covariates that change hold from their row on, or from the row before it on, as in
        NONMEM.
    """

    observed: str | Mapping[str, str] | None = field(default=None, converter=_observed)
    compartments: Mapping[str, str] = field(factory=dict, converter=_texts)
    covariates: str = "forward"

    def __attrs_post_init__(self) -> None:
        if self.covariates not in CARRIES:
            raise FlowError(
                f"batch.covariates is '{self.covariates}'; it must be one of {', '.join(CARRIES)}"
            )


@frozen(eq=False)
class Subjects(Design):
    """The subjects of a table, one per run.

    Attributes
    ----------
    table : SubjectTable
    size : int
        Number of runs: the first subjects of the table.
    used : mapping
        What gives every varied quantity: a column of the table, or a number.
    options : SubjectOptions
    path : str, optional
        The file of the table.
    """

    kind: ClassVar[str] = "subjects"
    table: SubjectTable
    size: int
    used: dict[str, str | Constant]
    options: SubjectOptions
    path: str | None = None

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        return (_DURATION, *self.used)

    @property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]
        return (SUBJECT, *self._labels)

    @property
    def subjects(self) -> Subjects:
        return self

    @cached_property
    def _whole(self) -> dict[str, Array]:
        """The values of all subjects."""
        first, last = self.table.first[:-1], self.table.first[1:] - 1
        time = self.table.columns["TIME"]
        found = {_DURATION: time[last] - time[first]}
        for name, source in self.used.items():
            constant = isinstance(source, Constant)
            found[name] = (
                np.full(self.table.size, source.value)
                if isinstance(source, Constant)
                else self.covariate(source)[first]
            )
            assert constant or np.isfinite(found[name]).all()
        found[SUBJECT] = np.arange(self.table.size, dtype=np.float64)
        return found | {name: codes[first] for name, codes in self._labels.items()}

    def covariate(self, column: str) -> Array:
        """Return a column of numbers for every row; a missing value is that of the row before.

        Raises
        ------
        FlowError
            If it holds texts, or the first value of a subject is missing.
        """
        values = self.table.others[column]
        if values.dtype.kind != "f":
            row = next(i for i, text in enumerate(values) if not _is_number(text))
            raise FlowError(
                f"{self.table.place(row, column)}: '{values[row]}' is not a number, which a "
                "quantity of the model needs"
            )
        missing = np.isnan(values)
        empty = missing[self.table.first[:-1]]
        if empty.any():
            row = int(self.table.first[int(empty.argmax())])
            raise FlowError(
                f"{self.table.place(row, column)}: the first value of a subject is missing"
            )
        kept = np.maximum.accumulate(np.where(missing, 0, np.arange(len(values))))
        return np.asarray(values[kept], np.float64)

    def changes(self, column: str) -> bool:
        """Return whether a column has several values within a subject."""
        return _varies(self.covariate(column), self.table.first)

    @cached_property
    def _labels(self) -> dict[str, Array]:
        """ID, and the unused columns that have one value per subject, as numbers by row."""
        every = {"ID": self.table.columns["ID"], **self._unused}
        coded = {name: _codes(values) for name, values in every.items()}
        return {name: c for name, c in coded.items() if not _varies(c, self.table.first)}

    @cached_property
    def row_labels(self) -> dict[str, Array]:
        """The unused columns that change within a subject, as numbers by row."""
        rest = {name: v for name, v in self._unused.items() if name not in self._labels}
        return {name: _codes(values) for name, values in rest.items()}

    @property
    def _unused(self) -> dict[str, Any]:
        used = {source for source in self.used.values() if isinstance(source, str)}
        return {name: v for name, v in self.table.others.items() if name not in used}

    def label_attrs(self, name: str) -> dict[str, Any]:
        """Return the attributes of a label that holds texts: its numbers and their meanings."""
        values = {"ID": self.table.columns["ID"], **self.table.others}.get(name)
        if values is None or values.dtype.kind == "f":
            return {}
        words = np.unique(values).tolist()
        return {
            "flag_values": [float(i) for i in range(len(words))],
            "flag_meanings": " ".join("_".join(word.split()) or "missing" for word in words),
        }

    def _columns(self, start: int, stop: int) -> dict[str, Array]:
        return {name: values[start:stop].copy() for name, values in self._whole.items()}

    def largest(self) -> dict[str, float]:
        whole = self._whole
        return {name: float(np.abs(whole[name][: self.size]).max()) for name in self.names}

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = {
            "kind": self.kind,
            "size": self.size,
            "values": {
                name: source.value if isinstance(source, Constant) else source
                for name, source in self.used.items()
            },
            "rows_hash": self.table.content_hash,
            "options": {
                "observed": self.options.observed,
                "compartments": dict(self.options.compartments),
                "covariates": self.options.covariates,
            },
        }
        if self.path is not None:
            return {**described, "path": self.path}
        return {**described, "table": _written(self.table)}


def subjects_design(
    given: str | Path | Mapping[str, Any],
    values: Mapping[str, Any] | None = None,
    size: int | None = None,
    options: SubjectOptions | Mapping[str, Any] | None = None,
    known: Collection[str] = (),
) -> Subjects:
    """Return the design of a table of subjects.

    Parameters
    ----------
    given : path or mapping
        A ``.csv`` or ``.parquet`` file, or columns by name, such as a DataFrame.
    values : mapping, optional
        What gives each quantity of the model: the name of a column, None for the column of its own
        name, or a number for every subject.
    size : int, optional
        Number of first subjects to use.
    options : SubjectOptions or mapping, optional
    known : collection of str
        Quantities of the model that columns of the same name give, in addition to `values`.

    Raises
    ------
    FlowError
        For the first mistake, with row and column where it has one.
    """
    table = read_subject_table(given)
    for name in (*table.others, *(values or {})):
        if name in _OWN:
            raise FlowError(
                f"{table.source}: '{name}' is {_OWN[name]} in the results; rename the column"
            )
    used: dict[str, str | Constant] = {}
    for name, spec in (values or {}).items():
        if spec is None or isinstance(spec, str):
            used[name] = _column(table, name, name if spec is None else spec)
            continue
        constant = parse_value(name, spec)
        if not isinstance(constant, Constant):
            raise FlowError(
                f"batch.values.{name} must be a column name or one number with batch.kind "
                "'subjects'"
            )
        used[name] = constant
    for name in table.others:
        if name in known and name not in used:
            used[name] = name
    if size is not None and size > table.size:
        raise FlowError(f"batch.size is {size} but {table.source} has {table.size} subjects")
    if not isinstance(options, SubjectOptions):
        options = SubjectOptions(**(options or {}))
    path = str(given) if isinstance(given, str | Path) else None
    design = Subjects(table, size or table.size, used, options, path)
    # Every column is looked at now, so that a wrong value is an error before the study begins.
    design.columns(0, 0)
    return design


def _column(table: SubjectTable, name: str, column: str) -> str:
    if column not in table.others:
        raise FlowError(
            f"batch.values.{name} names the column '{column}', which {table.source} does not have "
            f"as a covariate{nearest(column, table.others)}"
        )
    return column


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _codes(values: Any) -> Array:
    """Return numbers as they are, and texts as their numbers in order."""
    if values.dtype.kind == "f":
        return np.asarray(values, np.float64)
    return np.unique(values, return_inverse=True)[1].astype(np.float64)


def _varies(values: Array, first: Any) -> bool:
    """Return whether values change within a subject; a missing value is one of them."""
    same = (values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))
    same[first[1:-1] - 1] = True
    return not bool(same.all())


def _written(table: SubjectTable) -> dict[str, list[Any]]:
    """Return a table as JSON values, from which `read_subject_table` makes an equal one."""
    every = {**table.columns, **table.others}
    return {
        name: [None if one != one else one for one in values.tolist()]
        for name, values in every.items()
    }


@frozen(eq=False)
class Chosen(Design):
    """Some runs of another design, in any order.

    Attributes
    ----------
    inner : Design
    runs : sequence of int
    """

    inner: Design
    runs: Sequence[int]

    @property
    def kind(self) -> str:  # type: ignore[override]
        return self.inner.kind

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.inner.names

    @property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.inner.labels

    @property
    def size(self) -> int:  # type: ignore[override]
        return len(self.runs)

    @property
    def subjects(self) -> Subjects | None:
        return self.inner.subjects

    def _columns(self, start: int, stop: int) -> dict[str, Array]:
        parts = [self.inner.columns(run, run + 1) for run in self.runs[start:stop]]
        every = (*self.names, *self.labels)
        return {name: np.concatenate([part[name] for part in parts]) for name in every}

    def largest(self) -> dict[str, float]:
        return self.inner.largest()

    def describe(self) -> dict[str, Any]:
        return {**self.inner.describe(), "runs": list(self.runs)}
