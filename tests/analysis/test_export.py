"""Other formats hold the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import cubie_flow
from cubie_flow.analysis import export as exporting
from cubie_flow.analysis.export import export
from cubie_flow.errors import FlowError


@pytest.fixture
def data(kept: Path, monkeypatch: pytest.MonkeyPatch) -> xr.Dataset:
    monkeypatch.setattr(exporting, "BLOCK", 16 * 9)  # several pieces
    opened = cubie_flow.open_results(kept)
    assert isinstance(opened, xr.Dataset)
    return opened


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables(data: xr.Dataset, tmp_path: Path, ending: str) -> None:
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet}[ending]
    assert export(data, tmp_path / f"runs.{ending}") == 60
    table = read(tmp_path / f"runs.{ending}")
    assert list(table.columns[:3]) == ["run", "rho", "x_initial"]
    assert "z" not in table.columns
    np.testing.assert_array_equal(table.z_max, data.z_max)
    words = np.where(data.status == 0, "success", "step_limit")
    np.testing.assert_array_equal(table.status, words)
    # Something over time makes a row a run and time.
    chosen = data.flow.sel_runs("rho == 14")
    export(chosen, tmp_path / f"long.{ending}", ["z", "z_max"])
    long = read(tmp_path / f"long.{ending}")
    assert list(long.columns) == ["run", "time", "rho", "x_initial", "z", "z_max"]
    np.testing.assert_array_equal(long.z, chosen.z.values.ravel())
    np.testing.assert_array_equal(long.run, np.repeat(chosen.run.values, 9))
    np.testing.assert_array_equal(long.z_max, np.repeat(chosen.z_max.values, 9))


def test_netcdf_opens_as_the_same_dataset(data: xr.Dataset, tmp_path: Path) -> None:
    export(data, tmp_path / "a.nc")
    with xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf", decode_times=False) as read:
        for name in (*data.data_vars, "rho", "time"):
            np.testing.assert_array_equal(read[name], data[name], err_msg=str(name))
        assert set(read.coords) == {"run", "rho", "x_initial", "time"}
        assert read.status.attrs["flag_meanings"] == data.status.attrs["flag_meanings"]
        assert read.attrs["system"] == data.attrs["system"]


def test_numpy_holds_the_arrays(data: xr.Dataset, tmp_path: Path) -> None:
    chosen = data.flow.sel_runs("rho > 10")
    export(chosen, tmp_path / "a.npz", ["z", "steps"])
    with np.load(tmp_path / "a.npz") as read:
        assert set(read) == {"run", "rho", "x_initial", "z", "steps", "time"}
        for name in read:
            np.testing.assert_array_equal(read[name], chosen[name], err_msg=name)


def test_what_cannot_be_exported(data: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(FlowError, match=r"must end in one of .parquet, .csv, .nc, .npz"):
        export(data, tmp_path / "a.xlsx")
    with pytest.raises(FlowError, match="did you mean 'z_max'"):
        export(data, tmp_path / "a.csv", ["z_mx"])
    (tmp_path / "a.csv").write_text("mine")
    with pytest.raises(FlowError, match="exists already"):
        export(data, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "mine"
    with pytest.raises(FlowError, match="cannot be written"):
        export(data, tmp_path / "nowhere" / "a.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
