"""Every picture shows what it says, and refuses in one sentence what it cannot show."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from cubie_flow import OdeSystem, solve
from cubie_flow.analysis import cli, open_results
from cubie_flow.analysis.oscillations import maxima
from cubie_flow.analysis.pictures import KINDS, drawer
from cubie_flow.analysis.pictures.sweeps import field_over
from cubie_flow.cli.app import main
from cubie_flow.errors import FlowError

RATES = np.linspace(0.5, 1.5, 12)
LEVELS = np.linspace(1.0, 2.0, 10)


@pytest.fixture(scope="module")
def oscillator() -> OdeSystem:
    """x = level*cos(rate*t): everything about it is known."""
    return OdeSystem.from_mapping(
        {
            "name": "oscillator",
            "title": "Oscillator",
            "states": {"x": 1.0, "v": 0.0},
            "parameters": {"rate": 1.0},
            "equations": {"x": "v", "v": "-rate**2*x"},
            "time": {"unit": "s", "duration": 40.0},
            "units": {"x": "m", "v": "m s-1", "rate": "s-1"},
            "long_names": {"x": "place"},
        }
    )


@pytest.fixture(scope="module")
def grid(oscillator: OdeSystem) -> xr.Dataset:
    """120 runs over rate and the initial x."""
    return solve(
        oscillator,
        parameters={"rate": RATES},
        initial_values={"x": LEVELS},
        batch="grid",
        save_every=0.1,
        summaries=["x"],
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.fixture(scope="module")
def line(oscillator: OdeSystem) -> xr.Dataset:
    """60 runs over rate."""
    rates = np.linspace(0.5, 1.5, 60)
    return solve(oscillator, parameters={"rate": rates}, save_every=0.05, rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stored study of two quantities."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ["system=lotka_volterra", "batch.size=64", "batch=sobol", "output.save_every=0.5"]
        assert main([*words, "engine.progress=false", "storage.picture=false"]) == 0
    (found,) = folder.glob("outputs/**/results.zarr")
    return found


def drawn(panel: Any) -> list[Any]:
    """Return the data of the lines of a panel."""
    return [line.get_xydata() for line in panel.get_lines()]


def test_trajectories_show_the_runs_that_are_asked_for(grid: xr.Dataset) -> None:
    picture = drawer("trajectories")(grid, ["x"], [3, 77])
    (panel,) = picture.axes
    for run, points in zip((3, 77), drawn(panel), strict=True):
        np.testing.assert_array_equal(points[:, 0], grid.time)
        np.testing.assert_array_equal(points[:, 1], grid.x[run])
    assert panel.get_xlabel() == "time (s)"
    assert panel.get_ylabel() == "x (m)"
    assert panel.get_title(loc="left") == "x: place (m)"
    labels = [text.get_text() for text in picture.legends[0].get_texts()]
    assert labels[1].startswith("run 77: rate=")


def test_many_runs_get_a_colour_bar(line: xr.Dataset) -> None:
    picture = drawer("trajectories")(line, "x", 60)
    panel, bar = picture.axes
    assert len(drawn(panel)) == 60
    assert bar.get_ylabel() == "rate (s-1)"


def test_bands_are_quantiles_over_the_runs(grid: xr.Dataset) -> None:
    picture = drawer("bands")(grid, ["x", "v"], (0.1, 0.5, 0.9))
    (points,) = drawn(picture.axes[1])
    np.testing.assert_allclose(points[:, 1], np.quantile(grid.v, 0.5, axis=0))
    band = picture.axes[1].collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(float(np.quantile(grid.v, 0.9, axis=0).max()))


def test_a_phase_portrait_goes_from_start_to_end(grid: xr.Dataset) -> None:
    picture = drawer("phase")(grid, ["x", "v"], [5])
    path, start, end = drawn(picture.axes[0])
    np.testing.assert_array_equal(path, np.stack([grid.x[5], grid.v[5]], axis=1))
    np.testing.assert_array_equal(start[0], path[0])
    np.testing.assert_array_equal(end[0], path[-1])


def test_a_heatmap_of_a_grid_has_a_cell_a_run(grid: xr.Dataset) -> None:
    picture = drawer("heatmap")(grid, "x_max", x="x_initial", y="rate")
    cells = picture.axes[0].collections[0].get_array()
    np.testing.assert_allclose(cells, np.broadcast_to(LEVELS, (12, 10)), rtol=1e-6)
    assert picture.axes[0].get_xlabel() == "x_initial: initial value of place (m)"
    assert "x_max" in picture.axes[1].get_ylabel()


def test_runs_anywhere_are_averaged_in_cells() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 1, (2, 20_000))
    values = x + 10 * y
    values[::50] = np.nan
    arrays = (xr.DataArray(item, dims="run") for item in (x, y, values))
    across, up, field = field_over(*arrays)
    assert field.shape == (len(up), len(across))
    np.testing.assert_allclose(field, across + 10 * up[:, None], atol=0.3)


def test_maxima_are_found_between_saved_times(line: xr.Dataset) -> None:
    rate, peaks = maxima(line.x, line.rate.to_numpy())
    np.testing.assert_allclose(peaks, 1.0, atol=1e-5)
    # One maximum a period, and neither the first nor the last saved time is one.
    expected = np.floor(40 * line.rate / (2 * np.pi) - 1e-9)
    for value, count in zip(line.rate.to_numpy(), expected.to_numpy(), strict=True):
        assert abs((rate == value).sum() - count) <= 1


def test_a_run_at_rest_is_drawn_where_it_rests() -> None:
    still = xr.DataArray([[2.0, 2.0, 2.0, 2.0], [np.nan] * 4], dims=("run", "time"))
    rate, peaks = maxima(still, np.array([7.0, 8.0]))
    assert (rate.tolist(), peaks.tolist()) == ([7.0], [2.0])


def test_work_and_precision_are_those_of_the_results(oscillator: OdeSystem) -> None:
    def at(algorithm: str, rtol: float) -> xr.Dataset:
        rates = {"rate": RATES}
        found = solve(oscillator, parameters=rates, algorithm=algorithm, rtol=rtol, atol=rtol)
        return found.assign_attrs(config=f"controller: {{rtol: {rtol}}}")

    kinds = [("tsit5", 1e-4), ("tsit5", 1e-6), ("vern7", 1e-12), ("tsit5", 1e-9)]
    results = [at(*kind) for kind in kinds]
    picture = drawer("work_precision")(results)
    assert "vern7" in picture.get_suptitle()  # the most exact is taken for the truth
    ((steps, error),) = [points.T for points in drawn(picture.axes[0])]
    assert (np.diff(error) < 0).all()
    worst = np.maximum(*(
        abs(results[0][f"{n}_final"] - results[2][f"{n}_final"])
        / abs(results[2][f"{n}_final"]).max()
        for n in ("x", "v")
    ))  # fmt: skip
    assert error[0] == pytest.approx(float(np.median(worst)))
    assert steps[0] == pytest.approx(float((results[0].steps + results[0].rejected).mean()))


def test_every_kind_is_drawn_from_a_store_by_the_command(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kinds = ["overview", "trajectories", "bands", "phase", "heatmap", "stalls"]
    for kind in kinds:
        assert cli.main(["plot", kind, str(store)]) == 0
    assert cli.main(["plot", "bifurcation", str(store), "--variable", "prey", "-o", "b.svg"]) == 0
    assert "<svg" in (tmp_path / "b.svg").read_text(encoding="utf-8")
    assert sorted(p.stem for p in tmp_path.glob("*.png")) == sorted(
        f"lotka_volterra_{kind}" for kind in kinds
    )


def test_the_accessor_draws_every_kind(store: Path) -> None:
    data = open_results(store)
    plot = data.flow.plot
    assert set(dir(plot)) == set(KINDS)
    picture = plot.bands("prey", log=True)
    assert picture.axes[0].get_xscale() == "log"
    assert picture._repr_png_().startswith(b"\x89PNG")
    assert plot.work_precision(data, reference=0).axes
    with pytest.raises(AttributeError, match="bands"):
        _ = plot.bnads


def test_selected_runs_keep_their_numbers(store: Path) -> None:
    part = open_results(store).flow.sel_runs("alpha > 0.6")
    numbers = part.run.values[:2].tolist()
    assert numbers != [0, 1]
    picture = part.flow.plot.trajectories(runs=numbers)
    texts = [text.get_text() for text in picture.legends[0].get_texts()]
    assert [text.split(":")[0] for text in texts] == [f"run {number}" for number in numbers]
    with pytest.raises(FlowError, match="run 0 is not among the"):
        part.flow.plot.trajectories(runs=[0])


def test_the_timeline_is_that_of_the_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["system=lotka_volterra", "batch=sobol", "batch.size=96", "storage.shard_runs=32"]
    assert main([*words, "engine.progress=false", "storage.picture=false"]) == 0
    (store,) = tmp_path.glob("outputs/**/results.zarr")
    data = open_results(store)
    memory = data.flow.memory()
    assert (memory.write_began >= memory.solve_began + memory.kernel_seconds - 1e-3).all()
    picture = data.flow.plot.stalls()
    solving, *_ = picture.axes[0].containers
    assert [bar.get_width() for bar in solving] == pytest.approx(memory.kernel_seconds.values)
    with pytest.raises(FlowError, match="holds no times"):
        drawer("stalls")(data.flow.memory().drop_vars("solve_began").assign_attrs(title="old"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["bnads"], ("'bnads'", "did you mean 'bands'")),
        (["bands", "--metric", "x"], ("--metric is not an option of bands", "--quantiles")),
        (["bands", "--quantiles", "0.5,0.1,0.9"], ("0.5, 0.1, 0.9", "increasing")),
        (["bands", "--variables", "pray"], ("'pray'", "did you mean 'prey'")),
        (["bands", "--where", "alpha > 9"], ("no run", "alpha > 9")),
        (["trajectories", "--runs", "64,"], ("no run 64", "0 to 63")),
        (["trajectories", "--runs", "a"], ("--runs", "'a'")),
        (["phase", "--variables", "prey"], ("two saved variables",)),
        (["heatmap", "--metric", "prey_fnal"], ("did you mean 'prey_final'",)),
        (["heatmap", "--x", "alpha", "--y", "alpha"], ("both 'alpha'",)),
        (["bifurcation", "--over", "alfa"], ("did you mean 'alpha'",)),
        (["bifurcation", "--after", "1"], ("after is 1",)),
        (["bifurcation", "--after", "0.99"], ("saved times", "save_every")),
        (["placements"], ("not a placement study", "task=placement")),
        (["work_precision"], ("at least two results",)),
        (["overview", "-o", "x.jpg"], ("'x.jpg'", ".png, .svg or .pdf")),
        (["overview", "-o", "no_folder/x.png"], ("no_folder", "cannot be written")),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(
    words: list[str], told: tuple[str, ...], store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, *options = words
    assert cli.main(["plot", kind, str(store), *options]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    for word in told:
        assert word in err


def test_final_values_alone_have_no_trajectories(oscillator: OdeSystem) -> None:
    data = solve(oscillator, parameters={"rate": RATES})
    for kind in ("trajectories", "bands", "phase", "bifurcation"):
        with pytest.raises(FlowError, match=r"output\.save_every"):
            drawer(kind)(data)
