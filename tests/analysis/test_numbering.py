"""Runs keep their numbers and their places on a grid, however xarray has moved them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from settling import study, written

import cubie_flow
from cubie_flow.analysis import numbering
from cubie_flow.analysis.export import export
from cubie_flow.analysis.pictures.reading import run_indices, run_labels
from cubie_flow.api import OutputChoice, solve_study
from cubie_flow.batches import make_design, swept_design
from cubie_flow.batches.described import described_design
from cubie_flow.errors import FlowError
from cubie_flow.systems import OdeSystem

RUNS = 60
QUICK = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
#: Numbers of runs: a permutation, some runs, or some of them several times.
MOVED = st.one_of(
    st.permutations(range(RUNS)),
    st.lists(st.integers(0, RUNS - 1), min_size=1, max_size=2 * RUNS),
)


@pytest.fixture(scope="module", params=["ours", "dask", "xarray", "loaded", "solved"])
def data(kept: Path, lorenz: OdeSystem, request: pytest.FixtureRequest) -> xr.Dataset:
    """The same runs, opened in each way there is."""
    store = str(kept / "results.zarr")
    if request.param == "solved":
        return solve_study(study(lorenz))
    if request.param == "xarray":
        return xr.open_zarr(store, chunks=None, decode_times=False)
    opened = cubie_flow.open_results(store, chunks={} if request.param == "dask" else None)
    assert isinstance(opened, xr.Dataset)
    return opened.load() if request.param == "loaded" else opened


@pytest.fixture(scope="module")
def truth(kept: Path) -> xr.Dataset:
    return xr.open_zarr(str(kept / "results.zarr"), chunks=None, decode_times=False).load()


def same(one: xr.Dataset, other: xr.Dataset, names: list[str]) -> None:
    for name in names:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@QUICK
@given(order=MOVED)
def test_moved_runs_unfold_to_their_places_or_not_at_all(
    order: list[int], data: xr.Dataset, truth: xr.Dataset
) -> None:
    moved = data.isel(run=order)
    if sorted(order) != list(range(RUNS)):
        with pytest.raises(FlowError, match=r"all 60 runs of the batch, each of them once"):
            moved.flow.unfold()
        return
    unfolded = moved.flow.unfold()
    for name in ("x_final", "z_max", "status", "z"):
        cells = truth[name].values.reshape(15, 4, *truth[name].shape[1:])
        np.testing.assert_array_equal(unfolded[name], cells, err_msg=name)
    np.testing.assert_array_equal(unfolded["rho"], np.linspace(0, 14, 15))


@QUICK
@given(order=MOVED)
def test_moved_runs_keep_their_numbers(
    order: list[int], data: xr.Dataset, truth: xr.Dataset
) -> None:
    moved = data.isel(run=order)
    chosen = moved.flow.sel_runs("rho >= 3 and run > 20")
    wanted = [i for i in order if truth["rho"].values[i] >= 3 and i > 20]
    assert chosen["run"].values.tolist() == wanted
    same(chosen, truth.isel(run=wanted), ["x_final", "z", "rho", "status"])
    # What has numbers keeps them, whatever becomes of it.
    assert chosen.isel(run=slice(None, None, -1)).flow.sel_runs("rho >= 3")[
        "run"
    ].values.tolist() == list(reversed(wanted))


@pytest.mark.parametrize(
    "move",
    [
        lambda data: data.sortby("x_final"),
        lambda data: data.isel(run=slice(None, None, -1)),
        lambda data: data.roll(run=7, roll_coords=True),
        lambda data: xr.concat([data.isel(run=slice(30, 60)), data.isel(run=slice(30))], "run"),
        lambda data: data.isel(run=[1, 0, *range(2, RUNS)]),
        lambda data: data.isel(time=-1).sortby("z_max"),
        lambda data: data.flow.sel_runs("rho >= 0").sortby("z_final"),
    ],
    ids=["sorted", "reversed", "rolled", "joined", "swapped", "at-one-time", "selected"],
)
def test_what_xarray_does_to_runs_is_undone(move: Any, data: xr.Dataset, truth: xr.Dataset) -> None:
    unfolded = move(data).flow.unfold()
    cells = truth["x_final"].values.reshape(15, 4)
    np.testing.assert_array_equal(unfolded["x_final"], cells)


def test_reruns_tables_and_pictures_name_the_same_runs(
    data: xr.Dataset, truth: xr.Dataset, tmp_path: Path
) -> None:
    moved = data.sortby("x_final")
    again = moved.flow.rerun([7, 59])
    same(again, truth.isel(run=[7, 59]), ["x_final", "z", "steps"])
    export(moved, tmp_path / "runs.csv")
    table = pd.read_csv(tmp_path / "runs.csv").set_index("run")
    np.testing.assert_allclose(table["x_final"].sort_index(), truth["x_final"], rtol=1e-12)
    picked = run_indices(moved, [7, 59])
    np.testing.assert_array_equal(moved["rho"][picked], truth["rho"][[7, 59]])
    assert [label.split(":")[0] for label in run_labels(moved, picked, ["rho"])] == [
        "run 7",
        "run 59",
    ]
    with pytest.raises(FlowError, match=r"there is no run 60|run 60 is not among"):
        moved.flow.rerun(60)


def test_what_cannot_be_told_apart_is_refused(data: xr.Dataset) -> None:
    moved = data.sortby("x_final")
    with pytest.raises(FlowError, match="not known without 'rho', which varied"):
        moved.drop_vars("rho").flow.sel_runs("x_initial > 0")
    with pytest.raises(FlowError, match="position 0 has values that no run of its study has"):
        moved.assign_coords(rho=moved["rho"] + 0.5).flow.sel_runs("x_initial > 0")


def test_nothing_is_read_to_number_the_runs_of_a_store(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(data: xr.Dataset) -> None:
        raise AssertionError

    monkeypatch.setattr(numbering, "_study", never)
    opened = cubie_flow.open_results(kept)
    assert opened.flow.sel_runs("rho >= 3")["run"].values.tolist() == list(range(12, RUNS))
    assert opened.flow.unfold().sizes["rho"] == 15
    assert "audited" not in str(opened.flow.summary())


def test_equal_runs_are_numbered_in_turn(lorenz: OdeSystem) -> None:
    design = make_design("zip", {"rho": [5.0, 1.0, 5.0, 3.0]})
    solved = solve_study(study(lorenz, design=design, shard_runs=None))
    moved = solved.isel(run=[2, 3, 0, 1, 1, 2])
    assert moved.flow.sel_runs("rho > 0")["run"].values.tolist() == [0, 3, 2, 1, 1, 0]
    single = solve_study(study(lorenz, design=make_design("single", {}), shard_runs=None))
    assert single.isel(run=[0, 0]).flow.sel_runs("steps > 0")["run"].values.tolist() == [0, 0]


DESIGNS = {
    "sobol": lambda _: make_design("sobol", {"rho": {"uniform": [1, 9]}, "x": 1.5}, 12, 3),
    "latin": lambda _: make_design("latin_hypercube", {"rho": {"lognormal": [3, 1]}}, 12, 5),
    "swept": lambda _: swept_design(
        [{"batch.seed": [3, 4]}, {"sigma": [9.0, 10.0], "x": [1.0, 2.0]}], 0,
        lambda seed: make_design("sobol", {"rho": {"uniform": [1, 9]}}, 3, seed),
    ),
    "swept zip": lambda _: swept_design(
        [{"sigma": [9.0, 10.0]}], 0, lambda seed: make_design("zip", {"rho": [1, 2], "x": [3, 4]})
    ),
    "table": lambda folder: make_design("table", {"rho": None}, path=folder / "runs.csv"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DESIGNS)
@pytest.mark.parametrize("stored", [True, False])
def test_runs_of_every_design_are_numbered(
    kind: str, stored: bool, lorenz: OdeSystem, tmp_path: Path
) -> None:
    (tmp_path / "runs.csv").write_text("rho\n" + "\n".join(str(0.7 * i) for i in range(12)))
    design = DESIGNS[kind](tmp_path)
    assert described_design(design.describe()).content_hash == design.content_hash
    made = study(lorenz, design=design, shard_runs=None, duration=0.1, output=OutputChoice())
    if stored:
        data = cubie_flow.open_results(written(made, tmp_path / "kept"))
        (tmp_path / "runs.csv").unlink()
    else:
        data = solve_study(made)
    order = np.random.default_rng(1).permutation(design.size)
    moved = data.isel(run=order)
    assert moved.flow.sel_runs("steps > 0")["run"].values.tolist() == order.tolist()
    if kind.startswith("swept"):
        same(moved.flow.unfold(), data.flow.unfold(), ["x_final", "rho"])
    if kind == "table" and not stored:
        (tmp_path / "runs.csv").write_text("rho\n1\n")
        with pytest.raises(FlowError, match=r"not known: .*runs\.csv"):
            moved.flow.sel_runs("steps > 0")


def test_an_axis_of_draws_makes_way_for_a_quantity() -> None:
    decay = OdeSystem.from_equations("x' = -draw*x", {"x": 1.0}, {"draw": 1.0})
    design = swept_design(
        [{"draw": [9.0, 10.0]}], 0,
        lambda seed: make_design("sobol", {"x": {"uniform": [1, 2]}}, 4, seed),
    )  # fmt: skip
    solved = cubie_flow.solve(decay, batch=design, duration=1.0)
    assert solved.flow.unfold()["x_final"].dims == ("draw", "draw_")
