"""A table means the same as runs of a batch, as a driver and as measured data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cubie_flow.batches import make_design
from cubie_flow.errors import FlowError
from cubie_flow.systems.drivers_reader import read_driver
from cubie_flow.systems.measurements import read_measurements

Reader = Callable[[Path], list[list[float]]]


def as_batch(path: Path) -> list[list[float]]:
    design = make_design("table", {"time": None, "x": None}, path=path)
    return [design.columns(0, design.size)[name].tolist() for name in ("time", "x")]


def as_driver(path: Path) -> list[list[float]]:
    driver = read_driver("x", {"file": str(path)}, "system m")
    return [list(driver.times), *map(list, driver.values)]


def as_measurements(path: Path) -> list[list[float]]:
    return list(read_measurements(path, ["x"]).to_mapping().values())  # type: ignore[arg-type]


@pytest.fixture(params=[as_batch, as_driver, as_measurements])
def read(request: pytest.FixtureRequest) -> Reader:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "text",
    [
        "time,x\n0,0.1\n1.5,2\n",
        "\ufefftime,x\r\n0,0.1\r\n1.5,2\r\n",
        "\n \n time , x\n0, 0.1\n1.5 , 2 \n\n  \n",
        'time,x\n"0","0.1"\n15e-1,2.0',
    ],
)
def test_a_table_has_the_same_numbers_in_every_use(text: str, read: Reader, tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text(text, encoding="utf-8", newline="")
    assert read(path) == [[0.0, 1.5], [0.1, 2.0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,x\n0,1\n\n1,2\n", r"line 3 of '.*data\.csv' is blank, with rows after it"),
        ("# a comment\ntime,x\n0,1\n1,2\n", r"'.*data\.csv' begins with a comment"),
        ("time,x\n0,1\n# a comment\n1,2\n", r"line 3 of '.*data\.csv' is a comment"),
        ("time,x\n0,1\n#1,2\n", r"column 'time' of '.*data\.csv' holds '#1' in data row 2"),
        ("time,x\n0,1\n1,two\n", r"column 'x' of '.*data\.csv' holds 'two' in data row 2"),
        ("time,x\n0,1\n1,True\n", r"column 'x' of '.*data\.csv' holds 'True' in data row 2"),
        ("time,x\n0,1\n1,inf\n", r"column 'x' of '.*' is missing or not finite in data row 2"),
        ("time,x\n0,1\n1\n", r"line 3 of '.*data\.csv' has 1 values, but the header has 2"),
        ("time,x\n0,1\n1,2,3\n", r"'.*data\.csv' cannot be read as CSV: .* line 3"),
        ("time,y\n0,1\n1,2\n", r"column.*'y'|has no column 'x' \(columns: time, y\)"),
        ("time,x,x\n0,1,2\n", r"'.*data\.csv' has the column 'x' twice"),
        ("time;x\n0;1\n", r"'.*data\.csv' separates its columns by ';'"),
        ("time,x\n", "has a header but no rows"),
        ("", "cannot be read as CSV: it is empty"),
    ],
)
def test_a_mistake_is_the_same_in_every_use(
    text: str, message: str, read: Reader, tmp_path: Path
) -> None:
    path = tmp_path / "data.csv"
    path.write_text(text)
    with pytest.raises(FlowError, match=message):
        read(path)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_only_measured_data_may_lack_values(suffix: str, tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    path = tmp_path / f"data.{suffix}"
    frame = pd.DataFrame({"time": [0.0, 1.0, 2.0], "x": [1.0, None, 3.0]})
    if suffix == "csv":
        path.write_text("time,x\n0,1\n1,NA\n2,3\n")
    else:
        pytest.importorskip("pyarrow")
        frame.to_parquet(path)
    assert as_measurements(path) == [[0.0, 1.0, 2.0], [1.0, None, 3.0]]
    for read in (as_batch, as_driver):
        with pytest.raises(FlowError, match=r"'x' of .* is missing or not finite in data row 2"):
            read(path)
