"""Export to other formats, some runs at a time, so that results may be larger than memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cubie_flow.analysis import runs
from cubie_flow.analysis.attributes import with_flags
from cubie_flow.batches.store_names import OBSERVATION, OBSERVATION_TIME, RUN, TIME
from cubie_flow.errors import FlowError, nearest
from cubie_flow.process.python_path import import_library
from cubie_flow.process.safe_files import replaced_when_complete
from cubie_flow.storage.schema import CONVENTIONS, plain

if TYPE_CHECKING:
    from xarray import Dataset

FORMATS = {".parquet": "Parquet", ".csv": "CSV", ".nc": "NetCDF", ".npz": "NumPy"}
#: Most values of one variable in memory at once.
BLOCK = 2_000_000
#: Where a formula of a spreadsheet may begin: at the start of a text, and after what another
#: program may take for the end of a cell. Wide forms of the four signs count too.
FORMULA = re.compile("(^|[;,|\\t\\n])(?=[=+@\\-\\t\\n\uff1d\uff0b\uff0d\uff20])")
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
Columns = dict[str, NDArray[Any]]


def export(
    data: Dataset,
    path: str | Path,
    variables: Sequence[str] | None = None,
    *,
    overwrite: bool = False,
) -> int:
    """Write runs into one file; its ending chooses the format.

    Runs that are not written yet, because the study was interrupted, are left out.

    Parquet and CSV hold a table: one row per run with everything that has one value per run, or,
    if `variables` names something saved over time, one row per run and time. NetCDF and NumPy hold
    arrays in their own shapes.

    Parameters
    ----------
    data : xarray.Dataset
        A result, or runs selected from one.
    path : path or str
        Ending in ``.parquet``, ``.csv``, ``.nc`` or ``.npz``.
    variables : sequence of str, optional
        What is written in addition to the run numbers and what varied; by default everything (in
        a table, everything that has one value per run).
    overwrite : bool
        Whether an existing file is replaced.

    Returns
    -------
    int
        Number of runs written.

    Raises
    ------
    FlowError
        If the ending, a variable or a library is unknown, the file exists already, or there are no
        runs to write.

    Examples
    --------
    >>> from cubie_flow import OdeSystem, solve
    >>> from cubie_flow.analysis.export import export
    >>> decay = OdeSystem.from_equations("dx/dt = -k*x", {"x": 1.0}, {"k": 1.0})
    >>> export(solve(decay, parameters={"k": [0.5, 1.0]}, duration=1.0), "decay.csv", ["x_final"])
    2
    """
    path = Path(path).expanduser()
    if path.suffix not in FORMATS:
        raise FlowError(
            f"'{path}' must end in one of {', '.join(FORMATS)}{nearest(path.suffix, FORMATS)}"
        )
    if path.exists() and not overwrite:
        raise FlowError(f"'{path}' exists already; --overwrite replaces it")
    data = runs.written(runs.numbered(data))
    if not runs.length(data):
        raise FlowError("there is nothing to export: no run of this result is written")
    table = path.suffix in (".parquet", ".csv")
    names = _chosen(data, variables, table)
    write = {".parquet": _parquet, ".csv": _csv, ".nc": _netcdf, ".npz": _numpy}[path.suffix]
    with _replaced_when_complete(path) as partial:
        write(data, names, partial)
    return runs.length(data)


def _chosen(data: Dataset, asked: Sequence[str] | None, table: bool) -> list[str]:
    """Return the variables to write: first what varied, then those that `asked` names."""
    known = [str(n) for n, v in data.variables.items() if v.dims[:1] == (RUN,) and n != RUN]
    first = [name for name in known if name in data.coords]
    if asked is None:
        rest = [n for n in known if not table or data.variables[n].dims == (RUN,)]
    else:
        for name in asked:
            if name not in known:
                raise FlowError(
                    f"the result has no variable '{name}'{nearest(name, known)} "
                    f"(it has {', '.join(known)})"
                )
        rest = list(asked)
    if table and not any(OBSERVATION in data.variables[name].dims for name in rest):
        first = [name for name in first if OBSERVATION not in data.variables[name].dims]
    return list(dict.fromkeys((*first, *rest)))


@contextmanager
def _replaced_when_complete(path: Path) -> Iterator[Path]:
    """Yield a temporary file that replaces `path` when the block ends without an error."""
    try:
        with replaced_when_complete(path) as partial:
            yield partial
    except OSError as error:
        raise FlowError(f"'{path}' cannot be written: {error.strerror or error}") from error


def _pieces(data: Dataset, names: Sequence[str]) -> Iterator[tuple[slice, Columns]]:
    """Yield some runs at a time: their slice and their arrays by name."""
    width = max((int(np.prod(data.variables[name].shape[1:])) for name in names), default=1)
    for part in runs.blocks(data, max(1, BLOCK // max(width, 1))):
        yield part, {name: runs.column(data, name, part) for name in (RUN, *names)}


def _tables(data: Dataset, names: Sequence[str]) -> Iterator[Columns]:
    """Yield pieces of a table with one row per run, or per run and time or observation."""
    words = {
        name: {value: word for word, value in runs.flags(data.variables[name]).items()}
        for name in names
    }
    timed = [name for name in names if TIME in data.variables[name].dims]
    times = data[TIME].values if timed else np.empty(0)
    own = [name for name in names if OBSERVATION in data.variables[name].dims]
    for _, columns in _pieces(data, names):
        table: Columns = {}
        for name in (RUN, *([TIME] if timed else []), *names):
            if name == TIME:
                table[name] = np.tile(times, len(columns[RUN]))
                continue
            values = columns[name]
            if words.get(name):
                values = np.array([words[name].get(int(v), str(v)) for v in values], dtype=object)
            if timed or own:
                length = len(times) if timed else data.sizes[OBSERVATION]
                values = values.ravel() if values.ndim > 1 else np.repeat(values, length)
            table[name] = values
        if OBSERVATION_TIME in table:
            # Runs have different numbers of observations.
            there = ~np.isnan(table[OBSERVATION_TIME])
            table = {name: values[there] for name, values in table.items()}
        yield table


def _parquet(data: Dataset, names: Sequence[str], path: Path) -> None:
    pyarrow = _library("pyarrow", "parquet")
    parquet = _library("pyarrow.parquet", "parquet")

    writer = None
    try:
        for table in _tables(data, names):
            piece = pyarrow.table(table)
            if writer is None:
                texts = {key: value if isinstance(value, str) else json.dumps(plain(value))
                         for key, value in data.attrs.items()}  # fmt: skip
                schema = piece.schema.with_metadata({k: v.encode() for k, v in texts.items()})
                writer = parquet.ParquetWriter(path, schema, compression="zstd")
            writer.write_table(piece.cast(writer.schema))
    finally:
        if writer is not None:
            writer.close()


def _csv(data: Dataset, names: Sequence[str], path: Path) -> None:
    import pandas as pd

    with path.open("w", encoding="utf-8", newline="") as file:
        for number, table in enumerate(_tables(data, names)):
            columns = {_cell(name): _cells(values) for name, values in table.items()}
            pd.DataFrame(columns).to_csv(file, index=False, header=number == 0)


def _cells(values: NDArray[Any]) -> NDArray[Any]:
    """Return a column whose texts no spreadsheet takes for formulas."""
    if values.dtype.kind in "biuf":
        return values
    return np.array([_cell(v) if isinstance(v, str) else v for v in values], dtype=object)


def _cell(text: str) -> str:
    """Return a text of a store as a cell that no spreadsheet takes for a formula.

    OWASP's rule: an apostrophe goes in front of what begins like a formula. Numbers stay numbers.
    """
    if NUMBER.fullmatch(text):
        return text
    # The writer leaves a lone carriage return unquoted, and readers end the row there.
    return FORMULA.sub(r"\1'", text.replace("\r\n", "\n").replace("\r", "\n"))


def _netcdf(data: Dataset, names: Sequence[str], path: Path) -> None:
    _library("h5py", "netcdf")
    h5netcdf = _library("h5netcdf", "netcdf")
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {RUN: runs.length(data)}
        others = dict.fromkeys(d for n in names for d in data.variables[n].dims if d != RUN)
        for dim in map(str, others):
            file.dimensions[dim] = data.sizes[dim]
        written = {RUN: file.create_variable(RUN, (RUN,), np.int64)}
        for name in names:
            variable = data.variables[name]
            missing = {"fillvalue": np.nan} if variable.dtype.kind == "f" else {}
            written[name] = file.create_variable(
                name, variable.dims, variable.dtype, compression="gzip", shuffle=True,
                compression_opts=1, **missing,
            )  # fmt: skip
            written[name].attrs.update(_attributes(with_flags(variable).attrs))
            swept = [n for n in names if n in data.coords and n != name]
            if name not in data.coords and swept:
                written[name].attrs["coordinates"] = " ".join(swept)
        for dim in map(str, others):
            if dim in data.variables:
                axis = data.variables[dim]
                file.create_variable(dim, (dim,), axis.dtype, data=np.asarray(axis.values))
                file[dim].attrs.update(_attributes(axis.attrs))
        file.attrs.update(_attributes({"Conventions": CONVENTIONS, **data.attrs}))
        for part, columns in _pieces(data, names):
            for name, values in columns.items():
                written[name][part] = values


def _numpy(data: Dataset, names: Sequence[str], path: Path) -> None:
    from zipfile import ZIP_STORED, ZipFile

    with ZipFile(path, "w", ZIP_STORED, allowZip64=True) as archive:
        # The format holds the arrays one after another, so each is written whole.
        for name in (RUN, *names):
            shape = (runs.length(data),) if name == RUN else data.variables[name].shape
            kind = np.dtype(np.int64) if name == RUN else data.variables[name].dtype
            header = {
                "descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape
            }  # fmt: skip
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, header)
                for _, columns in _pieces(data, [] if name == RUN else [name]):
                    file.write(np.ascontiguousarray(columns[name]).tobytes())
        if any(TIME in data.variables[name].dims for name in names):
            with archive.open(f"{TIME}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(data[TIME].values))


def _library(name: str, extra: str) -> Any:
    try:
        return import_library(name)
    except ImportError as error:
        raise FlowError(
            f"this format needs {name}, which is not installed: pip install 'cubie-flow[{extra}]'"
        ) from error


def _attributes(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Return attributes that NetCDF can hold: numbers, texts, lists of numbers."""
    converted: dict[str, Any] = {}
    for key, value in attrs.items():
        if isinstance(value, np.ndarray):
            converted[str(key)] = value
            continue
        value = plain(value)
        if isinstance(value, bool):
            value = int(value)
        numbers = (
            isinstance(value, list)
            and value
            and all(isinstance(item, int | float) for item in value)
        )
        if numbers:
            value = np.asarray(value)
        elif not isinstance(value, int | float | str):
            value = json.dumps(value)
        converted[str(key)] = value
    return converted
