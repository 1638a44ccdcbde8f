"""Stores that an earlier version wrote still open, and everything works on them.

``data/store_2d4b134.tar.xz`` holds two run folders that commit 2d4b134 wrote (schema version 1):

- ``study``: ``system=lotka_volterra batch=sobol batch.size=24 duration=8 output.save_every=2
  storage.shard_runs=8``
- ``jobs``: three values of alpha by ``-m system=lotka_volterra
  algorithm=tsit5,dormand_prince_54``
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from cubie_flow.analysis import cli, open_results
from cubie_flow.analysis.audit import audit
from cubie_flow.cli.app import main

ARCHIVE = Path(__file__).parent / "data" / "store_2d4b134.tar.xz"
#: prey_final of the first runs, as commit 2d4b134 computed them.
PREY_FINAL = [22.224400, 9.5782862, 17.428820]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Unpack the archive and return the folder with ``study`` and ``jobs``."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def test_an_old_study_opens_and_is_selected(old: Path) -> None:
    data = open_results(old / "study")
    np.testing.assert_allclose(data.prey_final[:3], PREY_FINAL, rtol=1e-6)
    assert data.flow.summary().values["statuses"] == {"success": 24}
    chosen = data.flow.sel_runs("alpha > 0.5 and status == 'success'")
    assert chosen.run.values.tolist() == np.flatnonzero(data.alpha > 0.5).tolist()
    assert data.flow.config()["duration"] == 8
    assert len(data.flow.buffers()) == 11
    assert data.flow.shards()["runs"].tolist() == [8, 8, 8]


def test_an_old_study_is_drawn_and_reported(old: Path) -> None:
    assert cli.main(["plot", "overview", str(old / "study"), "-o", str(old / "p.png")]) == 0
    assert cli.main(["report", str(old / "study"), "-o", str(old / "r.html")]) == 0
    assert (old / "p.png").stat().st_size > 5_000
    assert "24 runs" in (old / "r.html").read_text(encoding="utf-8")


def test_an_old_study_is_audited_and_verified(old: Path) -> None:
    table = audit(old / "study", fraction=0.3)
    assert table.sizes["audited"] == 8
    assert float(table.error.max()) < 1e-3
    assert cli.main(["verify", str(old / "study")]) == 0


def test_runs_of_an_old_study_are_integrated_again(old: Path) -> None:
    data = open_results(old / "study")
    again = data.flow.rerun([5, 23])
    assert again.run.values.tolist() == [5, 23]
    np.testing.assert_allclose(again.prey, data.prey.isel(run=[5, 23]), rtol=1e-5)


def test_an_old_study_is_resumed(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A kill leaves a shard without its status; only that shard is integrated again."""
    whole = open_results(old / "study").load()
    (old / "study/results.zarr/status/c/2").unlink()
    assert main([f"resume={old / 'study'}", "engine.progress=false"]) == 0
    assert "8 runs were missing" in capsys.readouterr().out
    resumed = open_results(old / "study").load()
    assert resumed.keys() == whole.keys()
    for name in ("prey_final", "predator", "status"):
        np.testing.assert_allclose(resumed[name], whole[name], rtol=1e-5)


def test_old_jobs_open_and_are_selected(old: Path) -> None:
    tree = open_results(old / "jobs")
    assert isinstance(tree, xr.DataTree)
    assert tree.flow.jobs()["algorithm"].tolist() == ["tsit5", "dormand_prince_54"]
    chosen = tree.flow.sel_runs("alpha > 0.45")
    assert [child.sizes["run"] for child in chosen.children.values()] == [2, 2]
