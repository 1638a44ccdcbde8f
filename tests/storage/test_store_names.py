"""A quantity of a model never shares a name with what the store writes of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import cubie_flow
from cubie_flow import OdeSystem, solve
from cubie_flow.analysis.audit import audit
from cubie_flow.api import ControllerChoice, OutputChoice, Study, run_study, solve_study
from cubie_flow.batches import make_design, store_names, swept_design
from cubie_flow.errors import FlowError
from cubie_flow.storage import ResultStore, StoreSchema, Variable
from cubie_flow.study.attempts import read_rescue
from cubie_flow.study.to_config import to_config
from cubie_flow.systems.importers.names import Names

BALL = OdeSystem.from_mapping(
    {
        "name": "ball",
        "states": {"h": 1.0, "v": 0.0},
        "parameters": {"g": 9.81, "e": 0.9},
        "equations": {"h": "v", "v": "-g"},
        "events": {"bounce": {"root": "h", "direction": "falling", "set": {"v": "-e*v"}}},
    }
)
#: Everything that a store can hold.
FULL = Study(
    BALL,
    swept_design(
        [{"batch.seed": [1, 2]}], 0,
        lambda seed: make_design("sobol", {"g": {"uniform": [9, 10]}}, 4, seed),
    ),
    duration=1.0,
    precision="float64",
    output=OutputChoice(
        times=(0.5, 1.0), summaries=("h",), event_times=2, where="h_max > 0",
        compare={"time": [0.5], "h": [0.1], "h_sigma": [0.1]},
    ),
    rescue=read_rescue("default"),
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("full") / "results.zarr"
    run_study(FULL, path, config_yaml=to_config(FULL))
    audit(path, fraction=1.0, tighter=10.0)
    return path


def test_every_name_that_the_store_uses_is_listed(store: Path) -> None:
    root = zarr.open_group(store, mode="r")
    assert set(root.group_keys()) == set(store_names.GROUPS)
    of_the_model = ["h", "v", "g", "bounce"]
    derived = ("", "_final", "_sse", "_wls", "_count", "_times",
               *(f"_{m}" for m in ("min", "max", "mean", "rms", "std", "peaks")))  # fmt: skip
    quantities = {f"{name}{suffix}" for name in of_the_model for suffix in derived}
    own = set(root.array_keys()) - quantities
    assert own == {*store_names.ARRAYS, store_names.TIME}
    dims = {dim for _, array in root.arrays() for dim in array.metadata.dimension_names}
    assert dims == {store_names.RUN, store_names.TIME, store_names.OCCURRENCE}
    # Only tables of subjects have this axis, see tests/study/test_subjects.py.
    dims.add(store_names.OBSERVATION)
    assert own | dims | set(root.group_keys()) == set(store_names.MEANINGS)


@pytest.mark.parametrize("name", store_names.MEANINGS)
def test_no_quantity_has_such_a_name(name: str) -> None:
    for section in ("states", "parameters", "observables"):
        model: dict[str, Any] = {
            "states": {"x": 1.0}, "parameters": {"k": 1.0}, "equations": {"x": "-k*x"},
        }  # fmt: skip
        model[section] = {**model.get(section, {}), name: 1.0}
        model["equations"] |= {name: "0"} if section == "states" else {}
        meaning = store_names.MEANINGS[name]
        with pytest.raises(FlowError, match=f"'{name}' has a reserved name: it means {meaning}"):
            OdeSystem.from_mapping(model)
    with pytest.raises(FlowError, match="has a reserved name"):
        OdeSystem.from_function(lambda t, y, p: [-y[name]], states={name: 1.0})
    # A quantity of that name in a file of another format gets another one.
    assert Names().reserve([name])[name] != name


@pytest.mark.parametrize("name", store_names.GROUPS)
def test_a_schema_refuses_an_array_where_a_group_goes(name: str) -> None:
    with pytest.raises(FlowError, match=f"two arrays named '{name}', a group of the results and"):
        StoreSchema(runs=1, variables=(Variable(name, ("run",)),), status_flags={0: "success"})


def test_an_audit_replaces_no_array(store: Path, tmp_path: Path) -> None:
    """A store of an earlier version may hold a state that is named audit."""
    old = tmp_path / "results.zarr"
    run_study(FULL, old, config_yaml=to_config(FULL))
    (old / "h").rename(old / "audit")
    zarr.consolidate_metadata(zarr.storage.LocalStore(old))
    before = zarr.open_array(old / "audit", mode="r")[...]
    opened = cubie_flow.open_results(old)
    assert opened["audit"].dims == ("run", "time")
    assert "audited" not in str(opened.flow.summary())
    said: list[str] = []
    audit(old, fraction=1.0, tighter=10.0, on_unkept=said.append)
    assert "has an array named 'audit'" in said[0]
    np.testing.assert_array_equal(zarr.open_array(old / "audit", mode="r")[...], before)
    with pytest.raises(FlowError, match="has an array named 'audit'"):
        ResultStore.open(old).put_group("audit", xr.Dataset())


@pytest.mark.parametrize(
    ("parameters", "batch", "more", "told"),
    [
        # What the store keeps of a state in any case, or where it is asked for.
        ({"k": 1, "x_final": 1}, {"x_final": [1, 2]}, {}, "'x_final', final value of x and x_fin"),
        ({"k": 1, "x_min": 1}, {"x_min": [1, 2]}, {"summaries": ["x"]}, "'x_min', minimum of x"),
        ({"k": 1, "x_sse": 1}, {"x_sse": [1, 2]}, {"compare": {"time": [1], "x": [1]}}, "x_sse"),
        ({"k": 1, "dx_dk": 1}, {"k": [1, 2]}, {"sensitivities": ["k"]}, "makes 'dx_dk', but"),
        # A run again would take the one for the other.
        ({"k": 1, "x_initial": 1}, {"x": [1, 2]}, {}, "names it 'x_initial', as system 'decay'"),
    ],
)
def test_names_made_from_a_state_are_its_own(
    parameters: dict[str, float], batch: dict[str, Any], more: dict[str, Any], told: str
) -> None:
    equations = {"x": f"-x*{'*'.join(parameters)}"}
    model = {"name": "decay", "states": {"x": 1.0}, "parameters": parameters,
             "equations": equations}  # fmt: skip
    with pytest.raises(FlowError, match=told) as caught:
        solve(
            OdeSystem.from_mapping(model), batch=make_design("zip", batch), duration=1.0,
            controller=ControllerChoice(rtol=1e-3), **more,
        )  # fmt: skip
    assert "rename" in str(caught.value)


def test_a_status_and_a_quantity_of_one_name_are_not_confused() -> None:
    model = OdeSystem.from_equations("x' = -success*x", {"x": 1.0}, {"success": 1.0})
    study = Study(
        model, make_design("zip", {"success": [0.0, 1.0]}), duration=1.0,
        output=OutputChoice(times=(1.0,), where="status == success"),
    )  # fmt: skip
    with pytest.raises(
        FlowError, match="'success' is a status and a quantity; write the status in quotes"
    ):
        solve_study(study)
