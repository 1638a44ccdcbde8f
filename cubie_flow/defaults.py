"""What a study takes where the config leaves it open: the model file, and what to vary."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cubie_flow.errors import FlowError, nearest

if TYPE_CHECKING:
    from cubie_flow.batches import Design
    from cubie_flow.systems import OdeSystem

#: Keys that give a quantity of the model one value.
FIXED = ("system.parameters.", "system.states.")
#: Runs of a batch that says neither what varies nor how often.
RUNS = 10_000
_AS_DISTRIBUTION = {"linspace": "uniform", "logspace": "loguniform"}
_AS_LIST = {"uniform": "linspace", "loguniform": "logspace"}


def load_system(given: Mapping[str, Any], keys: Collection[str] = ()) -> OdeSystem:
    """Return the system of a config: its equations, or those of ``system.file`` with changes.

    Parameters
    ----------
    given
        The group ``system`` of the config.
    keys
        What the command line gave a value.

    Raises
    ------
    FlowError
        For a mistake in the model, or a change of something it does not have.
    """
    from cubie_flow.systems import OdeSystem
    from cubie_flow.systems.drivers import driven
    from cubie_flow.systems.files import read_model_file
    from cubie_flow.systems.quantities import is_expression, with_spares

    changes = {key: value for key, value in given.items() if value is not None}
    if "file" not in changes:
        # What a value on the command line replaced is not known any more.
        replaced = any(key.startswith(FIXED) for key in keys)
        model = _with_drivers(changes)
        return OdeSystem.from_mapping(with_spares(model) if replaced else model)
    path = Path(str(changes.pop("file"))).expanduser()
    model = read_model_file(path)
    if "drivers" in changes:
        model = driven(model, changes.pop("drivers"), f"'{path}'")
    spares = False
    for key, value in changes.items():
        own = model.get(key)
        if isinstance(value, Mapping) and isinstance(own, Mapping):
            for name in value:
                if name not in own:
                    raise FlowError(
                        f"system.{key}.{name} is not in '{path}' (it has: {', '.join(own)})"
                        f"{nearest(name, own)}"
                    )
            spares |= any(is_expression(own[name]) for name in value)
            value = {**own, **{name: _replaced(own[name], new) for name, new in value.items()}}
        model[key] = value
    return OdeSystem.from_mapping(with_spares(model) if spares else model)


def _with_drivers(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a composed model in which what is a parameter and a driver is a driver only."""
    from cubie_flow.systems.drivers import driven

    drivers, parameters = model.get("drivers"), model.get("parameters")
    if not isinstance(drivers, Mapping) or not isinstance(parameters, Mapping):
        return model
    new = {name: entry for name, entry in drivers.items() if name in parameters}
    own = {name: entry for name, entry in drivers.items() if name not in parameters}
    return driven({**model, "drivers": own}, new, f"system {model.get('name')}") if new else model


def _replaced(old: Any, new: Any) -> Any:
    """Return an entry of a model with another value; its unit and meaning stay."""
    if isinstance(old, Mapping) and not isinstance(new, Mapping):
        return {**old, "value": new}
    return new


def batch_design(
    batch: Mapping[str, Any], system: OdeSystem, keys: Collection[str]
) -> tuple[Design, list[str]]:
    """Return the design of a batch, and what was decided on the way, one sentence each.

    Parameters
    ----------
    batch
        The group ``batch`` of the config.
    system
        Whose quantities it may name.
    keys
        What the command line gave a value.

    Raises
    ------
    FlowError
        For a mistake in the batch, or a quantity that the system does not have.
    """
    from cubie_flow.batches import SEED, make_design, swept_design
    from cubie_flow.batches.tables import SOME

    kind, values, size = batch["kind"], dict(batch["values"]), batch["size"]
    notes: list[str] = []
    if kind == "single" and not any(key.startswith("batch.values") for key in keys):
        values = {}
    swept = [name for axis in batch["sweep"] for name in axis]
    replaced = [name for name in swept if values.pop(name, None) is not None]
    if replaced:
        notes.append(f"what is swept replaces batch.values of {', '.join(replaced)}")
    sweep = []
    for axis in batch["sweep"]:
        # An interval holds no values of its own: the batch chooses them.
        drawn = {name: spec for name, spec in axis.items() if _form(spec)[0] in _AS_LIST}
        values.update(drawn)
        sweep.append({name: spec for name, spec in axis.items() if name not in drawn})
    sweep = [axis for axis in sweep if axis]
    sampled = kind in ("sobol", "latin_hypercube")
    if not values and not sampled and set(swept) - {SEED}:
        if size is not None:
            raise FlowError(
                f"batch.size is {size}, but only {', '.join(swept)} varies, with values of its own"
            )
    elif kind not in ("table", "single"):
        given = [key.split(".")[2] for key in keys if key.startswith(FIXED)]
        filled, size, more = batch_values(
            kind, values, size, system.with_given(swept), [*given, *swept]
        )
        values = {
            name: spec for name, spec in filled.items() if name not in swept or name in values
        }
        if not values and swept:
            raise FlowError(f"batch.kind {kind} has nothing to draw beside {', '.join(swept)}")
        notes.extend(more)

    def make(seed: int) -> Design:
        return make_design(kind, values, size, seed, batch["path"])

    design = swept_design(sweep, batch["seed"], make) if sweep else make(batch["seed"])
    known = {quantity.name for quantity in system.quantities} | {"duration"}
    for name in design.names:
        if name not in known:
            if kind == "table" and name not in (*values, *swept):
                raise FlowError(
                    f"column '{name}' of '{batch['path']}' is no parameter, state or duration of "
                    f"the system '{system.name}' ({SOME}){nearest(name, known)}"
                )
            what = "the sweep" if name in swept else "batch.values"
            raise FlowError(
                f"{what} names '{name}', which is no parameter, state or duration of "
                f"the system '{system.name}'{nearest(name, known)}"
            )
    return design, notes


def batch_values(
    kind: str,
    values: Mapping[str, Any],
    size: int | None,
    system: OdeSystem,
    given: Collection[str] = (),
) -> tuple[dict[str, Any], int | None, list[str]]:
    """Return what varies, in the form that a batch of `kind` can use.

    Empty `values` become what the system suggests, or 20 % to either side of each parameter that
    is a number and reaches something. What the user has `given` a value stays near that value.
    A range given as a list is a distribution where runs are sampled and the reverse, so that
    ``batch=sobol`` works with any study.

    Returns
    -------
    values : dict
    size : int or None
        For `make_design`: of a grid or zip the values decide it.
    notes : list of str
    """
    notes: list[str] = []
    chosen = {name: value for name, value in values.items() if value is not None}
    if not chosen:
        chosen, source = _suggested(system, given)
        size = size or RUNS
        if not chosen:
            return {}, 1, ["nothing varies: the system has no parameter, so there is one run"]
        listed = "; ".join(f"{name} {_words(value)}" for name, value in chosen.items())
        notes.append(f"batch.values is empty, so the batch varies {source}: {listed}")
    if kind in ("sobol", "latin_hypercube"):
        size = size or _count(chosen)
        return {name: _sampled(value) for name, value in chosen.items()}, size, notes
    open_names = [name for name, value in chosen.items() if _is_range(value, size)]
    if size is not None and open_names:
        return _resized(kind, chosen, open_names, size), None, notes
    return dict(chosen), size, notes


def _suggested(system: OdeSystem, given: Collection[str]) -> tuple[dict[str, Any], str]:
    quantities = {q.name: q for q in system.quantities if q.value}
    reaching = {*system.reaching, "duration"}
    near = {
        name: {"uniform": sorted([0.8 * float(q.value), 1.2 * float(q.value)])}
        for name, q in quantities.items()
    }
    if system.suggested:
        values = {
            name: near[name] if name in given and name in near else value
            for name, value in system.suggested.items()
            if name in reaching
        }
        return values, f"what the system '{system.name}' suggests"
    free = [q.name for q in system.quantities if q.value and q.start is None]
    names = [q.name for q in system.parameters if q.name in free and q.name in reaching]
    what = "parameter" if names else "initial value"
    names = names or [q.name for q in system.states if q.name in free]
    return {name: near[name] for name in names}, f"every {what} by 20 %"


def _form(value: Any) -> tuple[str, Any]:
    """Return the one key of a value spec and its arguments, or nothing."""
    if isinstance(value, Mapping) and len(value) == 1:
        ((form, arguments),) = value.items()
        if isinstance(arguments, list | tuple):
            return str(form), list(arguments)
    return "", None


def _is_range(value: Any, size: int | None) -> bool:
    """Whether the values leave it open how many there are, given that a `size` is wanted."""
    form, _ = _form(value)
    return form in _AS_LIST or (size is not None and form in _AS_DISTRIBUTION)


def _sampled(value: Any) -> Any:
    form, arguments = _form(value)
    if form in _AS_DISTRIBUTION and len(arguments) == 3:
        return {_AS_DISTRIBUTION[form]: arguments[:2]}
    return value


def _count(values: Mapping[str, Any]) -> int | None:
    """Return the runs that the lists among the values would make, if there are any."""
    total = 1
    for value in values.values():
        form, arguments = _form(value)
        if form in _AS_DISTRIBUTION and len(arguments) == 3 and arguments[2] == int(arguments[2]):
            total *= int(arguments[2])
    return total if total > 1 else None


def _resized(
    kind: str, values: Mapping[str, Any], open_names: list[str], size: int
) -> dict[str, Any]:
    """Give the ranges as many points as make `size` runs, or just fewer."""
    fixed = 1
    if kind == "grid":
        for name, value in values.items():
            if name not in open_names and isinstance(value, list):
                fixed *= max(1, len(value))
    points = max(1, size // fixed)
    if kind == "grid" and len(open_names) > 1:
        points = max(2, int(points ** (1.0 / len(open_names)) + 1e-9))
    found = dict(values)
    for name in open_names:
        form, arguments = _form(values[name])
        found[name] = {_AS_LIST.get(form, form): [*arguments[:2], points]}
    return found


def _words(value: Any) -> str:
    form, arguments = _form(value)
    if form in (*_AS_LIST, *_AS_DISTRIBUTION) and len(arguments) >= 2:
        return f"from {arguments[0]:g} to {arguments[1]:g}"
    return str(value)
