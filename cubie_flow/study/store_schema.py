"""The schema of a study's store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from attrs import evolve

from cubie_flow.batches import store_names
from cubie_flow.errors import FlowError
from cubie_flow.integrators.comparison import residuals
from cubie_flow.integrators.metrics import METRICS
from cubie_flow.integrators.residual_errors import SQUARES, WEIGHTED, likelihood
from cubie_flow.integrators.status import STATUS
from cubie_flow.kernels.kernel import BatchSolverKernel
from cubie_flow.kernels.launch import BatchResult
from cubie_flow.kernels.targets.target import BuildResult
from cubie_flow.storage import StoreSchema, Variable
from cubie_flow.storage.schema import (
    PER_RUN,
    PER_RUN_AND_OBSERVATION,
    PER_RUN_AND_OCCURRENCE,
    PER_RUN_AND_TIME,
    REJECTED,
    STEPS,
)
from cubie_flow.study.accuracy import atol_attribute
from cubie_flow.study.study import Study
from cubie_flow.study.subjects import BoundSubjects
from cubie_flow.systems import OdeSystem
from cubie_flow.systems.dependence import initial_name

Array = Any
#: Which attempt solved a rescued run.
ATTEMPT = Variable(
    store_names.ATTEMPT,
    PER_RUN,
    "uint8",
    "1",
    "number of the rescue attempt that solved the run, 0 for none",
)

#: Which runs a condition chose.
KEPT = Variable(
    store_names.TRAJECTORY_SAVED,
    PER_RUN,
    "uint8",
    "1",
    "whether the trajectory of the run is saved",
)


def coordinate_name(study: Study, quantity: str) -> str:
    """Return the name of a swept quantity in the store; an initial value is ``<state>_initial``."""
    states = {state.name for state in study.system.states}
    return initial_name(quantity) if quantity in states else quantity


def _refuse_ambiguous(study: Study) -> None:
    """Refuse an initial value whose coordinate has the name of another quantity."""
    known = _labels(study.system)
    for name in study.design.names:
        stored = coordinate_name(study, name)
        if stored != name and stored in known:
            raise FlowError(
                f"the initial value of '{name}' varies, and the store names it '{stored}', as "
                f"system '{study.system.name}' names another quantity; rename that one"
            )


def _labels(system: OdeSystem) -> dict[str, tuple[str, str]]:
    quantities = (*system.states, *system.parameters, *system.observables)
    return {item.name: (item.unit, item.long_name) for item in quantities}


def variables(study: Study) -> tuple[Variable, ...]:
    """Return every data variable of the study, in the order of `shard_arrays`."""
    study.integrated.refuse_unknown_outputs((*study.saved, *study.summarised))
    labels, real = _labels(study.integrated), study.precision
    found = []
    subjects = study.subjects
    for name in study.saved:
        unit, text = labels[name]
        if subjects is None:
            found.append(Variable(name, PER_RUN_AND_TIME, real, unit, text or name))
        else:
            found.append(_at_observations(subjects, name, unit, text, real))
    for state in study.integrated.states:
        text = f"final value of {state.long_name or state.name}"
        found.append(Variable(f"{state.name}_final", PER_RUN, real, state.unit, text))
    for name in study.summarised:
        unit, text = labels[name]
        for metric in METRICS:
            label = f"{_METRIC_LABELS[metric]} of {text or name} over the run"
            own = "1" if metric == "peaks" else unit
            found.append(Variable(f"{name}_{metric}", PER_RUN, real, own, label))
    found += _misfit_variables(study, labels)
    if study.output.where is not None:
        found.append(KEPT)
    kept = study.output.event_times
    for event in study.recorded:
        text = f"how often {event.name} happened"
        found.append(Variable(f"{event.name}_count", PER_RUN, "int32", "1", text))
        if kept:
            text, unit = f"first times of {event.name}", study.system.time_unit
            dims = PER_RUN_AND_OCCURRENCE
            found.append(Variable(f"{event.name}_times", dims, real, unit, text, length=kept))
    return tuple(found)


def _misfit_variables(study: Study, labels: Mapping[str, tuple[str, str]]) -> list[Variable]:
    """Return the results of the comparison with data; float64, because small differences matter."""
    if study.subjects is not None:
        return _subject_misfits(study.subjects, labels)
    if study.measured is None:
        return []
    found = []
    for one in study.measured.series:
        unit, text = labels[one.name]
        kinds = [("sse", "sum of squared residuals", _square(unit))]
        if one.sigmas:
            kinds.append(("wls", "sum of squared residuals by their variance", "1"))
        for kind, label, own in kinds:
            name, label = f"{one.name}_{kind}", f"{label} of {text or one.name}"
            found.append(Variable(name, PER_RUN, "float64", own, label))
    label = "logarithm of the Gaussian likelihood of the data"
    return [*found, Variable(store_names.LOGLIK, PER_RUN, "float64", "1", label)]


def _square(unit: str) -> str:
    """Return the unit of the square of a quantity."""
    return f"({unit})2" if unit not in ("", "1") else unit


def _subject_misfits(own: BoundSubjects, labels: Mapping[str, tuple[str, str]]) -> list[Variable]:
    """Return the results of the comparison with the observations of subjects."""
    found = []
    for name, error in own.errors:
        unit, text = labels[name]
        label = f"number of observations of {text or name}"
        found.append(Variable(f"{name}_observations", PER_RUN, "int32", "1", label))
        logarithms = " of logarithms" if error.lognormal is not None else ""
        kinds = [("sse", f"sum of squared residuals{logarithms}", _square(unit))]
        if logarithms:
            kinds = [(*kinds[0][:2], "1")]
        if error.known:
            kinds.append(("wls", "sum of squared residuals by their variance", "1"))
        for kind, label, unit in kinds:
            label = f"{label} of {text or name}"
            found.append(Variable(f"{name}_{kind}", PER_RUN, "float64", unit, label))
    if own.errors and all(error.known for _, error in own.errors):
        label = "logarithm of the likelihood of the observations of the subject"
        found.append(Variable(store_names.LOGLIK, PER_RUN, "float64", "1", label))
    return found


def _at_observations(
    own: BoundSubjects, name: str, unit: str, text: str, dtype: str = "float64", **attrs: Any
) -> Variable:
    """Return an array with a value at every observation of a run, NaN after the last one."""
    length = own.records.most_samples
    return Variable(name, PER_RUN_AND_OBSERVATION, dtype, unit, text, attrs, length)


_METRIC_LABELS = {
    "min": "minimum",
    "max": "maximum",
    "mean": "time mean",
    "rms": "root mean square",
    "std": "standard deviation",
    "peaks": "number of local maxima",
}


def counters(study: Study) -> tuple[Variable, ...]:
    """Return the counters of every run."""
    return (STEPS, REJECTED, ATTEMPT) if study.rescue else (STEPS, REJECTED)


def store_outline(study: Study) -> StoreSchema:
    """Return the arrays that the store of a study has; no kernel is needed for them.

    Raises
    ------
    FlowError
        If a name of an array is ambiguous, or an output is not a quantity of the model.
    """
    return StoreSchema(
        runs=study.design.size,
        variables=variables(study),
        status_flags={code: name for name, code in STATUS.items()},
        time=study.t_start + study.times if study.times.size else None,
        coordinates=_coordinates(study),
        counters=counters(study),
        time_unit=study.system.time_unit,
    )


def store_schema(outline: StoreSchema, study: Study, kernel: BatchSolverKernel) -> StoreSchema:
    """Return an outline with the attributes of its study and the buffers of its kernel.

    Parameters
    ----------
    outline : StoreSchema
        What `store_outline` returned for the study.
    study : Study
    kernel : BatchSolverKernel
        The kernel of the study, which need not be compiled.
    """
    layout = kernel.layout
    return evolve(
        outline,
        attrs={
            "title": study.system.title or study.system.name,
            "study": study.name,
            "algorithm": study.algorithm,
            "design": json.dumps(study.design.describe()),
            "system": json.dumps(study.system.to_mapping()),
            "system_hash": study.system.content_hash,
            **atol_attribute(study),
            **_driver_hashes(study.system),
            **_data(study),
        },
        memory=[
            {
                "buffer": entry.name,
                "owner": entry.path,
                "location": entry.location,
                "dtype": entry.dtype.name,
                "elements": entry.elements,
                "bytes": entry.bytes,
                "offset": entry.offset,
                "persistent": int(entry.persistent),
                "alias": entry.alias or "",
            }
            for entry in layout.entries
        ],
        plan={
            "target": kernel.target,
            "lanes": kernel.dialect.lanes,
            "precision": study.precision,
            "shared_bytes_per_run": layout.bytes("shared"),
            "shared_bytes_padded": kernel.shared_memory_bytes,
            "local_bytes_per_run": layout.bytes("local") + layout.bytes("persistent"),
            "kernel_hash": kernel.config_hash,
            **_records(study),
        },
    )


def _records(study: Study) -> dict[str, int]:
    """Return the size of the table of doses and observations, which `record_clock` walks over."""
    size = study.record_bytes
    return {"record_table_bytes": size} if size else {}


def compiled_schema(
    schema: StoreSchema, attrs: Mapping[str, Any], built: BuildResult | None = None
) -> StoreSchema:
    """Return a schema with what is known only once the kernel is compiled.

    Parameters
    ----------
    schema : StoreSchema
    attrs : mapping
        Further attributes, such as the config and the versions that solved the study.
    built : BuildResult, optional
        The compiled kernel, whose statistics are added.
    """
    plan = dict(schema.plan)
    if built is not None:
        plan |= {"kernel_from_cache": built.cached, "compile_seconds": built.seconds}
        plan |= {f"compiler_{name}": value for name, value in built.figures.items()}
    return evolve(schema, attrs={**schema.attrs, **attrs}, plan=plan)


def _coordinates(study: Study) -> tuple[Variable, ...]:
    """Return the swept quantities and labels of a study as arrays."""
    _refuse_ambiguous(study)
    labels = _labels(study.system)
    coordinates = []
    # The design keeps its values, which identify the runs; a kernel rounds them to its precision.
    rounded = {} if study.precision == "float64" else {"integrated_as": study.precision}
    for name in study.design.names:
        unit, text = labels.get(name, (study.system.time_unit, "duration of the run"))
        stored = coordinate_name(study, name)
        text = f"initial value of {text or name}" if stored != name else text or name
        coordinates.append(Variable(stored, PER_RUN, "float64", unit, text, rounded))
    own = study.subjects
    for name in study.design.labels:
        text = name.replace("_", " ") if name != store_names.SUBJECT else _SUBJECT
        attrs = {} if own is None else own.design.label_attrs(name)
        coordinates.append(Variable(name, PER_RUN, "float64", "1", text, attrs))
    if own is not None and own.records.most_samples:
        unit, time = study.system.time_unit, store_names.OBSERVATION_TIME
        coordinates.append(_at_observations(own, time, unit, "time of the observation"))
        if own.errors:
            unit = labels[own.observed[0]][0] if len(own.errors) == 1 else ""
            text = "measured value"
            coordinates.append(_at_observations(own, store_names.OBSERVED, unit, text))
        for name in own.design.row_labels:
            more = own.design.label_attrs(name)
            coordinates.append(_at_observations(own, name, "1", name.replace("_", " "), **more))
    return tuple(coordinates)


_SUBJECT = "number of the subject in its table, from 0"


def _subject_arrays(own: BoundSubjects, subjects: Array, result: BatchResult) -> dict[str, Array]:
    """Return what the store has of the subjects of runs, besides the samples.

    Parameters
    ----------
    own : BoundSubjects
    subjects : ndarray of int, shape (runs,)
    result : BatchResult
    """
    arrays: dict[str, Array] = {}
    if own.records.most_samples:
        time = own.design.table.columns["TIME"]
        arrays[store_names.OBSERVATION_TIME] = own.at_samples(time, subjects)
        for name, values in own.design.row_labels.items():
            arrays[name] = own.at_samples(values, subjects)
    if not own.errors:
        return arrays
    values, numbers = own.measured(subjects)
    arrays[store_names.OBSERVED] = values
    counts, logs = [], []
    for position, (name, error) in enumerate(own.errors):
        chosen = numbers == position
        counts.append(chosen.sum(axis=1))
        positive = np.where(chosen & (error.lognormal is not None), values, 1.0)
        logs.append(np.log(positive).sum(axis=1))
        sums = result.misfits[position].astype(np.float64)
        arrays[f"{name}_observations"] = counts[-1].astype(np.int32)
        arrays[f"{name}_sse"] = sums[SQUARES]
        if error.known:
            arrays[f"{name}_wls"] = sums[WEIGHTED]
    if all(error.known for _, error in own.errors):
        errors = [error for _, error in own.errors]
        found = likelihood(result.misfits, errors, np.array(counts), np.array(logs))
        arrays[store_names.LOGLIK] = found
    return arrays


def _driver_hashes(system: OdeSystem) -> dict[str, str]:
    hashes = {driver.name: driver.content_hash for driver in system.drivers}
    return {"drivers": json.dumps(hashes)} if hashes else {}


def _data(study: Study) -> dict[str, str]:
    data = study.measured
    if data is None:
        return {}
    return {"compare": json.dumps(data.to_mapping()), "compare_hash": data.content_hash}


def shard_arrays(
    study: Study, columns: Mapping[str, Array], result: BatchResult
) -> dict[str, Array]:
    """Return the arrays of a shard by the names of the store.

    Parameters
    ----------
    study : Study
    columns : mapping
        Values of every varied quantity, each of shape (runs,).
    result : BatchResult
        The results of these runs.

    Returns
    -------
    dict
        Arrays of shape (runs,), (runs, times), (runs, occurrences) or (runs, observations).
    """
    arrays = {name: result.samples[i] for i, name in enumerate(study.saved)}
    for i, state in enumerate(study.integrated.states):
        arrays[f"{state.name}_final"] = result.finals[i]
    for i, name in enumerate(study.summarised):
        for j, metric in enumerate(METRICS):
            arrays[f"{name}_{metric}"] = result.metrics[i, j]
    if study.measured is not None:
        arrays.update(residuals(study.measured, result.misfits))
    if study.subjects is not None:
        subjects = columns[store_names.SUBJECT].astype(np.int64)
        arrays.update(_subject_arrays(study.subjects, subjects, result))
    for i, event in enumerate(study.recorded):
        arrays[f"{event.name}_count"] = result.event_counts[i].astype(np.int32)
        if study.output.event_times:
            arrays[f"{event.name}_times"] = np.ascontiguousarray(result.event_times[i].T)
    for name, values in columns.items():
        arrays[coordinate_name(study, name)] = values
    counted = {STEPS.name: result.steps, REJECTED.name: result.rejected}
    arrays.update({**counted, store_names.STATUS: result.status})
    if result.attempts is not None:
        arrays[ATTEMPT.name] = result.attempts
    return arrays
