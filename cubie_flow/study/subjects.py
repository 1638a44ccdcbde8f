"""A table of subjects, bound to a model: the records of every run and its observations."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from attrs import evolve, frozen

from cubie_flow.batches import dosing
from cubie_flow.batches.dosing import Action, Row, actions
from cubie_flow.batches.subject_table import OBSERVATION, OTHER, SubjectTable, compartment
from cubie_flow.batches.subjects import Subjects
from cubie_flow.errors import FlowError, nearest
from cubie_flow.expressions.graph import Node, const, symbol
from cubie_flow.expressions.traversal import free_symbols
from cubie_flow.integrators import records
from cubie_flow.integrators.records import Records
from cubie_flow.integrators.residual_errors import ResidualError
from cubie_flow.systems import OdeSystem
from cubie_flow.systems.events_reader import add_inflow
from cubie_flow.systems.quantities import Quantity

Array = Any
#: Kinds of residual errors and what their number is.
ERRORS = {
    "additive": "standard deviation of the value",
    "proportional": "standard deviation as a part of the value",
    "lognormal": "standard deviation of the logarithm of the value",
}
_KINDS = {
    dosing.ADD: records.ADD, dosing.INFLOW: records.SET, dosing.SET: records.COVER,
    dosing.RETURN: records.RETURN, dosing.STEADY: records.STEADY,
    dosing.STEADY_ON_TOP: records.STEADY_ON_TOP, dosing.CHECK: records.CHECK,
    dosing.CHECK_ON_TOP: records.CHECK_ON_TOP,
}  # fmt: skip


@frozen(eq=False)
class BoundSubjects:
    """The subjects of a study.

    Attributes
    ----------
    design : Subjects
    system : OdeSystem
        The model with the inflows of infusions.
    records : Records
    errors : tuple of (str, ResidualError)
        Observed quantities.
    rows : ndarray of int, shape (subjects, most samples)
        Row of the table of every sample; -1 after the last.
    """

    design: Subjects
    system: OdeSystem
    records: Records
    errors: tuple[tuple[str, ResidualError], ...]
    rows: Array

    @property
    def steady(self) -> bool:
        """Whether a dose asks for a steady state."""
        return any(kind in (records.STEADY, records.STEADY_ON_TOP)
                   for kind, _ in self.records.effects)  # fmt: skip

    @property
    def deviations(self) -> frozenset[str]:
        """Parameters that are standard deviations of residual errors."""
        return frozenset(free_symbols([node for _, one in self.errors for node in one.nodes]))

    @property
    def observed(self) -> tuple[str, ...]:
        """Names of the observed quantities."""
        return tuple(name for name, _ in self.errors)

    def at_samples(self, values: Array, subjects: Array) -> Array:
        """Return a column of the table at the samples of runs; NaN after the last one.

        Parameters
        ----------
        values : ndarray, shape (rows,)
        subjects : ndarray of int, shape (runs,)

        Returns
        -------
        ndarray, shape (runs, most samples)
        """
        rows = self.rows[subjects]
        return np.where(rows < 0, np.nan, values[rows])

    def measured(self, subjects: Array) -> tuple[Array, Array]:
        """Return the measured values of runs and the quantities they belong to, -1 for none.

        Parameters
        ----------
        subjects : ndarray of int, shape (runs,)

        Returns
        -------
        ndarray, ndarray, shape (runs, most samples)
        """
        most = self.rows.shape[1]
        places = self.records.first_time[subjects][:, None] + np.arange(most)
        inside = self.rows[subjects] >= 0
        found = self.records.samples[np.where(inside, places, 0)]
        numbers = np.where(inside, found[..., 0], -1.0)
        return np.where(numbers >= 0, found[..., 1], np.nan), numbers


#: The last binding and what it was made of: a study is copied when a setting of it changes.
_last: list[tuple[Subjects, OdeSystem, Mapping[str, Any], BoundSubjects]] = []


def bind_subjects(design: Subjects, system: OdeSystem, errors: Mapping[str, Any]) -> BoundSubjects:
    """Return the subjects of a design for a model.

    Parameters
    ----------
    design : Subjects
    system : OdeSystem
    errors : mapping
        ``output.error``: models of the residual error by observed quantity.

    Raises
    ------
    FlowError
        For what the model and the table do not have in common, with row and column.
    """
    for table, model, given, bound in _last:
        if table is design and model is system and given == errors:
            return bound
    bound = _bind(design, system, errors)
    _last[:] = [(design, system, dict(errors), bound)]
    return bound


def _bind(design: Subjects, system: OdeSystem, errors: Mapping[str, Any]) -> BoundSubjects:
    table, states = design.table, [state.name for state in system.states]
    _check_columns(design, system)
    _check_steady(design, system)
    observed = _observed(design, system)
    numbers = _observed_rows(design, observed)
    changing = _changing(design)
    rows = _rows(design, states, changing)
    backward = design.options.covariates == "backward"
    lists = [actions(rows[a:b], backward) for a, b in pairwise(table.first)]
    kinds = {(_KINDS[one.what], _name(one, states)) for own in lists for one in own}
    effects = {kind: number for number, kind in enumerate(sorted(kinds))}
    _refuse_algebraic(system, {name for kind, name in effects if kind == records.ADD})
    infused = [state for state in states if (records.SET, inflow_name(state)) in effects]
    sampled = np.isin(table.columns["EVID"], (OBSERVATION, OTHER))
    names = list(dict.fromkeys(observed.values()))
    models = _errors(errors, names, system)
    _check_logarithms(table, numbers, list(models.values()))
    return BoundSubjects(
        design=design,
        system=_with_inflows(system, infused),
        records=_records(table, lists, effects, states, sampled, numbers),
        errors=tuple(models.items()),
        rows=_sample_rows(table.first, sampled),
    )


def inflow_name(state: str) -> str:
    """Return the name of the parameter that holds the inflow of infusions into a state."""
    return f"{state}_inflow"


# columns --------------------------------------------------------------------------------------


def _check_columns(design: Subjects, system: OdeSystem) -> None:
    """Refuse a column that could be meant for a quantity, and a state that changes in time."""
    known = {item.name for item in system.quantities}
    for name in design.labels:
        if name in known:
            raise FlowError(
                f"{design.table.source} has the column '{name}', as the model has a quantity; "
                f"name it in batch.values ({name}: {name}), or rename the column"
            )
    states = {state.name for state in system.states}
    for name, source in design.used.items():
        if name in states and isinstance(source, str) and design.changes(source):
            raise FlowError(
                f"{design.table.source}: the column '{source}' gives the start value of the state "
                f"'{name}', but changes within a subject"
            )


def _observed(design: Subjects, system: OdeSystem) -> dict[str, str]:
    """Return the observed quantities by the text of DVID or CMT; one for all has the text ''."""
    given = design.options.observed
    known = [item.name for item in (*system.states, *system.observables)]
    if given is None:
        if not (~np.isnan(design.table.columns["DV"])).any():
            return {}
        if len(system.observables) != 1:
            raise FlowError(
                f"batch.observed is null, but '{system.name}' has {len(system.observables)} "
                "observables; name the state or observable that DV measures"
            )
        given = system.observables[0].name
    chosen = {"": given} if isinstance(given, str) else dict(given)
    for name in chosen.values():
        if name not in known:
            raise FlowError(
                f"batch.observed is '{name}', which is not a state or observable of "
                f"'{system.name}'{nearest(name, known)}"
            )
    return chosen


def _observed_rows(design: Subjects, observed: Mapping[str, str]) -> Array:
    """Return the number of the observed quantity of every row; -1 for what is not measured."""
    table = design.table
    c = table.columns
    names = list(dict.fromkeys(observed.values()))
    measured = (c["EVID"] == OBSERVATION) & (c["MDV"] == 0) & ~np.isnan(c["DV"])
    numbers = np.full(len(measured), -1.0)
    if "" in observed:
        numbers[measured] = 0.0
        return numbers
    column = "DVID" if (c["DVID"] != (0.0 if c["DVID"].dtype.kind == "f" else "")).any() else "CMT"
    for row in np.flatnonzero(measured):
        value = c[column][row]
        text = f"{value:g}" if isinstance(value, float) else str(value)
        if text not in observed:
            raise FlowError(
                f"{table.place(int(row), column)}: {text} is not in batch.observed "
                f"({', '.join(observed)})"
            )
        numbers[row] = names.index(observed[text])
    return numbers


def _errors(
    given: Mapping[str, Any], names: Collection[str], system: OdeSystem
) -> dict[str, ResidualError]:
    """Return the model of the residual error of every observed quantity."""
    if given and set(given) <= set(ERRORS) and len(names) == 1:
        given = {next(iter(names)): given}
    for name, parts in given.items():
        if name not in names:
            raise FlowError(
                f"output.error names '{name}', which is not observed "
                f"(observed: {', '.join(names)}){nearest(name, names)}"
            )
        if not isinstance(parts, Mapping):
            raise FlowError(
                f"output.error.{name} is {parts!r:.60}; it must be a mapping such as "
                "{additive: 0.5, proportional: 0.1}"
            )
    return {name: _error(f"output.error.{name}", given.get(name, {}), system) for name in names}


def _error(key: str, parts: Mapping[str, Any], system: OdeSystem) -> ResidualError:
    nodes: dict[str, Node] = {}
    parameters = {item.name: item for item in system.parameters}
    for kind, value in parts.items():
        if kind not in ERRORS:
            raise FlowError(
                f"{key}.{kind} is not a kind of residual error (allowed: {', '.join(ERRORS)})"
                f"{nearest(kind, ERRORS)}"
            )
        if isinstance(value, str) and value in parameters and parameters[value].start is None:
            nodes[kind] = symbol(value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            nodes[kind] = const(float(value))
        else:
            raise FlowError(
                f"{key}.{kind} is {value!r:.60}; it must be a positive number or a parameter that "
                f"is one, the {ERRORS[kind]}"
            )
    if "lognormal" in nodes and len(nodes) > 1:
        raise FlowError(f"{key}: lognormal excludes the other kinds of residual error")
    return ResidualError(**nodes)


def _check_logarithms(table: SubjectTable, numbers: Array, models: list[ResidualError]) -> None:
    """Refuse an observation without a logarithm where the error is log-normal."""
    values = table.columns["DV"]
    for number, error in enumerate(models):
        if error.lognormal is None:
            continue
        wrong = np.flatnonzero((numbers == number) & ~(values > 0))
        if wrong.size:
            row = int(wrong[0])
            raise FlowError(
                f"{table.place(row, 'DV')}: {values[row]:g} is not positive, which a log-normal "
                "error needs; set MDV to 1, or use an additive error"
            )


# records --------------------------------------------------------------------------------------


def _changing(design: Subjects) -> dict[str, Array]:
    """Return the covariates that change within a subject, by the quantity that they give."""
    columns = {name: one for name, one in design.used.items() if isinstance(one, str)}
    return {
        name: design.covariate(column) for name, column in columns.items() if design.changes(column)
    }


def _rows(design: Subjects, states: Sequence[str], changing: Mapping[str, Array]) -> list[Row]:
    """Return the rows of the table, with times relative to the first one of their subject."""
    table, c = design.table, design.table.columns
    lengths = np.diff(table.first)
    dosed = (c["AMT"] != 0) | (c["RATE"] != 0)
    into = np.zeros(len(dosed), np.int64)
    for row in np.flatnonzero(dosed):
        into[row] = compartment(table, int(row), states, design.options.compartments)
    columns = (
        c["TIME"] - np.repeat(c["TIME"][table.first[:-1]], lengths), c["EVID"].astype(np.int64),
        into, c["AMT"], c["RATE"], c["II"], c["ADDL"].astype(np.int64), c["SS"].astype(np.int64),
    )  # fmt: skip
    lists = [column.tolist() for column in columns]
    covariates = zip(*(values.tolist() for values in changing.values()), strict=True)
    named = [dict(zip(changing, values, strict=True)) for values in covariates]
    named = named or [{}] * len(dosed)
    every = zip(*lists, named, strict=True)
    return [
        Row(time, kind, state, amount, rate, interval, additional, steady, values)
        for time, kind, state, amount, rate, interval, additional, steady, values in every
    ]


def _name(action: Action, states: Sequence[str]) -> str:
    """Return the name of the quantity that an action changes; empty for none."""
    if action.what == dosing.INFLOW:
        return inflow_name(states[int(action.target)])
    if action.what == dosing.ADD:
        return states[int(action.target)]
    return str(action.target) if action.what == dosing.SET else ""


def _with_inflows(system: OdeSystem, states: Sequence[str]) -> OdeSystem:
    """Return the model with a parameter for the inflow of infusions into each of `states`."""
    if not states:
        return system
    names = {state: inflow_name(state) for state in states}
    where = f"system {system.name}"
    inflow: dict[str, Node] = {state: symbol(name) for state, name in names.items()}
    more = tuple(
        Quantity(name, 0.0, "", f"inflow of infusions into {state}")
        for state, name in names.items()
    )
    derivatives = add_inflow(system.states, system.derivatives, system.mass, inflow, where)
    return evolve(system, parameters=(*system.parameters, *more), derivatives=derivatives)


def _refuse_algebraic(system: OdeSystem, names: Collection[str]) -> None:
    """Refuse doses into a state that an algebraic equation determines."""
    for state, mass in zip(system.states, system.mass, strict=False):
        if mass == 0.0 and state.name in names:
            raise FlowError(f"a dose goes into '{state.name}', whose equation is algebraic")


def _check_steady(design: Subjects, system: OdeSystem) -> None:
    """Refuse doses with a steady state where the equations have none, or not one to add."""
    c = design.table.columns
    rows = np.flatnonzero(c["SS"] > 0)
    if not rows.size:
        return
    place = design.table.place(int(rows[0]), "SS")
    expressions = [
        *system.derivatives,
        *(item.start for item in system.quantities if item.start is not None),
    ]
    if system.drivers or system.events or "t" in free_symbols(expressions):
        raise FlowError(
            f"{place}: a steady state needs a model without drivers, events, doses and equations "
            f"of t, unlike '{system.name}'; use SS=0 and ADDL"
        )
    on_top = np.flatnonzero(c["SS"] == 2)
    for state in system.states:
        filled = state.value != 0.0 or state.start is not None or state.name in design.used
        if on_top.size and filled:
            raise FlowError(
                f"{design.table.place(int(on_top[0]), 'SS')}: 2 adds a steady state to what is "
                f"there, so every state must start at 0, unlike '{state.name}'"
            )


def _records(
    table: SubjectTable,
    lists: Sequence[Sequence[Action]],
    effects: Mapping[tuple[int, str], int],
    states: Sequence[str],
    sampled: Array,
    numbers: Array,
) -> Records:
    """Return the lists of all subjects as arrays."""
    end = [[np.inf, -1.0, 0.0, 0.0]]
    rows: list[Any] = []
    for one in lists:
        own = [[a.time, effects[_KINDS[a.what], _name(a, states)], a.value, a.before] for a in one]
        rows.append(np.array(own + end, np.float64))
    times, samples = [], []
    for first, last in pairwise(table.first):
        chosen = np.arange(first, last)[sampled[first:last]]
        own_times = table.columns["TIME"][chosen] - table.columns["TIME"][first]
        times.append(np.concatenate([own_times, [np.inf]]))
        measured = np.column_stack([numbers[chosen], table.columns["DV"][chosen]])
        samples.append(np.vstack([measured, [[-1.0, np.nan]]]))

    def begins(parts: Sequence[Any]) -> Array:
        return np.cumsum([0, *map(len, parts)])

    return Records(
        effects=tuple(effects),
        starts=table.columns["TIME"][table.first[:-1]],
        rows=np.concatenate(rows),
        first_row=begins(rows),
        times=np.concatenate(times),
        first_time=begins(times),
        samples=np.concatenate(samples),
        most_samples=max(map(len, times)) - 1,
    )


def _sample_rows(first: Array, sampled: Array) -> Array:
    """Return the row of every sample, shape (subjects, most samples); -1 after the last."""
    own = [np.arange(a, b)[sampled[a:b]] for a, b in pairwise(first)]
    rows = np.full((len(own), max(map(len, own))), -1, np.int64)
    for number, chosen in enumerate(own):
        rows[number, : len(chosen)] = chosen
    return rows
