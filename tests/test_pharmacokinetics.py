"""The pharmacokinetic study: its data, its model, and that it recovers what made the data."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import yaml

FOLDER = Path(__file__).parents[1] / "experiments" / "pharmacokinetics"


@pytest.fixture(scope="module")
def analyse() -> Any:
    spec = importlib.util.spec_from_file_location("analyse", FOLDER / "analyse.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_data_are_those_of_the_script(analyse: Any) -> None:
    data = yaml.safe_load((FOLDER / "experiment.yaml").read_text())["output"]["compare"]
    noisy, sigma = analyse.synthetic()
    np.testing.assert_array_equal(np.array(data["c"], float), noisy)
    np.testing.assert_array_equal(data["c_sigma"], sigma)
    np.testing.assert_array_equal(data["time"], analyse.TIMES)


def test_a_sweep_recovers_the_parameters(analyse: Any, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "cubie_flow", "experiment=pharmacokinetics", "batch.size=32768",
        "storage.picture=false", "output.save_every=12",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("outputs/pharmacokinetics/*/*/results.zarr")
    data = xarray.open_zarr(path, chunks=None)
    # The closed form gives what the sweep gives, trajectories and misfits.
    some = slice(0, 50)
    sets = [data[name].values[some, None] for name in analyse.TRUTH]
    curves = analyse.concentration(data.time.values, *sets)
    np.testing.assert_allclose(data.A1.values[some], curves * sets[1], rtol=2e-5, atol=1e-5)
    noisy, sigma = analyse.synthetic()
    chi = np.nansum(((analyse.concentration(analyse.TIMES, *sets) - noisy) / sigma) ** 2, axis=1)
    np.testing.assert_allclose(data.c_wls.values[some], chi, rtol=1e-3)
    script = [sys.executable, str(FOLDER / "analyse.py")]
    told = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    rows = [line.split() for line in told.stdout.splitlines() if "+-" in line]
    assert [row[0] for row in rows] == list(analyse.TRUTH)
    for name, truth, best, mean, _, spread, off, _ in rows:
        assert abs(float(off)) < 2.5, name
        assert float(best) == pytest.approx(float(truth), rel=0.15), name
        assert 0 < float(spread) < 0.15 * float(mean), name
    assert (path.parent / "recovered.png").stat().st_size > 10_000
