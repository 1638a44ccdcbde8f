"""Stores of several jobs: a tree, a table, and its jobs by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from settling import study

import cubie_flow
from cubie_flow.analysis.cli import main
from cubie_flow.analysis.opening import open_runs
from cubie_flow.api import run_study
from cubie_flow.batches import make_design
from cubie_flow.batches.swept import SEED, swept_design
from cubie_flow.errors import FlowError
from cubie_flow.storage import Location, provenance
from cubie_flow.storage.index import FAILED, SUCCESS, write_index
from cubie_flow.study.to_config import to_config
from cubie_flow.systems import OdeSystem


@pytest.fixture(scope="module")
def multirun(lorenz: OdeSystem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two jobs that ended and one that failed; its metadata is not gathered yet."""
    folder = tmp_path_factory.mktemp("multirun")
    place = Location(folder / "results.zarr")
    rows = []
    for job, algorithm in enumerate(("tsit5", "bogacki_shampine_32", "rk4")):
        status = FAILED if algorithm == "rk4" else SUCCESS
        told = {"group": f"job_{job}", "algorithm": algorithm, "job_status": status, "runs": 60}
        rows.append({**told, "error": "controller.dt is None" if status == FAILED else ""})
    attrs = {**provenance(), "study": "methods"}
    write_index(place, rows, attrs, ["algorithm"])
    for job in (0, 1):
        made = study(lorenz, algorithm=rows[job]["algorithm"])
        run_study(made, place.child(f"job_{job}"), config_yaml=to_config(made))
    return folder


@pytest.mark.parametrize("gathered", [False, True])
def test_a_multirun_opens_as_a_tree(multirun: Path, gathered: bool) -> None:
    if gathered:
        import zarr

        zarr.consolidate_metadata(multirun / "results.zarr")
    tree = cubie_flow.open_results(multirun)
    assert isinstance(tree, xr.DataTree)
    assert list(tree.children) == ["job_0", "job_1"]
    assert tree["job_1"].attrs["algorithm"] == "bogacki_shampine_32"
    table = tree.flow.jobs()
    assert table["algorithm"].tolist() == ["tsit5", "bogacki_shampine_32", "rk4"]
    assert table["ended"].tolist() == ["success", "success", "failed"]
    told = str(tree.flow.summary())
    assert "3 over algorithm: success 2, failed 1" in told
    assert "job 2: controller.dt is None" in told
    chosen = tree.flow.sel_runs("rho > 3 and status == 'success'")
    for name in ("job_0", "job_1"):
        data = tree[name].to_dataset(inherit=False)
        wanted = np.flatnonzero((data.rho > 3) & (data.status == 0))
        np.testing.assert_array_equal(chosen[name].run, wanted)


def test_jobs_are_named_after_the_path(multirun: Path) -> None:
    data = open_runs(f"{multirun}::1")
    assert data.attrs["algorithm"] == "bogacki_shampine_32"
    assert "job" not in data.coords
    assert "bytes" in data.flow.memory()
    with pytest.raises(
        FlowError, match=r"holds 2 jobs with runs; name one of them, such as '.*::0'"
    ):
        open_runs(multirun)
    with pytest.raises(FlowError, match=r"has no job '5'; did you mean"):
        open_runs(f"{multirun}::5")


def test_the_command_knows_jobs(multirun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def data_of(*words: str) -> object:
        assert main([*words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    assert data_of("show", str(multirun))["ended"] == {"success": 2, "failed": 1}  # type: ignore[index]
    [row] = data_of("ls", str(multirun.parent / multirun.name))  # type: ignore[misc]
    assert row["ended"].startswith("3 jobs")
    found = data_of("compare", f"{multirun}::0", f"{multirun}::1")
    assert set(found["config"]["science"]) == {"algorithm.name"}  # type: ignore[index]
    audited = data_of("audit", f"{multirun}::0")
    assert len(audited["runs"]["error"]) == 8  # type: ignore[index]
    assert "audited error" in str(open_runs(f"{multirun}::0").flow.summary())
    assert "audited error" not in str(open_runs(f"{multirun}::1").flow.summary())


def test_a_sweep_around_a_batch_unfolds(lorenz: OdeSystem, tmp_path: Path) -> None:
    def drawn(seed: int) -> object:
        return make_design("sobol", {"rho": {"uniform": [1.0, 9.0]}}, size=4, seed=seed)

    axes = [{"sigma": [8.0, 9.0, 10.0], "beta": [1.0, 2.0, 3.0]}, {SEED: [1, 2]}]
    design = swept_design(axes, 0, drawn)  # type: ignore[arg-type]
    run_study(study(lorenz, design=design), tmp_path / "results.zarr")
    data = cubie_flow.open_results(tmp_path)
    assert isinstance(data, xr.Dataset)
    unfolded = data.flow.unfold()
    assert dict(unfolded.z.sizes) == {"sigma": 3, "batch_seed": 2, "draw": 4, "time": 9}
    assert unfolded.beta.dims == ("sigma",)
    np.testing.assert_array_equal(unfolded.z, data.z.values.reshape(3, 2, 4, 9))
    np.testing.assert_array_equal(unfolded.rho, data.rho.values.reshape(3, 2, 4))
    sigma, seeds = data.sigma.values.reshape(3, 2, 4), data.batch_seed.values.reshape(3, 2, 4)
    np.testing.assert_array_equal(unfolded.sigma, sigma[:, 0, 0])
    np.testing.assert_array_equal(unfolded.batch_seed, seeds[0, :, 0])
