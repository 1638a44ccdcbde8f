"""Every kind of result has its picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from xarray.backends import BackendArray
from xarray.core import indexing

from cubie_flow.analysis.pictures import overview as module
from cubie_flow.analysis.pictures.overview import draw
from cubie_flow.analysis.pictures.reading import PLACES, SAMPLED
from cubie_flow.cli.app import main
from cubie_flow.errors import FlowError

KINDS = {
    "one quantity": ["batch.size=50", "output.save_every=5"],
    "one quantity, unordered": ["batch=sobol", "batch.size=64", "output.save_every=5"],
    "one quantity, summaries only": ["batch.size=50", "output.save_every=null"],
    "one quantity, final state only": [
        "batch.size=50",
        "output.save_every=null",
        "output.summaries=null",
    ],
    "several quantities": ["batch.size=60", "batch.values.sigma=[8, 10]", "output.save_every=5"],
    "several quantities, final state only": [
        "batch.size=60",
        "batch.values.sigma=[8, 10]",
        "output.save_every=null",
    ],
    "one run": ["batch=single", "output.save_every=5"],
    "runs that all fail": ["batch.size=50", "controller.max_steps=1", "output.save_every=5"],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("error")
def test_a_result_has_a_picture(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["engine.progress=false", *KINDS[kind]]) == 0
    (picture,) = tmp_path.glob("outputs/**/*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 10_000


def test_final_values_that_are_equal_but_for_rounding_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "still.yaml").write_text("states: {x: 1.0}\nequations: {x: 0}\n")
    nearly = [1.1, float(np.nextafter(1.1, 2.0))]
    words = ["system.file=still.yaml", f"batch.values={{x: {nearly}}}", "precision=float64"]
    assert main([*words, "engine.progress=false"]) == 0
    assert len([*tmp_path.glob("outputs/**/*.png")]) == 1
    assert "note" not in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["-m", "algorithm=tsit5,rk4"]])
def test_a_picture_that_fails_does_not_fail_the_study(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(data: object) -> None:
        raise ZeroDivisionError("no room\nfor ticks")

    monkeypatch.setattr(module, "overview", fails)
    monkeypatch.chdir(tmp_path)
    assert main([*words, "engine.progress=false", "batch.size=30"]) == 0
    told = capsys.readouterr().out
    assert "could not be drawn (ZeroDivisionError: no room for ticks)" in told
    assert "picture" not in told.replace(".png", "").split("note")[0]


def test_a_picture_that_cannot_be_written(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["engine.progress=false", "batch.size=30", "storage.picture=false"]) == 0
    (store,) = tmp_path.glob("outputs/**/results.zarr")
    with pytest.raises(FlowError, match=r"no_folder.*cannot be written"):
        draw(store, tmp_path / "no_folder" / "picture.png")


class Counted(BackendArray):
    """An array that notes which runs are read of it."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.dtype = values, values.shape, values.dtype
        self.read: list[np.ndarray] = []

    def __getitem__(self, key: Any) -> np.ndarray:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._get
        )

    def _get(self, key: tuple[Any, ...]) -> np.ndarray:
        self.read.append(np.arange(self.shape[0])[key[0]])
        found = self.values[key[0]]
        return found[:, key[1]] if len(key) > 1 else found


@pytest.mark.parametrize("swept", [["rho"], ["rho", "sigma"]], ids=["over it", "spread"])
@pytest.mark.parametrize("kept", [["z", "z_min", "z_mean", "z_max", "z_final"], ["z_final"]])
@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_a_picture_reads_few_runs_of_a_large_study(
    order: str, kept: list[str], swept: list[str]
) -> None:
    """So its memory and its time do not grow with the study."""
    runs, chunk = 100_000, 100
    rho = np.linspace(0.0, 28.0, runs)
    if order == "shuffled":
        np.random.default_rng(1).shuffle(rho)
    arrays = {
        name: Counted(np.outer(rho, np.ones(5)) if name == "z" else rho) for name in [*swept, *kept]
    }
    held = {
        name: (("run", "time")[: array.values.ndim], indexing.LazilyIndexedArray(array))
        for name, array in arrays.items()
    }
    data = xarray.Dataset(held, {"time": np.arange(5.0)}, {"system": '{"states": ["z"]}'})
    picture = module.overview(data.set_coords(swept))
    assert picture.description.startswith("result: 100,000 runs")
    assert any(arrays[name].read for name in kept)
    for array in arrays.values():
        assert all(len(runs) <= SAMPLED for runs in array.read)
        assert len(np.unique(np.concatenate([[], *array.read]) // chunk)) <= 2 * PLACES
