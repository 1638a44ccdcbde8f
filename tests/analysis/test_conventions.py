"""Results follow the conventions of NetCDF and xarray, and are kept and opened by both."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from settling import study, written

import cubie_flow
from cubie_flow import OdeSystem, solve
from cubie_flow.analysis.backend import FlowBackend
from cubie_flow.errors import FlowError


def _attributes(store: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield name and attributes of every array and group of a store."""
    for file in store.rglob("zarr.json"):
        node = json.loads(file.read_text())
        yield str(file.parent.relative_to(store)), node["attributes"]


def test_a_store_follows_the_conventions(kept: Path, tmp_path: Path) -> None:
    store = kept / "results.zarr"
    for name, attrs in _attributes(store):
        for value in attrs.values():
            kinds = {type(one) for one in (value if isinstance(value, list) else [value])}
            assert {int, float, str} >= kinds != set(), (name, attrs)
    data = xr.open_zarr(store)
    assert data.attrs["Conventions"] == "CF-1.11"
    assert data.time.attrs == {"units": "1", "long_name": "time"}
    memory = xr.open_zarr(store, group="memory")
    for name, array in (*data.variables.items(), *memory.variables.items()):
        assert array.attrs.get("long_name"), name
    assert memory.bytes.attrs["units"] == "byte"
    assert memory.encode_seconds.attrs["units"] == "s"
    opened = cubie_flow.open_results(kept)
    assert isinstance(opened, xr.Dataset)
    assert opened.status.attrs["flag_values"].dtype == opened.status.dtype == np.uint8
    # The whole tree as one file of NetCDF.
    pytest.importorskip("h5netcdf")
    tree = xr.open_datatree(store, engine="zarr", decode_times=False)
    tree.to_netcdf(tmp_path / "all.nc", engine="h5netcdf")
    again = xr.open_datatree(tmp_path / "all.nc", engine="h5netcdf", decode_times=False)
    np.testing.assert_array_equal(again["z"], tree["z"])


def test_a_result_of_solve_is_kept_and_opened(lorenz: OdeSystem, tmp_path: Path) -> None:
    data = solve(lorenz, parameters={"rho": [3.0, 5.0, 9.0]}, duration=1.0, save_every=0.5)
    path = data.flow.save(tmp_path / "mine.zarr")
    data.to_zarr(tmp_path / "plain.zarr", zarr_format=3)
    for opened in map(cubie_flow.open_results, (path, tmp_path / "plain.zarr")):
        assert isinstance(opened, xr.Dataset)
        assert opened.identical(data)
        assert opened.flow.summary().values["statuses"] == {"success": 3}
        again = opened.flow.rerun([2])
        np.testing.assert_array_equal(again.x[0], data.x[2])
    chosen = cubie_flow.open_results(path).flow.sel_runs("rho > 4")
    chosen.flow.save(tmp_path / "some.zarr")
    some = cubie_flow.open_results(tmp_path / "some.zarr")
    assert isinstance(some, xr.Dataset)
    assert some.run.values.tolist() == [1, 2]
    assert float(data.flow.audit()["error"].max()) < 1e-4
    with pytest.raises(FlowError, match="exists already"):
        data.flow.save(path)
    with pytest.raises(FlowError, match=r"its name must end in \.zarr"):
        data.flow.save(tmp_path / "mine")


def test_the_backend_of_xarray(kept: Path, lorenz: OdeSystem, tmp_path: Path) -> None:
    names = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    (backend,) = names["project"]["entry-points"]["xarray.backends"].values()
    assert backend == f"{FlowBackend.__module__}:{FlowBackend.__name__}"
    data = xr.open_dataset(kept, engine=FlowBackend)
    assert data.flow.summary().values["runs"] == 60
    assert "z" not in xr.open_dataset(kept, engine=FlowBackend, drop_variables="z")
    assert xr.open_datatree(kept, engine=FlowBackend).z.shape == (60, 9)
    with pytest.raises(FlowError, match="is one study and has no job 'job_0'"):
        xr.open_dataset(kept, engine=FlowBackend, group="job_0")


def test_a_coordinate_that_varies_can_be_searched(kept: Path, tmp_path: Path) -> None:
    made = study(OdeSystem.from_equations("dx/dt = -k*x", {"x": 1.0}, {"k": 1.0}),
                 design=cubie_flow.batches.make_design("zip", {"k": [0.5, 1.0, 2.0]}),
                 output=cubie_flow.api.OutputChoice(summaries=["x"]))  # fmt: skip
    data = cubie_flow.open_results(written(made, tmp_path / "run"))
    assert isinstance(data, xr.Dataset)
    near = data.set_xindex("k").sel(k=1.1, method="nearest")
    assert float(near.k) == 1.0
    grid = cubie_flow.open_results(kept)
    assert isinstance(grid, xr.Dataset)
    assert float(grid.flow.unfold().sel(rho=3.2, method="nearest").rho) == 3.0


def test_functions_of_numpy_in_models() -> None:
    def model(t, y, p):  # type: ignore[no-untyped-def]
        drive = np.float64(2.0) * np.sin(y.x) - np.sqrt(np.abs(p.k) + 1.0)
        return {"x": np.exp(-y.x) * np.maximum(drive, -1.0), "y": np.arctan2(y.x, 2.0) / y.y}

    def same(t, y, p):  # type: ignore[no-untyped-def]
        from cubie_flow import maths as m

        drive = 2.0 * m.sin(y.x) - m.sqrt(abs(p.k) + 1.0)
        return {"x": m.exp(-y.x) * m.maximum(drive, -1.0), "y": m.atan2(y.x, 2.0) / y.y}

    systems = [OdeSystem.from_function(f, {"x": 0.1, "y": 1.0}, {"k": 1.0}) for f in (model, same)]
    hashes = {json.dumps(system.to_mapping()["equations"]) for system in systems}
    assert len(hashes) == 1
    with pytest.raises(FlowError, match="cannot be traced"):
        OdeSystem.from_function(lambda t, y, p: {"x": np.spacing(y.x)}, {"x": 1.0}, {})


def test_wrong_keywords_are_answered() -> None:
    system = OdeSystem.from_equations("dx/dt = -k*x", {"x": 1.0}, {"k": 1.0})
    with pytest.raises(TypeError, match="did you mean 'parameters'"):
        solve(system, parameter={"k": [1.0]})
    with pytest.raises(TypeError, match="did you mean 'save_every'"):
        solve(system, save_ever=0.1)


def test_the_stream_of_the_documentation(kept: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "other-tools.md").read_text()
    (code,) = [part for part in page.split("```") if "def batches" in part]
    names: dict[str, Any] = {}
    exec(code.removeprefix("python\n"), names)  # the page is part of this repository
    data = cubie_flow.open_results(kept)
    good = int((data.status == 0).sum())
    pieces = list(names["batches"](kept, ["rho", "x_initial"], ["z_max"], 10, runs=16))
    assert sum(len(x) for x, _ in pieces) == good < 60
    assert {x.shape[1] for x, _ in pieces} == {2}
    seen = {tuple(row) for x, _ in pieces for row in x.tolist()}
    chosen = data.isel(run=np.flatnonzero(data.status == 0))
    assert seen == set(zip(chosen.rho.values, chosen.x_initial.values, strict=True))
    assert len(pieces) > len(range(0, good, 10))  # a batch never crosses two pieces
