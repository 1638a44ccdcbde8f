"""Integrating chosen runs of a result again, from what the result itself holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from cubie_flow.analysis import runs
from cubie_flow.batches.store_names import RUN
from cubie_flow.errors import FlowError, nearest

if TYPE_CHECKING:
    from xarray import Dataset

    from cubie_flow.study.study import Study
    from cubie_flow.systems import OdeSystem

#: What may be changed, and the key of the configuration that it stands for.
CHANGES: Mapping[str, str] = {
    "algorithm": "algorithm.name",
    "linear_solver": "algorithm.linear_solver",
    "precision": "precision",
    "duration": "duration",
    "t_start": "t_start",
    "rescue": "rescue",
    "controller": "controller.kind",
    **{
        name: f"controller.{name}"
        for name in ("rtol", "atol", "dt", "dt_min", "dt_max", "max_steps")
    },
    **{
        name: f"output.{name}"
        for name in ("save_every", "times", "variables", "summaries", "sensitivities")
    },
    "target": "target.kind",
}
VALUES = ("parameters", "initial_values")
#: Keys that only say where and how fast: the machine that runs again decides anew.
_PLACE = ("system", "batch", "engine", "storage", "buffers", "task", "to", "confirm", "dry_run")


def rerun(data: Dataset, which: int | Iterable[int], **changes: Any) -> Dataset:
    """Integrate runs again; see `FlowAccessor.rerun`."""
    from cubie_flow.api import solve_study

    positions = runs.positions_of(data, which)
    study = stored_study(data, positions, changes)
    again = solve_study(study)
    named = again.assign_coords({RUN: (RUN, runs.numbers(data, positions))})
    told = {name: changes[name] for name in changes}
    source = data.encoding.get("source", "memory")
    return named.assign_attrs(rerun_of=str(source), rerun_changes=json.dumps(told, default=str))


def stored_study(data: Dataset, positions: NDArray[np.int64], changes: Mapping[str, Any]) -> Study:
    """Return the study of some runs of a dataset, changed.

    Parameters
    ----------
    data : xarray.Dataset
        A result; its attributes hold the model and the configuration.
    positions : ndarray of int64, shape (n,)
        Of the runs in it.
    changes : mapping
        New values by the names in `CHANGES`, and mappings of numbers for `VALUES`.

    Raises
    ------
    FlowError
        If the dataset does not hold what it takes, or a change is no change.
    """
    from attrs import evolve

    from cubie_flow.batches import make_design
    from cubie_flow.config.schema import Settings
    from cubie_flow.study.accuracy import as_recorded
    from cubie_flow.systems import OdeSystem

    allowed = (*CHANGES, *VALUES)
    for name in changes:
        if name not in allowed:
            raise FlowError(
                f"rerun has no '{name}'{nearest(name, allowed)} (there are {', '.join(allowed)})"
            )
    for name in ("system", "config", "algorithm"):
        if not data.attrs.get(name):
            raise FlowError(f"this dataset does not hold its {name}, so it cannot be run again")
    system = OdeSystem.from_mapping(json.loads(data.attrs["system"]))
    columns = varied(data, system, positions)
    for name, states in zip(VALUES, (False, True), strict=True):
        system = _replace(system, columns, changes.get(name), name, states)
    if "duration" in changes:
        columns.pop("duration", None)
    settings = Settings.from_container(_config(data, changes))
    study = settings.study(system)
    if not {"rtol", "atol"} & set(changes):
        study = as_recorded(study, data.attrs)
    if "compare" in data.attrs:
        kept = json.loads(data.attrs["compare"])
        study = evolve(study, output=evolve(study.output, compare=kept))
    design = make_design("zip", {name: values.tolist() for name, values in columns.items()})
    if not columns and len(positions) != 1:
        raise FlowError("nothing varies in this dataset, so all its runs are the same; name one")
    return _times_within(evolve(study, design=design if columns else make_design("single", {})))


def varied(
    data: Dataset, system: OdeSystem, positions: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Return the values of what varies from run to run, by quantity of the model."""
    parameters = {quantity.name for quantity in system.parameters} | {"duration"}
    initial = {f"{state.name}_initial": state.name for state in system.states}
    found = {}
    for key, variable in data.variables.items():
        name = str(key)
        if name not in data.coords or variable.dims != (RUN,):
            continue
        quantity = name if name in parameters else initial.get(name)
        if quantity is not None:
            found[quantity] = np.asarray(variable[{RUN: positions}].values, np.float64)
    return found


def _replace(
    system: OdeSystem, columns: dict[str, Any], given: Any, key: str, states: bool
) -> OdeSystem:
    """Return the system with other values; a quantity that varied is then the same in all runs."""
    if given is None:
        return system
    if not isinstance(given, Mapping):
        raise FlowError(f"{key} must map names to numbers, not be {given!r:.60}")
    for name in given:
        columns.pop(name, None)
    return system.with_values(states=given) if states else system.with_values(parameters=given)


def _config(data: Dataset, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a dataset with its changes, every key of today in it."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        stored = yaml.safe_load(data.attrs["config"])
        kept = {key: value for key, value in stored.items() if key not in _PLACE}
        # A result of an earlier version lacks keys that came later.
        today = defaults()
        found = OmegaConf.merge(today, OmegaConf.create(kept))
        OmegaConf.set_struct(found, False)
        # What the method was chosen to be, where the configuration leaves the choice open.
        OmegaConf.update(found, "algorithm.name", str(data.attrs["algorithm"]))
        for name in ("kind", "arch", "device", "threads", "lanes"):
            OmegaConf.update(
                found, f"target.{name}", OmegaConf.select(defaults(), f"target.{name}")
            )
        if changes.get("save_every") is not None:
            OmegaConf.update(found, "output.times", None)
        if changes.get("times") is not None:
            OmegaConf.update(found, "output.save_every", None)
        # A comparison with measured data stays with the result it belongs to.
        OmegaConf.update(found, "output.compare", None)
        # Whoever asks for runs wants their trajectories.
        OmegaConf.update(found, "output.trajectories.where", None)
        container = OmegaConf.to_container(found, resolve=True)
    except (yaml.YAMLError, AttributeError, OmegaConfBaseException) as error:
        reason = str(error).splitlines()[0]
        raise FlowError(f"the configuration in this dataset cannot be used: {reason}") from error
    assert isinstance(container, dict)
    for name, value in changes.items():
        if name in VALUES:
            continue
        *groups, last = CHANGES[name].split(".")
        place: Any = container
        for part in groups:
            place = place[part]
        value = value.tolist() if hasattr(value, "tolist") else value
        place[last] = list(value) if isinstance(value, tuple) else value
    return {str(key): value for key, value in container.items()}


@cache
def defaults() -> Any:
    """Return the configuration that ``conf/`` gives when nothing is asked for."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from cubie_flow.config import hydra_plugins
    from cubie_flow.config.schema import shipped

    hydra_plugins.register()
    with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        composed = compose("config", ["experiment=[]", "batch=single"])
    OmegaConf.set_struct(composed, False)
    return composed


def _times_within(study: Study) -> Study:
    """Drop saved times that are after the end of the runs chosen."""
    from attrs import evolve

    times = study.output.times
    if times is None:
        return study
    kept = [time for time in times if time <= study.span * (1 + 1e-12)]
    return evolve(study, output=evolve(study.output, times=kept or None))
