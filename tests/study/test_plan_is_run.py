"""A plan is computed once, and what it says is what happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import xarray

from cubie_flow import OdeSystem
from cubie_flow.api import OutputChoice, Study, TargetChoice, plan_study, run_study
from cubie_flow.batches import make_design
from cubie_flow.storage import ResultStore
from cubie_flow.study import plan as planning
from cubie_flow.study.plan import amount_of
from cubie_flow.study.run import RunOptions, run

SYSTEM = OdeSystem.from_equations("x' = -k*x", states={"x": 1.0}, parameters={"k": 0.5})


@pytest.fixture
def study() -> Study:
    return Study(
        SYSTEM,
        make_design("grid", {"k": [0.1, 0.2, 0.3, 0.4, 0.5]}),
        duration=1.0,
        output=OutputChoice(save_every=0.5),
        target=TargetChoice("cpu", threads=1),
        shard_runs=2,
    )


def test_a_plan_is_run(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_study(study, tmp_path / "results.zarr", compiling=False)
    created: list[Any] = []
    create = ResultStore.create

    def noted(location: Any, schema: Any, shard_plan: Any, **options: Any) -> ResultStore:
        created.extend((schema, shard_plan))
        return create(location, schema, shard_plan, **options)

    monkeypatch.setattr(ResultStore, "create", staticmethod(noted))
    report = run(plan, RunOptions(overrides=["a=1"]))
    schema, shard_plan = created
    assert shard_plan is plan.shard_plan
    assert schema.variables is plan.schema.variables
    assert schema.memory is plan.schema.memory
    assert report.runs == plan.runs == 5
    store = ResultStore.open(report.location)
    assert store.plan == plan.shard_plan
    assert len(store.plan.shards) == plan.shards == 3
    data = xarray.open_zarr(report.path)
    assert {v.name for v in plan.schema.arrays} | {"status", "time"} == set(data.variables)


def test_schema_and_shards_are_computed_once(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outlines: list[Study] = []
    outline = planning.store_outline
    monkeypatch.setattr(
        planning, "store_outline", lambda study: outlines.append(study) or outline(study)
    )
    amount = amount_of(study)
    report = run_study(study, tmp_path / "results.zarr")
    assert (amount.runs, amount.shards) == (5, 3)
    assert report.runs == 5
    assert len(outlines) == 1
