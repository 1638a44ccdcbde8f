"""The reduction of a case: parts are removed as long as the disagreement persists."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

from attrs import evolve

from benchmarks.conformance.case import Case
from benchmarks.conformance.formulas import parse, substitute
from benchmarks.conformance.reference import NoReferenceError


def shrink(case: Case, stays: Callable[[Case], bool], seconds: float = 60.0, run: int = 0) -> Case:
    """Return a smaller case for which `stays` still holds.

    Parameters
    ----------
    case : Case
    stays : callable
        Whether a case still disagrees.
    seconds : float
        Time limit; the smallest case so far is returned after it.
    run : int
        Number of the run that disagrees, which may be sufficient alone.
    """
    until = monotonic() + seconds
    if case.runs > 1 and _holds(stays, case.with_runs([run])):
        case = case.with_runs([run])
    smaller = True
    while smaller:
        smaller, at = False, 0
        waiting = list(candidates(case))
        while at < len(waiting):
            if monotonic() > until:
                return case
            if _holds(stays, waiting[at]):
                # Candidates that failed before are tried again in the next pass only.
                case, smaller = waiting[at], True
                waiting = list(candidates(case))
            else:
                at += 1
    return case


def _holds(stays: Callable[[Case], bool], candidate: Case) -> bool:
    """Return whether a candidate disagrees; candidates that are not valid do not."""
    try:
        return stays(candidate)
    except (NoReferenceError, KeyError, ValueError, ArithmeticError, SyntaxError):
        return False


def candidates(case: Case) -> Iterator[Case]:
    """Yield smaller cases, the largest reductions first."""
    model = case.model
    if case.runs > 1:
        for count in {1, 2, case.runs // 2} - {case.runs}:
            yield case.with_runs(list(range(count)))
    if case.summaries:
        yield evolve(case, summaries=[])
    for section in ("observables", "doses", "drivers", "events"):
        yield from _without(case, section)
    yield from _without_states(case)
    if len(case.times) > 1:
        for half in (case.times[:1], case.times[-1:], case.times[len(case.times) // 2 :]):
            yield evolve(case, times=half)
    if case.times:
        yield evolve(case, times=[])
    for name in case.columns:
        if case.runs == 1 and (len(case.columns) > 1 or name != "duration"):
            yield _fixed(case, name)
    yield from _without_event_parts(case)
    yield from _without_terms(case)
    yield from _without_definitions(case)
    yield from _without_parameters(case)
    for number in range(len(case.switches)):
        yield evolve(case, switches=case.switches[:number] + case.switches[number + 1 :])
    if case.lanes is not None:
        yield evolve(case, lanes=None)
    if case.linear_solver != "auto":
        yield evolve(case, linear_solver="auto")
    if isinstance(case.atol, dict) and len(set(case.atol.values())) == 1:
        yield evolve(case, atol=next(iter(case.atol.values())))
    if model.get("name") != "small":
        yield evolve(case, model={**model, "name": "small"})


def _model(case: Case, **sections: Any) -> Case:
    """Return a case with other sections of its model, without unused parameters and columns."""
    model = {**case.model, **sections}
    kept = {key: value for key, value in model.items() if value not in ({}, [])}
    used = set().union(*(_names(value) for key, value in kept.items() if key != "parameters"))
    used |= {word for value in (kept.get("parameters") or {}).values() for word in _names(value)}
    parameters = {n: v for n, v in (kept.get("parameters") or {}).items() if n in used}
    kept.pop("parameters", None)
    if parameters:
        kept["parameters"] = parameters
    known = {*parameters, *kept["states"], "duration"}
    columns = {name: values for name, values in case.columns.items() if name in known}
    atol = case.atol
    if isinstance(atol, dict):
        atol = {name: value for name, value in atol.items() if name in kept["states"]}
    saved = {*kept["states"], *(kept.get("observables") or {})}
    summaries = [name for name in case.summaries if name in saved]
    return evolve(case, model=kept, columns=columns, atol=atol, summaries=summaries)


def _names(given: Any) -> set[str]:
    """Return every name in the texts of a part of a model, including keys."""
    if isinstance(given, dict):
        return set().union(*(_names(one) for pair in given.items() for one in pair), set())
    if isinstance(given, list):
        return set().union(*(_names(one) for one in given), set())
    if not isinstance(given, str):
        return set()
    try:
        tree = ast.parse(given, mode="eval")
    except SyntaxError:
        return set()
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _without(case: Case, section: str) -> Iterator[Case]:
    """Yield cases without a section of the model, and without each of its entries."""
    own = case.model.get(section)
    if not own:
        return
    names = list(own) if isinstance(own, dict) else range(len(own))
    if section == "drivers":
        for name in names:
            rest = {key: value for key, value in own.items() if key != name}
            yield _replaced(_model(case, drivers=rest), str(name), "0.5")
        return
    if len(own) > 1:
        yield _model(case, **{section: type(own)()})
    for name in names:
        if isinstance(own, dict):
            rest = {key: value for key, value in own.items() if key != name}
            yield _model(case, **{section: rest})
        else:
            yield _model(case, **{section: own[:name] + own[name + 1 :]})


def _replaced(case: Case, name: str, text: str) -> Case:
    """Return a case in which a text replaces a name everywhere."""
    tree = parse(text)

    def changed(given: Any) -> Any:
        if isinstance(given, dict):
            return {key: changed(value) for key, value in given.items() if key != name}
        if isinstance(given, list):
            return [changed(one) for one in given]
        if isinstance(given, str) and name in _names(given):
            return ast.unparse(substitute(parse(given), {name: tree}))
        return given

    model = {
        key: value if key in ("name", "time", "drivers") else changed(value)
        for key, value in case.model.items()
    }
    switches = [changed(entry) for entry in case.switches]
    return _model(evolve(case, switches=switches), **model)


def _without_states(case: Case) -> Iterator[Case]:
    """Yield cases in which the start value of a state replaces the state."""
    states = case.model["states"]
    if len(states) < 2:
        return
    events = case.model.get("events") or {}
    into = {dose["into"] for dose in case.model.get("doses") or []}
    for name, value in states.items():
        if name in into or any(name in (event.get("set") or {}) for event in events.values()):
            continue
        start = case.columns.get(name, [value])[0]
        text = str(start) if isinstance(start, str) or start >= 0 else f"({start})"
        yield _replaced(case, name, text)


def _fixed(case: Case, name: str) -> Case:
    """Return a case of one run in which the value of a varied quantity is part of the model."""
    value = case.columns[name][0]
    columns = {key: values for key, values in case.columns.items() if key != name}
    if name == "duration":
        return evolve(case, columns=columns, duration=value)
    model = dict(case.model)
    for group in ("parameters", "states"):
        if name in (model.get(group) or {}):
            model[group] = {**model[group], name: value}
    return evolve(case, columns=columns, model=model)


def _without_event_parts(case: Case) -> Iterator[Case]:
    """Yield cases in which an event lacks one of its settings or resets."""
    events = case.model.get("events") or {}
    for name, event in events.items():
        for key in ("priority", "record", "values", "initially", "persistent", "stop", "set"):
            if key in event:
                rest = {k: v for k, v in event.items() if k != key}
                yield _model(case, events={**events, name: rest})
        for target in event.get("set") or {}:
            if len(event["set"]) > 1:
                rest = {k: v for k, v in event["set"].items() if k != target}
                yield _model(case, events={**events, name: {**event, "set": rest}})


def _without_terms(case: Case) -> Iterator[Case]:
    """Yield cases in which an equation lacks one operation."""
    equations = case.model["equations"]
    for name, text in equations.items():
        for smaller in _smaller(parse(text)):
            yield _model(case, equations={**equations, name: ast.unparse(smaller)})


def _smaller(tree: ast.expr) -> Iterator[ast.expr]:
    """Yield trees with one operation fewer."""
    if isinstance(tree, ast.BinOp):
        if isinstance(tree.op, ast.Add | ast.Sub):
            yield tree.left
            yield (
                tree.right if isinstance(tree.op, ast.Add) else ast.UnaryOp(ast.USub(), tree.right)
            )
        elif isinstance(tree.op, ast.Mult):
            yield from (tree.left, tree.right)
        for left in _smaller(tree.left):
            yield ast.BinOp(left, tree.op, tree.right)
        for right in _smaller(tree.right):
            yield ast.BinOp(tree.left, tree.op, right)
    elif isinstance(tree, ast.UnaryOp):
        for operand in _smaller(tree.operand):
            yield ast.UnaryOp(tree.op, operand)
    elif isinstance(tree, ast.Call):
        if getattr(tree.func, "id", "") != "where" and len(tree.args) == 1:
            yield tree.args[0]
        for i, argument in enumerate(tree.args):
            for smaller in _smaller(argument):
                yield ast.Call(tree.func, [*tree.args[:i], smaller, *tree.args[i + 1 :]], [])


def _without_definitions(case: Case) -> Iterator[Case]:
    """Yield cases in which the expression of a definition replaces its name."""
    definitions = case.model.get("definitions") or {}
    for name, text in definitions.items():
        rest = {key: value for key, value in definitions.items() if key != name}
        yield _replaced(_model(case, definitions=rest), name, f"({text})")


def _without_parameters(case: Case) -> Iterator[Case]:
    """Yield cases in which a number replaces a parameter that is not varied."""
    parameters = case.model.get("parameters") or {}
    events, drivers = (case.model.get(key) or {} for key in ("events", "drivers"))
    for name, value in parameters.items():
        if name in case.columns or isinstance(value, str):
            continue
        if any(name in (event.get("set") or {}) for event in events.values()):
            continue
        if any(driver.get("series") == name for driver in drivers.values()):
            continue
        text = f"({value})" if value < 0 else str(value)
        yield _replaced(case, name, text)
