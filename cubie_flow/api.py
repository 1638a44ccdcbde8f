"""The library entry: a model and a batch in, a labelled dataset or store out.

`solve` is for notebooks, `run_study` writes a store while it solves; the command line uses it too.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from inspect import signature
from pathlib import PurePath
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import evolve, fields

from cubie_flow.batches import Design, make_design, swept_design
from cubie_flow.batches.store_names import STATUS
from cubie_flow.batches.subjects import subjects_design
from cubie_flow.console.progress import Progress, is_interactive, progress_of_solve
from cubie_flow.errors import FlowError, nearest
from cubie_flow.integrators.run import DURATION
from cubie_flow.kernels.launch import UNFINISHED
from cubie_flow.storage.provenance import SCHEMA_VERSION
from cubie_flow.storage.schema import CONVENTIONS, PER_RUN, StoreSchema, cf_unit
from cubie_flow.study.accuracy import fine_choice
from cubie_flow.study.attempts import read_rescue
from cubie_flow.study.auto_method import resolve_algorithm
from cubie_flow.study.in_memory import solve_in_memory
from cubie_flow.study.kernel import lent_kernel
from cubie_flow.study.options import ControllerChoice, OutputChoice, TargetChoice
from cubie_flow.study.plan import plan_study
from cubie_flow.study.run import run_study
from cubie_flow.study.store_schema import compiled_schema, store_outline, store_schema
from cubie_flow.study.study import Study
from cubie_flow.study.to_config import to_config
from cubie_flow.study.tolerance_record import faint_attribute
from cubie_flow.study.warnings import without_effect
from cubie_flow.systems import OdeSystem

if TYPE_CHECKING:
    import xarray

__all__ = [
    "ControllerChoice",
    "OutputChoice",
    "Study",
    "TargetChoice",
    "plan_study",
    "run_study",
    "solve",
    "solve_study",
]

Array = Any
#: Largest absolute tolerance of `solve` where none is asked for.
FINE = 1e-9


def solve(
    system: OdeSystem,
    *,
    parameters: Mapping[str, Any] | None = None,
    initial_values: Mapping[str, Any] | None = None,
    drivers: Mapping[str, Any] | None = None,
    batch: str | Design | None = None,
    subjects: Any = None,
    observed: str | Mapping[str, str] | None = None,
    duration: float | Any | None = None,
    t_start: float = 0.0,
    algorithm: str = "tsit5",
    linear_solver: str = "auto",
    precision: str = "float64",
    controller: ControllerChoice | None = None,
    output: OutputChoice | None = None,
    target: str | TargetChoice = "auto",
    locations: Mapping[str, str] | None = None,
    rescue: Any = "off",
    progress: bool | None = None,
    **settings: Any,
) -> xarray.Dataset:
    """Integrate a batch of runs of a model in memory.

    Parameters
    ----------
    system : OdeSystem
    parameters, initial_values : mapping, optional
        Values by name: a number for all runs, or an array with one value per run.
    drivers : mapping, optional
        Series by the name of a driver of the model, or of a parameter that becomes one, such as
        ``{"u": {"times": t, "values": v, "interpolation": "cubic"}}``; see
        `OdeSystem.with_drivers`. With one series per run, shape (runs, times), the parameter that
        chooses the series varies by itself.
    batch : {"zip", "grid"} or Design, optional
        How arrays combine: run by run (the default), or every combination. A design replaces
        the arrays.
    subjects : path, mapping or DataFrame, optional
        A table of doses and observations: one run per subject, see
        `cubie_flow.batches.subjects.subjects_design`. Columns with the name of a quantity of the
        model give it, unless `parameters` or `initial_values` do.
    observed : str or mapping, optional
        What ``DV`` of `subjects` measures, or several quantities by DVID or CMT; by default the
        only observable of the model.
    duration : float or array, optional
        In the model's unit of time; the model's own by default.
    t_start : float
        Time at which runs start.
    algorithm : str
        Name of a method.
    linear_solver : {"auto", "sparse", "pivoted", "bicgstab"}
        Linear solver of an implicit method.
    precision : {"float32", "float64"}
    controller : ControllerChoice, optional
        Step control. By default rtol is 1e-6 and atol rtol times the scale of a state, see
        `cubie_flow.integrators.tolerances.absolute_tolerances`, and at most 1e-9.
    output : OutputChoice, optional
        What is kept of every run; without times only final values.
    target : str or TargetChoice
    locations : mapping, optional
        ``{buffer: location}``.
    rescue : "off", "default" or list
        How failed runs are solved again, see `cubie_flow.study.attempts`.
    progress : bool, optional
        Whether to show how far it is. By default a bar appears in notebooks, and on a terminal at
        which a person types, if it takes longer than a second.
    **settings
        Single fields of `controller` and `output`, such as ``rtol=1e-8`` or ``save_every=0.1``.

    Returns
    -------
    xarray.Dataset
        With the names, dimensions and attributes of a store. After Ctrl-C in a notebook or an
        interactive session it holds the runs that are finished; the others have the status
        ``not_written`` and NaN, a warning counts them, and the attribute ``interrupted`` says so.

    Raises
    ------
    FlowError
        For whatever makes the batch impossible, in one sentence.
    TypeError
        For a setting that does not exist.
    KeyboardInterrupt
        After Ctrl-C in a script, or before any run is finished.

    Examples
    --------
    >>> from cubie_flow import OdeSystem, solve
    >>> decay = OdeSystem.from_equations("dx/dt = -k*x", {"x": 1.0}, {"k": 1.0})
    >>> data = solve(decay, parameters={"k": [0.5, 1.0]}, duration=2.0, save_every=1.0)
    >>> data.x.values.round(4).tolist()
    [[1.0, 0.6065, 0.3679], [1.0, 0.3679, 0.1353]]
    """
    _check_kinds(system, controller, output, target, locations)
    chosen = _group_settings({name: value for name, value in settings.items() if value is not None})
    if "times" in chosen["output"]:
        times = np.atleast_1d(_numbers("times", chosen["output"]["times"])).tolist()
        chosen["output"]["times"] = times or None
    system, choices = _with_drivers(system, drivers, parameters)
    system, varied = _split_values(system, parameters, initial_values)
    spans = None if duration is None else _numbers("duration", duration)
    if spans is not None and spans.ndim:
        varied[DURATION] = spans
    if subjects is not None:
        batch = _subjects(
            subjects,
            observed,
            system,
            batch,
            {**varied, **choices},
            {*(parameters or {}), *(initial_values or {})},
        )
    study = Study(
        system=system,
        design=batch if isinstance(batch, Design) else _design(batch, {**varied, **choices}),
        duration=float(spans) if spans is not None and not spans.ndim else None,
        t_start=t_start,
        algorithm=algorithm,
        precision=precision,
        controller=evolve(controller or ControllerChoice(), **chosen["controller"]),
        output=evolve(output or OutputChoice(), **chosen["output"]),
        target=TargetChoice(target) if isinstance(target, str) else target,
        locations=dict(locations or {}),
        linear_solver=linear_solver,
        rescue=read_rescue(rescue),
    )
    for warning in without_effect(study):
        warnings.warn(warning, stacklevel=2)
    if controller is None and "atol" not in chosen["controller"]:
        study = evolve(study, controller=fine_choice(study, FINE))
    return solve_study(study, progress=progress)


def _check_kinds(system: Any, controller: Any, output: Any, target: Any, locations: Any) -> None:
    """Refuse arguments of `solve` that are of another type."""
    if not isinstance(system, OdeSystem):
        raise FlowError(f"solve needs an OdeSystem, not {type(system).__name__}")
    for name, given, kind in (
        ("controller", controller, ControllerChoice),
        ("output", output, OutputChoice),
    ):
        if given is not None and not isinstance(given, kind):
            raise FlowError(f"{name} must be of type {kind.__name__}, not {type(given).__name__}")
    if not isinstance(target, str | TargetChoice):
        raise FlowError(f"target must be a name or a TargetChoice, not {target!r:.60}")
    if not isinstance(locations, Mapping | None):
        raise FlowError(f"locations must map buffers to locations, not be {locations!r:.60}")


def _group_settings(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return settings by the argument of `solve` that has them as a field."""
    groups = {
        "controller": [one.name for one in fields(ControllerChoice)],
        "output": [one.name for one in fields(OutputChoice)],
    }
    for name in settings:
        if not any(name in names for names in groups.values()):
            own = [one for one in signature(solve).parameters if one != "settings"]
            known = [*own, *(name for names in groups.values() for name in names)]
            raise TypeError(f"solve has no argument '{name}'{nearest(name, known)}")
    return {
        group: {name: value for name, value in settings.items() if name in names}
        for group, names in groups.items()
    }


def _with_drivers(
    system: OdeSystem, drivers: Mapping[str, Any] | None, parameters: Mapping[str, Any] | None
) -> tuple[OdeSystem, dict[str, list[float]]]:
    """Return the system with its drivers, and the series numbers that vary if runs choose one."""
    if drivers is None:
        return system, {}
    system = system.with_drivers(drivers)
    return system, {
        one.series: [float(i) for i in range(len(one.values))]
        for one in system.drivers
        if one.name in drivers and one.series and one.series not in (parameters or {})
    }


def _split_values(
    system: OdeSystem,
    parameters: Mapping[str, Any] | None,
    initial_values: Mapping[str, Any] | None,
) -> tuple[OdeSystem, dict[str, Array]]:
    """Return the system with the values that all runs share, and those that vary, by name."""
    fixed: dict[str, dict[str, float]] = {"parameters": {}, "states": {}}
    varied: dict[str, Array] = {}
    given = (
        ("parameters", "parameters", parameters, system.parameters),
        ("states", "initial_values", initial_values, system.states),
    )
    for group, argument, values, quantities in given:
        if not isinstance(values, Mapping | None):
            raise FlowError(f"{argument} must map names to values, not be {values!r}")
        known = [quantity.name for quantity in quantities]
        for name, value in (values or {}).items():
            if name not in known:
                raise FlowError(
                    f"{argument}: system '{system.name}' has no '{name}'{nearest(name, known)}"
                )
            array = _numbers(f"{argument}['{name}']", value)
            if array.ndim == 0:
                fixed[group][name] = float(array)
            else:
                varied[name] = array
    return system.with_values(**fixed) if any(fixed.values()) else system, varied


def _design(batch: str | None, varied: Mapping[str, Any]) -> Design:
    """Return the batch in which arrays combine as `batch` says; one run where nothing varies."""
    if batch is not None:
        make_design(batch, {"check": [0.0]} if batch in ("grid", "zip") else {})
    return make_design((batch or "zip") if varied else "single", varied)


def _subjects(
    table: Any,
    observed: Any,
    system: OdeSystem,
    batch: Any,
    varied: Mapping[str, Any],
    given: Collection[str],
) -> Design:
    """Return the design of a table of subjects; every subject at every point of what varies."""
    known = {quantity.name for quantity in system.quantities} - {*given}
    if not isinstance(table, str | PurePath | Mapping):
        table = {str(name): list(table[name]) for name in table}
    own = subjects_design(table, options={"observed": observed}, known=known)
    if batch not in (None, "zip", "grid"):
        raise FlowError(f"batch is {batch!r:.60}, but with subjects it must be 'zip' or 'grid'")
    axes = [{name: one} for name, one in varied.items()] if batch == "grid" else [varied]
    return swept_design(axes, 0, lambda _: own) if varied else own


def _numbers(key: str, value: Any) -> Array:
    """Return a number or a list of numbers as float64, shape () or (n,)."""
    if isinstance(value, np.ma.MaskedArray):
        raise FlowError(f"{key} is a masked array; give plain numbers")
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "iuf":
        raise FlowError(f"{key} must be a number or a list of numbers, not {value!r:.60}")
    if array.ndim > 1:
        raise FlowError(f"{key} has shape {array.shape}; it must be a number or one value per run")
    return array.astype(np.float64)


def solve_study(study: Study, *, progress: bool | None = False) -> xarray.Dataset:
    """Integrate a study in memory.

    Parameters
    ----------
    study : Study
    progress : bool, optional
        See `solve`.

    Returns
    -------
    xarray.Dataset
        With the names, dimensions and attributes of a store.

    Raises
    ------
    FlowError
        See `solve`.
    """
    given = study.algorithm
    study, note = resolve_algorithm(study)
    if note and given == study.algorithm:
        warnings.warn(note, stacklevel=3)
    total = study.design.size
    with progress_of_solve(study.system.name, progress) as show, lent_kernel(study) as kernel:
        show(Progress(0, total, 0, 0.0, compiling=True))
        outline = store_outline(study)
        schema = store_schema(outline, study, kernel)
        schema = compiled_schema(schema, {"config": to_config(study)})
        began = perf_counter()
        arrays, faint = solve_in_memory(
            study,
            kernel,
            outline,
            lambda done: show(Progress(done, total, 0, perf_counter() - began)),
            keep_interrupted=is_interactive(),
        )
    unfinished = int((arrays[STATUS] == UNFINISHED).sum())
    attrs = {**faint_attribute(faint), **_interruption(unfinished, total)}
    return _dataset(schema, arrays, attrs)


def _interruption(unfinished: int, total: int) -> dict[str, str]:
    """Return the attribute of a result that Ctrl-C ended, and warn of it.

    Raises
    ------
    KeyboardInterrupt
        If no run is finished.
    """
    if not unfinished:
        return {}
    if unfinished == total:
        raise KeyboardInterrupt
    text = (
        f"interrupted: {total - unfinished:,} of {total:,} runs are finished; the others have the "
        "status not_written"
    )
    warnings.warn(text, stacklevel=4)
    return {"interrupted": text}


def _dataset(
    schema: StoreSchema, arrays: Mapping[str, Array], attrs: Mapping[str, Any]
) -> xarray.Dataset:
    """Return the arrays of a study as a dataset with the names and attributes of its store."""
    import xarray

    variables = {variable.name: variable for variable in schema.arrays}
    ends = dict(schema.status_flags)
    if "interrupted" in attrs:
        ends[UNFINISHED] = "not_written"
    flags = {
        "flag_values": np.array(list(ends), np.uint8),
        "flag_meanings": " ".join(ends.values()),
    }
    data: dict[str, Any] = {}
    for name, values in arrays.items():
        known = variables.get(name)
        dims, about = (known.dims, known.attributes) if known else (PER_RUN, flags)
        data[name] = (dims, values, about)
    coordinates = {variable.name: data.pop(variable.name) for variable in schema.coordinates}
    if schema.time is not None:
        coordinates["time"] = (
            ("time",), schema.time, {"units": cf_unit(schema.time_unit or "1"), "long_name": "time"}
        )  # fmt: skip
    about = {"schema_version": SCHEMA_VERSION, "Conventions": CONVENTIONS}
    return xarray.Dataset(data, coordinates, {**about, **schema.attrs, **attrs})
