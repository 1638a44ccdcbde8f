"""What the store of a study holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from cubie_flow.batches import store_names
from cubie_flow.errors import FlowError
from cubie_flow.integrators.comparison import residuals
from cubie_flow.integrators.metrics import METRICS
from cubie_flow.integrators.status import STATUS
from cubie_flow.kernels.kernel import BatchSolverKernel, BuildResult
from cubie_flow.kernels.launch import BatchResult
from cubie_flow.storage import StoreSchema, Variable
from cubie_flow.storage.schema import (
    PER_RUN,
    PER_RUN_AND_OCCURRENCE,
    PER_RUN_AND_TIME,
    REJECTED,
    STEPS,
)
from cubie_flow.study.accuracy import described
from cubie_flow.study.study import Study
from cubie_flow.study.trajectory_filter import Screen
from cubie_flow.systems import OdeSystem
from cubie_flow.systems.dependence import initial_name

Array = Any
#: Where a rescued run comes from.
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
    """Refuse an initial value whose coordinate would be taken for another quantity."""
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
    for name in study.saved:
        unit, text = labels[name]
        found.append(Variable(name, PER_RUN_AND_TIME, real, unit, text))
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
    """Return what the comparison with data gives, float64: differences of it are small."""
    if study.measured is None:
        return []
    found = []
    for one in study.measured.series:
        unit, text = labels[one.name]
        kinds = [
            ("sse", "sum of squared residuals", f"({unit})2" if unit != "1" and unit else unit)
        ]
        if one.sigmas:
            kinds.append(("wls", "sum of squared residuals by their variance", "1"))
        for kind, label, own in kinds:
            name, label = f"{one.name}_{kind}", f"{label} of {text or one.name}"
            found.append(Variable(name, PER_RUN, "float64", own, label))
    label = "logarithm of the Gaussian likelihood of the data"
    return [*found, Variable(store_names.LOGLIK, PER_RUN, "float64", "1", label)]


_METRIC_LABELS = {
    "min": "minimum",
    "max": "maximum",
    "mean": "time mean",
    "rms": "root mean square",
    "std": "standard deviation",
    "peaks": "number of local maxima",
}


def screen(study: Study) -> Screen | None:
    """Return the condition for which runs trajectories are saved; None saves those of all."""
    if study.output.where is None:
        return None
    if not study.saved:
        raise FlowError(
            f"output.trajectories.where is '{study.output.where}', but no trajectories are "
            "saved; give output.save_every or output.times"
        )
    first = study.screened
    known = [variable.name for variable in variables(first) if variable.dims == PER_RUN]
    known += [coordinate_name(first, name) for name in (*first.design.names, *first.design.labels)]
    known += [store_names.STATUS, *(variable.name for variable in counters(first))]
    return Screen.read(study.output.where, known)


def counters(study: Study) -> tuple[Variable, ...]:
    """Return what is counted of every run."""
    return (STEPS, REJECTED, ATTEMPT) if study.rescue else (STEPS, REJECTED)


def schema(
    study: Study,
    kernel: BatchSolverKernel,
    config: Mapping[str, Any],
    built: BuildResult | None = None,
) -> StoreSchema:
    """Return what the store of a study holds; without a built kernel nothing is compiled."""
    labels = _labels(study.system)
    coordinates = []
    _refuse_ambiguous(study)
    for name in study.design.names:
        unit, text = labels.get(name, (study.system.time_unit, "duration of the run"))
        text = f"initial value of {text or name}" if coordinate_name(study, name) != name else text
        coordinates.append(
            Variable(coordinate_name(study, name), PER_RUN, "float64", unit, text or name)
        )
    for name in study.design.labels:
        coordinates.append(Variable(name, PER_RUN, "float64", "1", name.replace("_", " ")))
    times = study.times
    layout = kernel.layout
    plan = {
        "target": kernel.target,
        "lanes": kernel.dialect.lanes,
        "precision": study.precision,
        "shared_bytes_per_run": layout.bytes("shared"),
        "shared_bytes_padded": kernel.shared_memory_bytes,
        "local_bytes_per_run": layout.bytes("local") + layout.bytes("persistent"),
        "kernel_hash": kernel.config_hash,
    }
    if built is not None:
        plan["kernel_from_cache"] = built.cached
        plan["compile_seconds"] = built.seconds
        plan.update({f"compiler_{name}": value for name, value in built.figures.items()})
    return StoreSchema(
        runs=study.design.size,
        variables=variables(study),
        status_flags={code: name for name, code in STATUS.items()},
        time=study.t_start + times if times.size else None,
        coordinates=tuple(coordinates),
        counters=counters(study),
        time_unit=study.system.time_unit,
        attrs={
            "title": study.system.title or study.system.name,
            "study": study.name,
            "algorithm": study.algorithm,
            "design": json.dumps(study.design.describe()),
            "system": json.dumps(study.system.to_mapping()),
            "system_hash": study.system.content_hash,
            **described(study),
            **_driver_hashes(study.system),
            **_data(study),
            **config,
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
        plan=plan,
    )


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
    """Return the arrays of a shard by the names of the store."""
    samples = result.samples
    if study.saved and study.sampled is not None and len(study.sampled) > len(study.times):
        samples = samples[:, :, np.isin(study.sampled, study.times)]
    arrays = {name: samples[i] for i, name in enumerate(study.saved)}
    for i, state in enumerate(study.integrated.states):
        arrays[f"{state.name}_final"] = result.finals[i]
    for i, name in enumerate(study.summarised):
        for j, metric in enumerate(METRICS):
            arrays[f"{name}_{metric}"] = result.metrics[i, j]
    if study.measured is not None:
        arrays.update(residuals(study.measured, result.misfits))
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
