"""A small study whose results tests of the analysis read."""

from __future__ import annotations

from pathlib import Path

from cubie_flow.api import ControllerChoice, OutputChoice, Study, TargetChoice, run_study
from cubie_flow.batches import make_design
from cubie_flow.study.to_config import to_config
from cubie_flow.systems import OdeSystem

RHO = {"rho": {"linspace": [0.0, 14.0, 15]}, "x": [1.0, -1.0, 2.0, 3.0]}


def study(system: OdeSystem, **changes: object) -> Study:
    """A grid of 60 Lorenz runs that settle, some of which reach the step limit."""
    given: dict[str, object] = {
        "name": "settling",
        "system": system,
        "design": make_design("grid", RHO),
        "duration": 4.0,
        "precision": "float64",
        "controller": ControllerChoice(rtol=1e-6, atol=1e-6, max_steps=110),
        "output": OutputChoice(save_every=0.5, summaries=["z"]),
        "target": TargetChoice("cpu", threads=1),
        "shard_runs": 16,
    }
    return Study(**{**given, **changes})  # type: ignore[arg-type]


def written(made: Study, folder: Path) -> Path:
    """Write a study as the application does, and return the folder of the run."""
    folder.mkdir(parents=True, exist_ok=True)
    run_study(made, folder / "results.zarr", config_yaml=to_config(made), overrides=["a=1"])
    return folder
