"""Opening: lazy, in one sentence where it cannot be, and without the package."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from settling import study

import cubie_flow
from cubie_flow.analysis.audit import audit
from cubie_flow.api import run_study
from cubie_flow.batches import make_design
from cubie_flow.errors import FlowError
from cubie_flow.storage import Location
from cubie_flow.storage.folders import note_location
from cubie_flow.storage.provenance import SCHEMA_VERSION
from cubie_flow.study.to_config import to_config
from cubie_flow.systems import OdeSystem


def attributes(store: Path, **changes: object) -> None:
    """Change attributes in the store's first file; None deletes one."""
    path = store / "zarr.json"
    document = json.loads(path.read_text())
    document["attributes"].update(changes)
    document["attributes"] = {k: v for k, v in document["attributes"].items() if v is not None}
    path.write_text(json.dumps(document))


def test_store_and_folder_open_to_the_same_lazy_dataset(kept: Path) -> None:
    data = cubie_flow.open_results(kept)
    assert isinstance(data, xr.Dataset)
    # Nothing along run is in memory.
    assert not [n for n, v in data.variables.items() if v._in_memory and "run" in v.dims]
    assert data.identical(cubie_flow.open_results(str(kept / "results.zarr")))
    assert data.flow.path == str(kept / "results.zarr")
    plain = xr.open_zarr(kept / "results.zarr", chunks=None, decode_times=False)
    xr.testing.assert_identical(plain.load(), data.load())


def test_it_opens_without_the_solver_and_without_pictures(kept: Path) -> None:
    code = (
        f"import cubie_flow, sys\nd = cubie_flow.open_results({str(kept)!r})\n"
        "s = d.flow.sel_runs('rho > 3'); d.flow.summary(); d.flow.unfold(); d.flow.memory()\n"
        "assert not {'numba', 'llvmlite', 'matplotlib', 'hydra', 'scipy.stats'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda store: shutil.rmtree(store), "holds no results.zarr"),
        (lambda store: (store / "zarr.json").unlink(), "has no zarr.json"),
        (lambda store: (store / "zarr.json").write_text("{"), "is damaged"),
        (lambda store: (store / "zarr.json").write_text('"text"'), "is damaged"),
        (lambda store: attributes(store, schema_version=None), "not one of cubie_flow"),
        (
            lambda store: attributes(store, schema_version=SCHEMA_VERSION + 1),
            f"reads up to {SCHEMA_VERSION}",
        ),
        (lambda store: attributes(store, schema_version="two"), "schema_version two"),
    ],
)
def test_what_is_no_result_is_told_in_one_sentence(folder: Path, damage: object, told: str) -> None:
    damage(folder / "results.zarr")  # type: ignore[operator]
    with pytest.raises(FlowError, match=told) as caught:
        cubie_flow.open_results(folder)
    assert "\n" not in str(caught.value)


def test_paths_that_lead_nowhere(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FlowError, match=r"does not exist; did you mean 'settling'"):
        cubie_flow.open_results(tmp_path / "setling")
    with pytest.raises(FlowError, match="is a file"):
        cubie_flow.open_results(folder / "results.zarr" / "zarr.json")
    with pytest.raises(FlowError, match="there is one in"):
        cubie_flow.open_results(tmp_path)
    with pytest.raises(FlowError, match="one Zarr array"):
        cubie_flow.open_results(folder / "results.zarr" / "x")


def test_stores_of_others_and_of_format_2(tmp_path: Path) -> None:
    xr.Dataset({"a": ("run", np.arange(3))}).to_zarr(tmp_path / "other.zarr", zarr_format=3)
    with pytest.raises(FlowError, match="not one of cubie_flow"):
        cubie_flow.open_results(tmp_path / "other.zarr")
    xr.Dataset({"a": ("run", np.arange(3))}).to_zarr(tmp_path / "old.zarr", zarr_format=2)
    with pytest.raises(FlowError, match="of format 2"):
        cubie_flow.open_results(tmp_path / "old.zarr")


def test_a_store_whose_making_was_cut_short(folder: Path) -> None:
    array = zarr.open_array(folder / "results.zarr" / "rho", mode="r+")
    array.resize((0,))
    zarr.consolidate_metadata(folder / "results.zarr")
    with pytest.raises(FlowError, match="left unfinished"):
        cubie_flow.open_results(folder)


def test_an_interrupted_study_opens_and_says_what_is_missing(folder: Path) -> None:
    status = zarr.open_array(folder / "results.zarr" / "status", mode="r+")
    status[48:] = 255
    told = str(cubie_flow.open_results(folder).flow.summary())
    assert "not_written 12" in told
    assert "resume=" in told


def test_a_url_opens_too(lorenz: OdeSystem, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    url = "memory://analysis/results.zarr"
    made = study(lorenz, design=make_design("grid", {"rho": [3.0, 5.0, 7.0]}))
    run_study(made, url, config_yaml=to_config(made))
    data = cubie_flow.open_results(url)
    assert isinstance(data, xr.Dataset)
    assert data.flow.path == url
    np.testing.assert_array_equal(data.flow.sel_runs("rho > 4").run, [1, 2])
    assert "bytes" in data.flow.memory()
    assert audit(url).sizes["audited"] == 3
    assert "of 3 runs" in str(cubie_flow.open_results(url).flow.summary())
    # The folder of such a run says where it is, and its address is not contacted for that.
    note_location(tmp_path, Location(url))
    with pytest.raises(FlowError, match=f"type {url} in place of the folder if you trust it"):
        cubie_flow.open_results(tmp_path)
    assert cubie_flow.open_results(Location(url)).flow.path == url
    with pytest.raises(FlowError, match="cannot be opened") as caught:
        cubie_flow.open_results("memory://analysis/nowhere.zarr")
    assert "\n" not in str(caught.value)
