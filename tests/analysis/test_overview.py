"""Every kind of result has its picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cubie_flow.analysis.pictures import overview as module
from cubie_flow.analysis.pictures.overview import draw
from cubie_flow.app import main
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
