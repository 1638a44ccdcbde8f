"""``ds.flow``: choosing runs, unfolding, summaries, integrating again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from settling import study, written

import cubie_flow
from cubie_flow.analysis import opening, runs
from cubie_flow.batches import make_design
from cubie_flow.errors import FlowError
from cubie_flow.systems import OdeSystem


@pytest.fixture(scope="module")
def data(kept: Path) -> xr.Dataset:
    opened = cubie_flow.open_results(kept)
    assert isinstance(opened, xr.Dataset)
    return opened


def test_runs_are_those_that_satisfy_the_condition(
    data: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "BLOCK", 16)
    chosen = data.flow.sel_runs("rho >= 5 and status == 'success' and x_initial in [1, -1]")
    full = data.load().copy()
    wanted = (full.rho >= 5) & (full.status == 0) & (abs(full.x_initial) == 1)
    assert wanted.sum() == 14
    np.testing.assert_array_equal(chosen.run, np.flatnonzero(wanted))
    np.testing.assert_array_equal(chosen.z, full.z[wanted.values])
    # A selection of a selection keeps the numbers of the runs.
    again = chosen.flow.sel_runs("run > 30 and z_max > 3")
    assert set(again.run.values) <= set(chosen.run.values)
    assert (again.run > 30).all()
    assert data.flow.sel_runs("rho > 1e9").sizes["run"] == 0


def test_only_the_columns_named_are_read(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    column = runs.column
    monkeypatch.setattr(
        runs, "column", lambda data, name, part: read.append(name) or column(data, name, part)
    )
    cubie_flow.open_results(kept).flow.sel_runs("rho > 3 and z_max < 20")
    assert set(read) == {"rho", "z_max"}


def test_failed_runs(data: xr.Dataset) -> None:
    failed = data.flow.failed()
    assert 0 < failed.sizes["run"] < 60
    assert (failed.status == 1).all()
    assert data.flow.summary().values["statuses"]["step_limit"] == failed.sizes["run"]


def test_a_grid_unfolds_lazily_to_the_same_values(data: xr.Dataset) -> None:
    unfolded = data.flow.unfold()
    assert unfolded.z.dims == ("rho", "x_initial", "time")
    assert not unfolded.variables["z"]._in_memory
    z = data.z.values.reshape(15, 4, 9)
    np.testing.assert_array_equal(unfolded.z, z)
    np.testing.assert_array_equal(unfolded.z[3, 1:3, ::-2], z[3, 1:3, ::-2])
    np.testing.assert_array_equal(unfolded.z.isel(rho=[7, 2], x_initial=-1), z[[7, 2], -1])
    np.testing.assert_array_equal(unfolded.z.isel(time=4, rho=slice(2, 9, 3)), z[2:9:3, :, 4])
    shuffled = unfolded.z.isel(rho=9, x_initial=[0, 2, 1, 3])
    np.testing.assert_array_equal(shuffled, z[9, [0, 2, 1, 3]])
    points = xr.DataArray([0, 3, 1], dims="point")
    np.testing.assert_array_equal(
        unfolded.z_max.isel(rho=points, x_initial=points), data.z_max.values[[0, 15, 5]]
    )
    np.testing.assert_array_equal(unfolded.rho, np.linspace(0, 14, 15))
    assert unfolded.sel(x_initial=2.0).status.dims == ("rho",)


def test_only_a_whole_grid_unfolds(data: xr.Dataset) -> None:
    with pytest.raises(FlowError, match="unfold first"):
        data.flow.sel_runs("rho > 3").flow.unfold()
    drawn = data.assign_attrs(design='{"kind": "latin_hypercube", "values": {}}')
    with pytest.raises(FlowError, match="a latin hypercube design"):
        drawn.flow.unfold()


def test_masked_and_renamed_runs_are_refused_in_a_sentence(data: xr.Dataset) -> None:
    with pytest.raises(FlowError, match=r"runs without a status, as where\(\.\.\.\) makes them"):
        data.where(data.rho > 5).flow.summary()
    masked = data.where(data.rho > 5, drop=True)
    assert masked.flow.summary().values["runs"] == masked.sizes["run"] < 60
    # With its number the run is known, but not the value of the quantity.
    renamed = data.flow.sel_runs("rho > 5").rename(rho="r")
    with pytest.raises(FlowError, match="the study varies 'rho', which this dataset does not hold"):
        renamed.flow.rerun(int(renamed.run[0]))


def test_configuration_memory_and_summary(data: xr.Dataset) -> None:
    assert data.flow.config()["controller"]["max_steps"] == 110
    assert "bytes" in data.flow.memory()
    told = data.flow.summary()
    assert "60 (grid over rho, x), 9 saved times" in str(told)
    assert "raise controller.max_steps" in str(told)
    assert told._repr_html_().startswith("<table>")
    # Selections say what they are, too.
    assert data.flow.failed().flow.summary().values["runs"] == data.flow.failed().sizes["run"]


def test_runs_integrate_again_to_the_same_bits(data: xr.Dataset) -> None:
    again = data.flow.rerun([7, 59, 3])
    np.testing.assert_array_equal(again.run, [7, 59, 3])
    for name in data.data_vars:
        np.testing.assert_array_equal(again[name], data[name][[7, 59, 3]], err_msg=str(name))
    # What came of it can be run again as well, and other things be asked of it.
    more = again.flow.rerun(59, rtol=1e-9, atol=1e-9, max_steps=10_000, save_every=0.1)
    assert more.sizes == {"run": 1, "time": 41}
    assert more.status.item() == 0
    assert more.steps.item() > again.steps[1].item()


def test_values_of_runs_can_be_changed(data: xr.Dataset) -> None:
    changed = data.flow.rerun(
        [40, 44], parameters={"beta": 1.0}, initial_values={"x": 2.5}, max_steps=1000
    )
    assert "x_initial" not in changed.coords
    np.testing.assert_array_equal(changed.rho, data.rho[[40, 44]])
    # The fixed point of the Lorenz system: z = rho - 1 once beta is 1 as well.
    longer = changed.flow.rerun([40], duration=60.0, rtol=1e-10, max_steps=100_000)
    assert longer.z_final.item() == pytest.approx(data.rho[40].item() - 1, abs=1e-3)


@pytest.mark.parametrize(
    ("which", "changes", "told"),
    [
        ([60], {}, "there is no run 60; the runs are 0 to 59"),
        ([-1], {}, "there is no run -1"),
        ([0.5], {}, "named by their numbers"),
        ([], {}, "no runs are named"),
        ([0], {"rtoll": 1}, "did you mean 'rtol'"),
        ([0], {"rtol": -1.0}, "controller.rtol is -1.0"),
        ([0], {"algorithm": "tsit"}, "did you mean 'tsit5'"),
        ([0], {"parameters": {"bet": 1.0}}, "did you mean 'beta'"),
        ([0], {"parameters": 3}, "must map names to numbers"),
    ],
)
def test_what_cannot_be_run_again(
    data: xr.Dataset, which: object, changes: dict[str, object], told: str
) -> None:
    with pytest.raises(FlowError, match=told):
        data.flow.rerun(which, **changes)


def test_a_selection_is_asked_for_by_its_own_numbers(data: xr.Dataset) -> None:
    chosen = data.flow.sel_runs("rho > 10")
    again = chosen.flow.rerun(int(chosen.run[2]))
    np.testing.assert_array_equal(again.z[0], chosen.z[2])
    with pytest.raises(FlowError, match="run 0 is not among the"):
        chosen.flow.rerun(0)


def test_datasets_of_solve_run_again(lorenz: OdeSystem) -> None:
    made = cubie_flow.solve(lorenz, parameters={"rho": [5.0, 10.0]}, duration=1.0, rescue="default")
    again = made.flow.rerun(1)
    np.testing.assert_array_equal(again.z_final, made.z_final[1:])
    with pytest.raises(FlowError, match="not opened from a store"):
        made.flow.memory()


def test_the_example_of_the_readme_runs(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    example = readme.split("from cubie_flow import open_results\n")[1].split("```")[0]
    monkeypatch.setattr("cubie_flow.open_results", lambda _: opening.open_results(kept))
    exec("from cubie_flow import open_results\n" + example.replace("24.74", "2.0"), {})


def test_runs_of_varying_duration_keep_the_times_they_reach(
    lorenz: OdeSystem, tmp_path: Path
) -> None:
    from cubie_flow.api import OutputChoice

    design = make_design("zip", {"duration": [1.0, 2.0, 3.0]})
    made = study(lorenz, design=design, output=OutputChoice(times=[0.5, 1.5, 2.5]))
    data = cubie_flow.open_results(written(made, tmp_path))
    again = data.flow.rerun([0, 1])
    np.testing.assert_array_equal(again.time, [0.5, 1.5])
    np.testing.assert_array_equal(again.x, data.x[[0, 1], :2])
