"""Two results side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from settling import study, written

import cubie_flow
from cubie_flow.analysis import compare as comparing
from cubie_flow.analysis.compare import compare, kind_of
from cubie_flow.api import ControllerChoice, TargetChoice
from cubie_flow.batches import make_design
from cubie_flow.errors import FlowError
from cubie_flow.systems import OdeSystem


def opened(folder: Path) -> xr.Dataset:
    data = cubie_flow.open_results(folder)
    assert isinstance(data, xr.Dataset)
    return data


def test_a_result_is_the_same_as_itself(kept: Path) -> None:
    found = compare(opened(kept), opened(kept))
    assert not any(found.config.values())
    assert found.matched == 60
    assert {item.same for item in found.numbers} == {60}
    assert {item.largest for item in found.numbers} == {0.0}
    assert found.seconds["total"][0] > 0


def test_where_two_results_first_part(
    kept: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "BLOCK", 90)  # ten runs at once
    x = zarr.open_array(folder / "results.zarr" / "x", mode="r+")
    x[41, 3] += 0.5
    x[17, 6] += 2.0
    x[33, 1] += 1e-12
    found = compare(opened(kept), opened(folder))
    [entry] = [item for item in found.numbers if item.variable == "x"]
    assert (entry.run, entry.time) == (41, 1.5)
    assert entry.same == 57
    assert entry.beyond == 2
    assert entry.largest == pytest.approx(2.0)
    assert compare(opened(kept), opened(folder), rtol=0, atol=3.0).numbers[3].beyond == 0
    [strict] = [i for i in compare(opened(kept), opened(folder), 0, 0).numbers if i.beyond]
    assert (strict.run, strict.time) == (33, 0.5)
    # A value that one of them has not is beyond every tolerance.
    x[5, 0] = np.nan
    [gone] = [i for i in compare(opened(kept), opened(folder), atol=1e9).numbers if i.beyond]
    assert (gone.run, gone.time) == (5, 0.0)


def test_differences_are_sorted_by_their_kind(
    kept: Path, lorenz: OdeSystem, tmp_path: Path
) -> None:
    other = study(
        lorenz,
        controller=ControllerChoice(rtol=1e-7, atol=1e-6, max_steps=1000),
        target=TargetChoice("cpu", threads=1, lanes=4),
        locations={"stage_increments": "local"},
    )
    found = compare(opened(kept), opened(written(other, tmp_path)))
    assert set(found.config["science"]) == {"controller.rtol", "controller.max_steps"}
    assert found.config["science"]["controller.rtol"] == (1e-6, 1e-7)
    assert set(found.config["policy"]) == {
        "target.lanes",
        "buffers.stage_increments_location",
        "buffers",
    }
    assert "target.math" not in found.config["kernel"]
    assert found.ended == {"step_limit -> success": sum(found.ended.values())}
    assert sum(found.ended.values()) == int((opened(kept).status == 1).sum())
    assert found.rtol == 1e-6


def test_runs_are_matched_by_what_varied(kept: Path, lorenz: OdeSystem, tmp_path: Path) -> None:
    fewer = {"x": [2.0, 1.0, 7.0], "rho": [5.0, 3.0]}
    other = study(lorenz, design=make_design("grid", fewer))
    found = compare(opened(kept), opened(written(other, tmp_path)))
    assert found.matched == 4
    assert found.how == "by their rho, x_initial"
    assert {item.same for item in found.numbers} == {4}
    single = study(lorenz, design=make_design("grid", {"beta": [1.0]}))
    alone = compare(opened(kept), opened(written(single, tmp_path / "single")))
    assert alone.matched == 0
    assert "so no run is in both" in alone.how
    assert alone.numbers == ()


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("system.equations.x", "science"),
        ("precision", "science"),
        ("batch.values.rho", "science"),
        ("target.kind", "kernel"),
        ("target.threads", "policy"),
        ("buffers.factors_location", "policy"),
        ("storage.shard_runs", "policy"),
        ("version_numba", "kernel"),
    ],
)
def test_kinds_of_keys(key: str, kind: str) -> None:
    assert kind_of(key) == kind


def test_a_tolerance_is_not_negative(kept: Path) -> None:
    with pytest.raises(FlowError, match=r"rtol is -1"):
        compare(opened(kept), opened(kept), rtol=-1)
