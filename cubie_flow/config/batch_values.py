"""What a batch varies, and how many runs that makes, if the config leaves it open."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from cubie_flow.errors import FlowError

if TYPE_CHECKING:
    from cubie_flow.batches.values import Distribution, ValueList
    from cubie_flow.systems import OdeSystem

#: Runs of a batch that gives neither values nor a size.
RUNS = 10_000
SAMPLED = ("sobol", "latin_hypercube")
AS_DISTRIBUTION = {"linspace": "uniform", "logspace": "loguniform", "arange": "uniform"}
AS_LIST = {"uniform": "linspace", "loguniform": "logspace"}
#: Lists whose number of points `batch.size` replaces.
_COUNTED = ("linspace", "logspace")
_SAMPLING = "batch=sobol draws that many samples of all quantities"


def batch_values(
    kind: str,
    values: Mapping[str, Any],
    size: int | None,
    system: OdeSystem,
    taken: Collection[str] = (),
) -> tuple[dict[str, Any], int | None, list[str]]:
    """Return the values of a batch in the form that its kind can use.

    Empty `values` become what the system suggests. If it suggests nothing, a grid without a size is
    one run; a batch with a size, or one that draws its runs, varies each parameter that is a number
    and has an effect, or each such initial value, by 20 % to either side. A range given as a list
    becomes a distribution if runs are sampled, and the reverse, so that ``batch=sobol`` works with
    any study.

    Parameters
    ----------
    kind : str
        ``batch.kind``.
    values : mapping
        ``batch.values``.
    size : int, optional
        ``batch.size``: the number of samples, or the most runs that a grid may make.
    system : OdeSystem
    taken : collection of str
        Quantities that are fixed or swept, and so not varied by default.

    Returns
    -------
    values : dict
    size : int or None
        Size for `make_design`; None if the values of a grid or zip decide it.
    notes : list of str
        What was chosen, and how the number of runs came about.

    Raises
    ------
    FlowError
        If a grid cannot be made of that many runs.
    """
    notes: list[str] = []
    chosen = {name: value for name, value in values.items() if value is not None}
    default = not chosen
    if default:
        chosen, source = _suggested(system, taken, asked=size is not None or kind != "grid")
        if not chosen:
            return {}, 1, [_single(system, size, source)]
        listed = "; ".join(f"{name} {_words(value)}" for name, value in chosen.items())
        notes.append(f"batch.values is empty, so the batch varies {source}: {listed}")
    if kind in SAMPLED:
        drawn = {name: _sampled(name, value) for name, value in chosen.items()}
        size, more = _sample_count(chosen, size, default)
        return drawn, size, notes + more
    open_names = [name for name, value in chosen.items() if _is_open(value, size)]
    if open_names and (size is not None or default):
        resized, more = _resized(kind, chosen, open_names, size)
        return resized, None, notes + more
    return dict(chosen), size, notes


def _single(system: OdeSystem, size: int | None, why: str) -> str:
    """Return the note on a batch that varies nothing.

    Raises
    ------
    FlowError
        If several runs were asked for.
    """
    if size not in (None, 1):
        raise FlowError(
            f"batch.size is {size}, but nothing of the system '{system.name}' is left to vary; "
            "name what varies in batch.values"
        )
    return (
        f"{why}, so there is one run; batch.values={{NAME: {{linspace: [a, b, n]}}}} varies NAME, "
        "batch=sobol batch.size=1000 every parameter by 20 %"
    )


def _suggested(
    system: OdeSystem, taken: Collection[str], asked: bool
) -> tuple[dict[str, Any], str]:
    """Return what a batch varies by default, and its source, or why it varies nothing, in words."""
    reaching = {*system.reaching, "duration"}
    own = {name: spec for name, spec in system.suggested.items() if name in reaching}
    values = {name: spec for name, spec in own.items() if name not in taken}
    if values:
        return values, f"what the system '{system.name}' suggests"
    for what, group in (("parameter", system.parameters), ("initial value", system.states)):
        near = {
            quantity.name: {"uniform": sorted([0.8 * quantity.value, 1.2 * quantity.value])}
            for quantity in group
            if quantity.value and quantity.start is None
            if quantity.name not in taken and quantity.name in reaching
        }
        if near and asked:
            other = "other " if any(quantity.name in taken for quantity in group) else ""
            return near, f"every {other}{what} by 20 %"
        if near:
            own_names = f"only {', '.join(own)}, which is set" if own else "nothing"
            return {}, f"the system '{system.name}' suggests {own_names} to vary"
    return {}, f"nothing of the system '{system.name}' is left to vary"


def _sampled(name: str, value: Any) -> Any:
    """Return a range given as a list as the distribution over it.

    Its ends may be in any order; equal ends are that number in every run.
    """
    form, arguments = form_of(value)
    if form not in AS_DISTRIBUTION:
        return value
    _parsed(name, value)  # its errors name what was written
    low, high = sorted(map(float, arguments[:2]))
    return low if low == high else {AS_DISTRIBUTION[form]: [low, high]}


def _sample_count(
    values: Mapping[str, Any], size: int | None, default: bool
) -> tuple[int | None, list[str]]:
    """Return the number of samples, and a note if the config does not give it."""
    if size is not None:
        return size, []
    counts = {
        name: _size(name, value)
        for name, value in values.items()
        if form_of(value)[0] in AS_DISTRIBUTION
    }
    total = math.prod(counts.values())
    if counts and total > 1:
        points = " x ".join(f"{count:,}" for count in counts.values())
        listed = f"the points of {', '.join(counts)}{f', {points}' if len(counts) > 1 else ''}"
        return total, [f"batch.size is not given, so there are {total:,} runs: {listed}"]
    if default:
        return RUNS, [f"batch.size is not given, so there are {RUNS:,} runs"]
    return None, []


def _is_open(value: Any, size: int | None) -> bool:
    """Return whether a value spec leaves its number of values open, if a `size` is wanted."""
    form, arguments = form_of(value)
    counted = form in _COUNTED and len(arguments or ()) == 3
    return form in AS_LIST or (size is not None and counted)


def _resized(
    kind: str, values: Mapping[str, Any], open_names: list[str], size: int | None
) -> tuple[dict[str, Any], list[str]]:
    """Return the values with the greatest equal number of points per range that `size` allows.

    Raises
    ------
    FlowError
        If ranges would get fewer than two points each.
    """
    grid = kind == "grid"
    others = math.prod(
        _size(name, value) for name, value in values.items() if grid and name not in open_names
    )
    most = RUNS if size is None else size
    ranges = len(open_names) if grid else 1
    points = _root(most // others, ranges)
    given = f"batch.size={size}" if size is not None else f"the default batch.size={RUNS}"
    if points < 1 or (points == 1 and others * points != most):
        # In logarithms: 2^n of 20,000 ranges has more digits than a message should.
        least = f"{others * 2**ranges:,}" if ranges < 60 else f"2^{ranges}"
        lists = f" with {others:,} combinations of the others" if others > 1 else ""
        raise FlowError(
            f"{given} is too few for a grid over {', '.join(open_names[:8])}"
            f"{', ...' if len(open_names) > 8 else ''}: two points of each{lists} are {least} "
            f"runs; name fewer in batch.values, or {_SAMPLING}"
        )
    resized = dict(values)
    replaced = []
    for name in open_names:
        form, arguments = form_of(values[name])
        if form in _COUNTED and arguments[2] != points:
            replaced.append(f"{_size(name, values[name]):,} of {name}")
        resized[name] = {AS_LIST.get(form, form): [*arguments[:2], points]}
    total = others * points**ranges
    if total == size:
        return resized, []
    if size is None:
        rule = f"batch.size is not given, so there are {total:,} runs"
    else:
        rule = f"batch.size={size} is the most that a grid may make: {total:,} runs"
    factors = [*([others] if others > 1 else []), *[points] * ranges]
    if len(factors) > 1:
        rule += f", {' x '.join(f'{factor:,}' for factor in factors)} points"
    rule += f" (instead of {', '.join(replaced)})" if replaced else ""
    return resized, [rule]


def _root(number: int, degree: int) -> int:
    """Return the greatest whole number whose power `degree` is at most `number`."""
    if number < 1:
        return 0
    root: int = round(number ** (1.0 / degree))
    while root**degree > number:
        root -= 1
    while (root + 1) ** degree <= number:
        root += 1
    return root


def _parsed(name: str, value: Any) -> ValueList | Distribution:
    from cubie_flow.batches.values import parse_value

    return parse_value(name, value)


def _size(name: str, value: Any) -> int:
    """Return how many values a quantity has in a grid, which refuses distributions later."""
    from cubie_flow.batches.values import Distribution

    values = _parsed(name, value)
    return 1 if isinstance(values, Distribution) else int(values.size)


def form_of(value: Any) -> tuple[str, Any]:
    """Return the key and the arguments of a value spec; empty for other values."""
    if isinstance(value, Mapping) and len(value) == 1:
        ((form, arguments),) = value.items()
        if isinstance(arguments, list | tuple):
            return str(form), list(arguments)
    return "", None


def _words(value: Any) -> str:
    form, arguments = form_of(value)
    if form in (*AS_LIST, *AS_DISTRIBUTION) and len(arguments) >= 2:
        return f"from {arguments[0]:g} to {arguments[1]:g}"
    return str(value)
