"""The library entry: a model and a batch in, a labelled dataset or store out.

`solve` is for notebooks, `run_study` writes a store while it solves; the command line uses it too.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import evolve

from cubie_flow.batches import Design, make_design
from cubie_flow.errors import FlowError, nearest
from cubie_flow.integrators.run import DURATION
from cubie_flow.storage.schema import PER_RUN
from cubie_flow.study.accuracy import fine_choice
from cubie_flow.study.attempts import read_rescue
from cubie_flow.study.auto_method import resolve_algorithm
from cubie_flow.study.kernel import lent_kernel, threads_of
from cubie_flow.study.options import ControllerChoice, OutputChoice, TargetChoice
from cubie_flow.study.plan import plan_study
from cubie_flow.study.run import run_study
from cubie_flow.study.shards import ShardSolver
from cubie_flow.study.store_schema import schema
from cubie_flow.study.study import Study
from cubie_flow.study.to_config import to_config
from cubie_flow.study.tolerance_record import Faint, faint_attribute
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
    duration: float | Any | None = None,
    t_start: float = 0.0,
    algorithm: str = "tsit5",
    precision: str = "float64",
    save_every: float | None = None,
    times: Sequence[float] | None = None,
    variables: Sequence[str] | None = None,
    summaries: Sequence[str] | None = None,
    sensitivities: Sequence[str] | None = None,
    compare: Any = None,
    event_times: int = 10,
    controller: ControllerChoice | None = None,
    rtol: float | Mapping[str, float] | None = None,
    atol: float | Mapping[str, float] | str | None = None,
    dt: float | None = None,
    target: str | TargetChoice = "auto",
    locations: Mapping[str, str] | None = None,
    linear_solver: str = "auto",
    rescue: Any = "off",
) -> xarray.Dataset:
    """Integrate a batch of runs of a model in memory.

    Parameters
    ----------
    system : OdeSystem
    parameters, initial_values : mapping, optional
        Values by name: a number for all runs, or an array with one value a run.
    drivers : mapping, optional
        Series by the name of a driver of the model, or of a parameter that becomes one, such as
        ``{"u": {"times": t, "values": v, "interpolation": "cubic"}}``; see
        `OdeSystem.with_drivers`. With one series a run, shape (runs, times), the parameter that
        chooses the series varies by itself.
    batch : {"zip", "grid"} or Design, optional
        How arrays combine: run by run (the default), or every combination. A design replaces
        the arrays.
    duration : float or array, optional
        In the model's unit of time; the model's own by default.
    t_start : float
    algorithm : str
        Name of a method.
    precision : {"float32", "float64"}
    save_every, times, variables, summaries, sensitivities, compare, event_times
        See `OutputChoice`; without times only final values are kept.
    controller : ControllerChoice, optional
        Step control in full; `rtol`, `atol` and `dt` change single choices of it. By default
        rtol is 1e-6 and atol rtol times the scale of a state, see
        `cubie_flow.integrators.tolerances.absolute_tolerances`, and at most 1e-9.
    target : str or TargetChoice
    locations : mapping, optional
        ``{buffer: location}``.
    linear_solver : {"auto", "sparse", "pivoted", "bicgstab"}
        Of an implicit method.
    rescue : "off", "default" or list
        How failed runs are solved again, see `cubie_flow.study.attempts`.

    Returns
    -------
    xarray.Dataset
        With the names, dimensions and attributes of a store.

    Raises
    ------
    FlowError
        For whatever makes the batch impossible, in one sentence.

    Examples
    --------
    >>> from cubie_flow import OdeSystem, solve
    >>> decay = OdeSystem.from_equations("dx/dt = -k*x", {"x": 1.0}, {"k": 1.0})
    >>> data = solve(decay, parameters={"k": [0.5, 1.0]}, duration=2.0, save_every=1.0)
    >>> data.x.values.round(4).tolist()
    [[1.0, 0.6065, 0.3679], [1.0, 0.3679, 0.1353]]
    """
    if not isinstance(system, OdeSystem):
        raise FlowError(f"solve needs an OdeSystem, not {type(system).__name__}")
    if controller is not None and not isinstance(controller, ControllerChoice):
        raise FlowError(f"controller must be a ControllerChoice, not {type(controller).__name__}")
    if not isinstance(target, str | TargetChoice):
        raise FlowError(f"target must be a name or a TargetChoice, not {target!r:.60}")
    if not isinstance(locations, Mapping | None):
        raise FlowError(f"locations must map buffers to places, not be {locations!r:.60}")
    system, choices = _driven(system, drivers, parameters)
    system, varied = _valued(system, parameters, initial_values)
    spans = None if duration is None else _numbers("duration", duration)
    if spans is not None and spans.ndim:
        varied[DURATION] = spans
    if times is not None:
        times = np.atleast_1d(_numbers("times", times)).tolist()
    changes: dict[str, Any] = {"rtol": rtol, "atol": atol, "dt": dt}
    study = Study(
        system=system,
        design=batch if isinstance(batch, Design) else _design(batch, {**varied, **choices}),
        duration=float(spans) if spans is not None and not spans.ndim else None,
        t_start=t_start,
        algorithm=algorithm,
        precision=precision,
        controller=evolve(
            controller or ControllerChoice(),
            **{key: value for key, value in changes.items() if value is not None},
        ),
        output=OutputChoice(
            save_every,
            times,
            variables,
            summaries,
            sensitivities,
            compare,
            event_times=event_times,
        ),
        target=TargetChoice(target) if isinstance(target, str) else target,
        locations=dict(locations or {}),
        linear_solver=linear_solver,
        rescue=read_rescue(rescue),
    )
    for told in without_effect(study):
        warnings.warn(told, stacklevel=2)
    if controller is None and atol is None:
        study = evolve(study, controller=fine_choice(study, FINE))
    return solve_study(study)


def _driven(
    system: OdeSystem, drivers: Mapping[str, Any] | None, parameters: Mapping[str, Any] | None
) -> tuple[OdeSystem, dict[str, list[float]]]:
    """Return the system with its drivers, and the numbers of their series where runs choose one."""
    if drivers is None:
        return system, {}
    system = system.with_drivers(drivers)
    return system, {
        one.series: [float(i) for i in range(len(one.values))]
        for one in system.drivers
        if one.name in drivers and one.series and one.series not in (parameters or {})
    }


def _valued(
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
        raise FlowError(f"{key} has shape {array.shape}; it must be a number or one value a run")
    return array.astype(np.float64)


def solve_study(study: Study) -> xarray.Dataset:
    """Integrate a study in memory; see `solve`."""
    import xarray

    given = study.algorithm
    study, told = resolve_algorithm(study)
    if told and given == study.algorithm:
        warnings.warn(told, stacklevel=3)
    with lent_kernel(study) as kernel:
        held = schema(study, kernel, {"config": to_config(study)})
        # One shard: all of it is held in memory in the end, and joining shards would hold it twice.
        solver = ShardSolver(study, kernel, [(0, study.design.size)], threads_of(study))
        arrays, record = solver.solve(0)
    described = {v.name: v for v in held.arrays}
    data = {}
    for name, values in arrays.items():
        known = described.get(name)
        dims = known.dims if known else PER_RUN
        flags = {
            "flag_values": list(held.status_flags),
            "flag_meanings": " ".join(held.status_flags.values()),
        }
        data[name] = (dims, values, known.attributes if known else flags)
    coordinates = {v.name: data.pop(v.name) for v in held.coordinates}
    if held.time is not None:
        coordinates["time"] = (("time",), held.time, {"units": held.time_unit})
    faint = {name: Faint(*one) for name, one in record.faint.items()}
    return xarray.Dataset(data, coordinates, {**held.attrs, **faint_attribute(faint)})
