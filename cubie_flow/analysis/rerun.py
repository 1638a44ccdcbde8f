"""Integrating runs of a result again, from the model and configuration that the result holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cubie_flow.analysis import attributes, runs
from cubie_flow.batches.store_names import RUN
from cubie_flow.config import plain
from cubie_flow.documents import parse_json
from cubie_flow.errors import FlowError, nearest

if TYPE_CHECKING:
    from xarray import Dataset

    from cubie_flow.batches import Design
    from cubie_flow.study.study import Study
    from cubie_flow.systems import OdeSystem

#: What may be changed, and its key in the configuration.
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
#: Keys that only decide where and how fast runs are solved; this machine's defaults replace them.
_POLICY = ("system", "batch", "engine", "storage", "buffers", "task", "to", "confirm", "dry_run")


def rerun(data: Dataset, which: int | Iterable[int], **changes: Any) -> Dataset:
    """Integrate runs again; see `FlowAccessor.rerun`."""
    from cubie_flow.api import solve_study

    positions = runs.positions_of(data, which)
    study = stored_study(data, positions, changes)
    again = runs.with_numbers(solve_study(study), runs.numbers(data, positions))
    source = str(data.encoding.get("source", "memory"))
    return again.assign_attrs(rerun_of=source, rerun_changes=json.dumps(changes, default=str))


def stored_study(data: Dataset, positions: NDArray[np.int64], changes: Mapping[str, Any]) -> Study:
    """Return the study of some runs of a dataset, with changes.

    Parameters
    ----------
    data : xarray.Dataset
        A result; its attributes hold the model and the configuration.
    positions : ndarray of int64, shape (n,)
        Positions of the runs in `data`.
    changes : mapping
        New values for names in `CHANGES`, and mappings of names to numbers for `VALUES`.

    Raises
    ------
    FlowError
        If the dataset lacks the model or the configuration, or a change is unknown.
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
    system = OdeSystem.from_mapping(attributes.model(data))
    _refuse_unwritten(data, positions)
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
        measured = parse_json(data.attrs["compare"], "the attribute compare of this dataset")
        study = evolve(study, output=evolve(study.output, compare=measured))
    if attributes.design(data).get("kind") == "subjects":
        return evolve(study, design=_subjects(data, positions, columns, changes))
    design = make_design("zip", {name: values.tolist() for name, values in columns.items()})
    if not columns and len(positions) != 1:
        raise FlowError("nothing varies in this dataset, so all its runs are the same; name one")
    return _limit_times(evolve(study, design=design if columns else make_design("single", {})))


def _subjects(
    data: Dataset,
    positions: NDArray[np.int64],
    columns: Mapping[str, Any],
    changes: Mapping[str, Any],
) -> Design:
    """Return the design of some runs of a table of subjects, which has to exist still."""
    from cubie_flow.batches.described import described_design
    from cubie_flow.batches.subjects import Chosen

    design = described_design(attributes.design(data))
    changed = [name for key in VALUES for name in changes.get(key) or {}]
    for name in changed:
        if name in design.names:
            raise FlowError(f"rerun cannot change '{name}', which the table of subjects gives")
    assert not {*columns} - {*design.names}
    return Chosen(design, runs.numbers(data, positions).tolist())


def _refuse_unwritten(data: Dataset, positions: NDArray[np.int64]) -> None:
    """Refuse runs whose values no process has written yet."""
    unwritten = np.intersect1d(positions, runs.with_status(data, (runs.NOT_WRITTEN,)))
    if unwritten.size:
        number = int(runs.numbers(data, unwritten[:1])[0])
        raise FlowError(
            f"run {number} is not written yet, so its values are not known; resume the study first"
        )


def varied(
    data: Dataset, system: OdeSystem, positions: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Return the values that vary between runs, by quantity of the model.

    Parameters
    ----------
    data : xarray.Dataset
    system : OdeSystem
    positions : ndarray of int64, shape (n,)
        Positions of the runs in `data`.
    """
    parameters = {quantity.name for quantity in system.parameters} | {"duration"}
    initial = {f"{state.name}_initial": state.name for state in system.states}
    columns = {}
    for name in runs.swept(data):
        quantity = name if name in parameters else initial.get(name)
        if quantity is not None:
            values = data.variables[name][{RUN: positions}].values
            columns[quantity] = np.asarray(values, np.float64)
    _refuse_renamed(data, columns)
    return columns


def _refuse_renamed(data: Dataset, columns: Mapping[str, Any]) -> None:
    """Refuse a dataset that lacks a quantity that its study varied: it would have one value."""
    design = attributes.design(data)
    swept = [name for axis in design.get("sweep") or [] for name in axis if "." not in name]
    for name in (*swept, *design.get("values", {})):
        if name not in columns:
            raise FlowError(
                f"the study varies '{name}', which this dataset does not hold; rerun needs the "
                "names of the study, so rerun first, then rename"
            )


def _replace(
    system: OdeSystem, columns: dict[str, Any], given: Any, key: str, states: bool
) -> OdeSystem:
    """Return the system with new values, and remove these quantities from what varies."""
    if given is None:
        return system
    if not isinstance(given, Mapping):
        raise FlowError(f"{key} must map names to numbers, not be {given!r:.60}")
    for name in given:
        columns.pop(name, None)
    return system.with_values(states=given) if states else system.with_values(parameters=given)


def _config(data: Dataset, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a dataset with changes, completed by the defaults."""
    container = _completed_config(data, changes)
    for name, value in changes.items():
        if name in VALUES:
            continue
        *groups, last = CHANGES[name].split(".")
        section: Any = container
        for group in groups:
            section = section[group]
        value = value.tolist() if hasattr(value, "tolist") else value
        section[last] = list(value) if isinstance(value, tuple) else value
    return container


def _completed_config(data: Dataset, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a dataset, with defaults for the keys that it lacks."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        config = OmegaConf.merge(defaults(), OmegaConf.create(_stored_science(data, changes)))
        OmegaConf.set_struct(config, False)
        for name in ("kind", "arch", "device", "threads", "lanes"):
            value = OmegaConf.select(defaults(), f"target.{name}")
            OmegaConf.update(config, f"target.{name}", value)
        if changes.get("save_every") is not None:
            OmegaConf.update(config, "output.times", None)
        if changes.get("times") is not None:
            OmegaConf.update(config, "output.save_every", None)
        # The data that a result was compared with is in the result, not in a file.
        OmegaConf.update(config, "output.compare", None)
        # Return the trajectories of all runs that are asked for.
        OmegaConf.update(config, "output.trajectories.where", None)
        container = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise FlowError(f"the configuration in this dataset cannot be used: {reason}") from error
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _stored_science(data: Dataset, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the configuration of a dataset says about its numbers, as plain values.

    Raises
    ------
    FlowError
        If a key that is not changed refers to something outside of the configuration.
    """
    science = {key: deepcopy(v) for key, v in attributes.config(data).items() if key not in _POLICY}
    for name in changes:
        if plain.names_outside(plain.select(science, CHANGES.get(name, name))):
            plain.drop(science, CHANGES[name])
    # With algorithm=auto, the method that was chosen.
    plain.put(science, "algorithm.name", str(data.attrs["algorithm"]))
    return plain.resolved(science, "the configuration of this dataset")


@cache
def defaults() -> Any:
    """Return the configuration of ``conf/`` without any override."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from cubie_flow.config import hydra_plugins
    from cubie_flow.config.schema import shipped

    hydra_plugins.register()
    with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        composed = compose("config", ["experiment=[]", "batch=single"])
    OmegaConf.set_struct(composed, False)
    return composed


def _limit_times(study: Study) -> Study:
    """Return a study without saved times after the end of its longest run."""
    from attrs import evolve

    times = study.output.times
    if times is None:
        return study
    within = [time for time in times if time <= study.span * (1 + 1e-12)]
    return evolve(study, output=evolve(study.output, times=within or None))
