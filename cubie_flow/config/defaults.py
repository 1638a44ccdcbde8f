"""Defaults of a study: the model file, and the design of its batch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cubie_flow.config.batch_values import AS_LIST, SAMPLED, batch_values, form_of
from cubie_flow.errors import FlowError, nearest

if TYPE_CHECKING:
    from cubie_flow.batches import Design
    from cubie_flow.systems import OdeSystem

#: Keys that give a quantity of the model one value.
FIXED = ("system.parameters.", "system.states.")


def load_system(given: Mapping[str, Any], keys: Collection[str] = ()) -> OdeSystem:
    """Return the system of a config: its equations, or those of ``system.file`` with changes.

    Parameters
    ----------
    given
        The group ``system`` of the config.
    keys
        Keys that the command line gave a value.

    Raises
    ------
    FlowError
        For a mistake in the model, or a change of something it does not have.
    """
    from cubie_flow.systems import OdeSystem
    from cubie_flow.systems.drivers_reader import replace_drivers
    from cubie_flow.systems.files import read_model_file
    from cubie_flow.systems.quantities import allow_unused, is_expression

    changes = {key: value for key, value in given.items() if value is not None}
    if "file" not in changes:
        # A value on the command line has replaced an expression that is no longer known.
        fixed = [name for name in _fixed(keys) if name != "duration"]
        model = _with_drivers(changes)
        return OdeSystem.from_mapping(allow_unused(model, fixed) if fixed else model)
    path = Path(str(changes.pop("file"))).expanduser()
    model = read_model_file(path)
    if "drivers" in changes:
        model = replace_drivers(model, changes.pop("drivers"), f"'{path}'")
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
    return OdeSystem.from_mapping(allow_unused(model) if spares else model)


def _with_drivers(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a composed model in which a parameter that is also a driver is a driver only."""
    from cubie_flow.systems.drivers_reader import replace_drivers

    drivers, parameters = model.get("drivers"), model.get("parameters")
    if not isinstance(drivers, Mapping) or not isinstance(parameters, Mapping):
        return model
    new = {name: entry for name, entry in drivers.items() if name in parameters}
    own = {name: entry for name, entry in drivers.items() if name not in parameters}
    return (
        replace_drivers({**model, "drivers": own}, new, f"system {model.get('name')}")
        if new
        else model
    )


def _replaced(old: Any, new: Any) -> Any:
    """Return an entry of a model with another value and the same unit and meaning."""
    if isinstance(old, Mapping) and not isinstance(new, Mapping):
        return {**old, "value": new}
    return new


def batch_design(
    batch: Mapping[str, Any], system: OdeSystem, keys: Collection[str]
) -> tuple[Design, list[str]]:
    """Return the design of a batch, and notes on the defaults it used, one sentence each.

    Parameters
    ----------
    batch
        The group ``batch`` of the config.
    system
        The system whose quantities the batch may name.
    keys
        Keys that the command line gave a value.

    Raises
    ------
    FlowError
        For a mistake in the batch, or a quantity that the system does not have.
    """
    from cubie_flow.batches import make_design, swept_design

    notes: list[str] = []
    fixed = _fixed(keys)
    # A quantity that differs from job to job has no values here.
    axes = [axis for axis in batch["sweep"] if None not in axis.values()]
    _refuse_both(fixed, batch["values"], [name for axis in axes for name in axis], keys)
    drawn, sweep = _drawn(axes)
    values, size = _values(batch, drawn, system, fixed, keys, notes)

    options = {key: batch[key] for key in ("observed", "compartments", "covariates")}
    _refuse_subject_keys(batch, options)
    # A column with the name of a quantity gives it, unless something else does.
    swept = {name for axis in batch["sweep"] for name in axis}
    known = {quantity.name for quantity in system.quantities} - {*fixed, *swept}

    def make(seed: int) -> Design:
        return make_design(batch["kind"], values, size, seed, batch["path"], options, known)

    design = swept_design(sweep, batch["seed"], make) if sweep else make(batch["seed"])
    _check_names(design, batch, values, system, fixed)
    return design, notes


def _refuse_subject_keys(batch: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Refuse keys of tables of subjects for another kind of batch."""
    for key, value in options.items():
        if batch["kind"] != "subjects" and value not in (None, {}, "forward"):
            raise FlowError(
                f"batch.{key} is {value!r:.60}, but only batch.kind 'subjects' uses it, not "
                f"'{batch['kind']}'"
            )


def _drawn(
    axes: Collection[Mapping[str, Any]],
) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    """Return the intervals of a sweep, in which the batch draws values, and the other axes."""
    drawn = {
        name: spec for axis in axes for name, spec in axis.items() if form_of(spec)[0] in AS_LIST
    }
    rest = [{name: spec for name, spec in axis.items() if name not in drawn} for axis in axes]
    return drawn, [axis for axis in rest if axis]


def _values(
    batch: Mapping[str, Any],
    drawn: Mapping[str, Any],
    system: OdeSystem,
    fixed: Collection[str],
    keys: Collection[str],
    notes: list[str],
) -> tuple[dict[str, Any], int | None]:
    """Return the values and the size of the batch itself, for `make_design`."""
    from cubie_flow.batches import SEED

    kind, values, size = batch["kind"], dict(batch["values"]), batch["size"]
    if kind == "single" and not any(key.startswith("batch.values") for key in keys):
        values = {}
    swept = [name for axis in batch["sweep"] for name in axis]
    varied = any(spec is not None for spec in values.values())
    for what, names in (("is swept", swept), ("the command line sets", fixed)):
        replaced = [name for name in names if values.get(name) is not None]
        if replaced:
            notes.append(f"what {what} replaces batch.values of {', '.join(replaced)}")
        values = {name: spec for name, spec in values.items() if name not in replaced}
    emptied = varied and not values
    values.update(drawn)
    if kind in ("table", "single", "subjects"):
        return values, size
    sampled = kind in SAMPLED
    if not values and not sampled and (emptied or set(swept) - {SEED}):
        own = f"only {', '.join(swept)} varies, with values of its own"
        if size is not None:
            raise FlowError(f"batch.size is {size}, but {own if swept else 'nothing varies'}")
        notes.extend([] if swept else ["nothing else varies, so there is one run"])
        return values, size
    taken = [*fixed, *swept, *(name for name, spec in values.items() if spec is None)]
    values, size, more = batch_values(kind, values, size, system.with_given(swept), taken)
    if not values and swept:
        raise FlowError(f"batch.kind {kind} has nothing to draw except {', '.join(swept)}")
    notes.extend(more)
    return values, size


def _check_names(
    design: Design,
    batch: Mapping[str, Any],
    values: Mapping[str, Any],
    system: OdeSystem,
    fixed: Mapping[str, str],
) -> None:
    """Refuse a varied name that is not a quantity of the system, or has a fixed value."""
    from cubie_flow.batches.tables import SOME

    swept = [name for axis in batch["sweep"] for name in axis]
    known = {quantity.name for quantity in system.quantities} | {"duration"}
    for name in design.names:
        if name in fixed:
            raise FlowError(
                f"'{name}' is set by {fixed[name]}, but a column of '{batch['path']}' varies it; "
                "leave one of them"
            )
        if name not in known:
            if batch["kind"] == "table" and name not in (*values, *swept):
                raise FlowError(
                    f"column '{name}' of '{batch['path']}' is not a parameter, state or duration "
                    f"of the system '{system.name}' ({SOME}){nearest(name, known)}"
                )
            what = "the sweep" if name in swept else "batch.values"
            raise FlowError(
                f"{what} names '{name}', which is not a parameter, state or duration of "
                f"the system '{system.name}'{nearest(name, known)}"
            )


def _fixed(keys: Collection[str]) -> dict[str, str]:
    """Return the quantities that the command line fixes, each with its key."""
    fixed = {}
    for key in sorted(keys):
        name, _, part = key.removeprefix("system.").partition(".")[2].partition(".")
        if key.startswith(FIXED) and part in ("", "value"):
            fixed[name] = key
    return {**fixed, **({"duration": "duration"} if "duration" in keys else {})}


def _refuse_both(
    fixed: Mapping[str, str],
    values: Mapping[str, Any],
    swept: Collection[str],
    keys: Collection[str],
) -> None:
    """Refuse a quantity that the command line both fixes and varies."""
    for name, key in fixed.items():
        typed = values.get(name) is not None and f"batch.values.{name}" in keys
        if typed or name in swept:
            other = f"batch.values.{name}" if typed else "batch.sweep"
            raise FlowError(f"'{name}' is set by {key}, but {other} varies it; leave one of them")
