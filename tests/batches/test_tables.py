"""Runs read from CSV and Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cubie_flow.batches import make_design
from cubie_flow.errors import FlowError

pd = pytest.importorskip("pandas")
VALUES = {"rho": np.linspace(1, 28, 50), "sigma": np.arange(50) % 7}


@pytest.fixture(params=["csv", "parquet"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write(tmp_path / f"runs.{request.param}", VALUES)


def write(path: Path, columns: dict[str, Any]) -> Path:
    frame = pd.DataFrame(columns)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        pytest.importorskip("pyarrow")
        frame.to_parquet(path, row_group_size=8)
    return path


def test_every_column_is_a_quantity_and_every_row_a_run(table: Path) -> None:
    design = make_design("table", {}, path=table)
    assert (design.names, design.size, design.shape) == (("rho", "sigma"), 50, None)
    for start, stop in [(0, 50), (5, 6), (7, 33), (50, 50)]:
        columns = design.columns(start, stop)
        for name, expected in VALUES.items():
            assert columns[name].dtype == np.float64
            np.testing.assert_array_equal(columns[name], expected[start:stop])


def test_columns_may_be_chosen_renamed_and_completed(table: Path) -> None:
    design = make_design("table", {"s": "sigma", "rho": None, "beta": 2.5}, size=9, path=table)
    assert (design.names, design.size) == (("s", "rho", "beta"), 9)
    columns = design.columns(2, 9)
    np.testing.assert_array_equal(columns["s"], VALUES["sigma"][2:9])
    np.testing.assert_array_equal(columns["rho"], VALUES["rho"][2:9])
    np.testing.assert_array_equal(columns["beta"], np.full(7, 2.5))


def test_identity_is_the_values_not_the_file(table: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    other = write(tmp_path / "elsewhere" / "copy.csv", VALUES)
    one, two = make_design("table", {}, path=table), make_design("table", {}, path=other)
    assert one.content_hash == two.content_hash
    changed = write(tmp_path / "changed.csv", {**VALUES, "rho": VALUES["rho"] + 1})
    assert make_design("table", {}, path=changed).content_hash != one.content_hash


def test_an_appended_table_extends_the_shorter_one(table: Path, tmp_path: Path) -> None:
    short = make_design("table", {}, path=table)
    more = {name: np.concatenate([column, column]) for name, column in VALUES.items()}
    longer = make_design("table", {}, path=write(tmp_path / "more.csv", more))
    assert longer.extends(short.describe())
    assert not short.extends(longer.describe())
    edited = {**more, "rho": np.where(np.arange(100) == 3, -1.0, more["rho"])}
    assert not make_design("table", {}, path=write(tmp_path / "edited.csv", edited)).extends(
        short.describe()
    )


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([1.0, np.nan, 2.0], "column 'rho' .* not finite in data row 2"),
        ([1.0, 2.0, np.inf], "column 'rho' .* not finite in data row 3"),
        (["1", "two", "3"], "column 'rho' .*holds 'two' in data row 2, which is not a number"),
    ],
)
def test_a_bad_value_is_named(suffix: str, column: list[Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"bad.{suffix}", {"rho": column})
    with pytest.raises(FlowError, match=message):
        make_design("table", {}, path=path)


def test_a_missing_column_is_named_with_the_nearest(table: Path) -> None:
    with pytest.raises(FlowError, match=r"'sigm'.*columns: rho, sigma.*did you mean 'sigma'"):
        make_design("table", {"sigm": None}, path=table)


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(FlowError, match=r"absent\.csv' is not a file"):
        make_design("table", {}, path=tmp_path / "absent.csv")
    with pytest.raises(FlowError, match=r"table\.xlsx' must end in one of \.csv, \.parquet, \.pq"):
        make_design("table", {}, path=tmp_path / "table.xlsx")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(FlowError, match="cannot be read as CSV"):
        make_design("table", {}, path=tmp_path / "empty.csv")
    (tmp_path / "ragged.csv").write_text("rho\n1\n2,3,4\n")
    with pytest.raises(FlowError, match="cannot be read as CSV") as caught:
        make_design("table", {}, path=tmp_path / "ragged.csv")
    assert "\n" not in str(caught.value)
    (tmp_path / "shifted.csv").write_text("rho,sigma\n0,2,3\n1,5,6\n")
    with pytest.raises(FlowError, match="more values than its header has names"):
        make_design("table", {}, path=tmp_path / "shifted.csv")
    (tmp_path / "head.csv").write_text("rho\n")
    with pytest.raises(FlowError, match="no rows"):
        make_design("table", {}, path=tmp_path / "head.csv")
    pytest.importorskip("pyarrow")
    (tmp_path / "broken.parquet").write_text("nothing")
    with pytest.raises(FlowError, match="cannot be read as Parquet"):
        make_design("table", {}, path=tmp_path / "broken.parquet")


def test_other_mistakes_with_a_table(table: Path, tmp_path: Path) -> None:
    with pytest.raises(FlowError, match="has 50 rows"):
        make_design("table", {}, size=51, path=table)
    with pytest.raises(FlowError, match="column name or one number"):
        make_design("table", {"rho": [1, 2]}, path=table)
    with pytest.raises(FlowError, match="at least one column"):
        make_design("table", {"rho": 1}, path=table)
    pd.DataFrame(VALUES).to_csv(tmp_path / "indexed.csv")
    with pytest.raises(FlowError, match=r"column 1 of .* has no name"):
        make_design("table", {}, path=tmp_path / "indexed.csv")


@pytest.mark.parametrize(
    "text",
    [
        " rho , sigma\n1, 2\n3,4\n",
        "\n\nrho,sigma\n1,2\n3,4\n\n \n\n",
        "\ufeffrho,sigma\r\n1,2\r\n3,4\r\n\r\n",
        "rho,sigma,note\n1,2,'a'\n3,4,\"b\n\nc\"\n",
    ],
)
def test_spaces_around_names_and_blank_lines_at_the_ends_do_not_count(
    text: str, tmp_path: Path
) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(text, encoding="utf-8", newline="")
    design = make_design("table", {"rho": None, "sigma": None}, path=path)
    assert design.columns(0, 2)["rho"].tolist() == [1.0, 3.0]
    assert design.columns(0, 2)["sigma"].tolist() == [2.0, 4.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rho,sigma\n1,2\n\n3,4\n", "line 3 of .* is blank, with rows after it"),
        ("rho\n1\n  \n\n3\n", "line 4 of .* is blank"),
        ("rho,sigma,rho\n1,2,3\n", "has the column 'rho' twice"),
        ("rho;sigma\n1,5;2\n", "separates its columns by ';'; separate them by ','"),
        ("rho\tsigma\n1\t2\n", "separates its columns by tabs"),
        (" \n\n", "cannot be read as CSV: it is empty"),
        ("rho,x\n1,one\n", r"holds 'one' in data row 1.*batch.values=\{NAME: COLUMN\}"),
    ],
)
def test_a_csv_file_is_not_read_as_something_else(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text(text)
    with pytest.raises(FlowError, match=message):
        make_design("table", {}, path=tmp_path / "runs.csv")
