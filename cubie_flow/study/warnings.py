"""Warnings about legal but probably unintended settings of a study."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cubie_flow.expressions import graph
from cubie_flow.expressions.graph import ZERO
from cubie_flow.expressions.traversal import substitute
from cubie_flow.integrators.equations import bind, finder
from cubie_flow.integrators.pulses import find_pulses
from cubie_flow.integrators.switching_functions import count_unexamined, find_switching_functions
from cubie_flow.integrators.tableaus import method
from cubie_flow.study.study import Study
from cubie_flow.systems.delays import without_delays
from cubie_flow.systems.events import Event
from cubie_flow.systems.starts import computed_starts


def study_warnings(study: Study) -> list[str]:
    """Return the warnings about a study, one sentence each."""
    return [
        *_too_accurate(study),
        *_before_the_start(study),
        *_unseen(study),
        *without_effect(study),
    ]


def _unseen(study: Study) -> list[str]:
    """Warn of switches within one step that may be missed."""
    system = study.system
    varied = [one.name for one in system.parameters if one.name in study.design.names]
    switches = finder(system, varied)
    nodes = switches.replace(bind(system, without_delays(system.derivatives), varied))
    sentences = []
    count = count_unexamined(nodes)
    if count:
        sentences.append(
            f"{count} {'switches' if count > 1 else 'switch'} of the equations on whole parts of "
            "states, or of many forms"
        )
    c = study.controller
    fixed = c.kind == "fixed" or (c.kind == "default" and _is_fixed(study.algorithm))
    if fixed and (find_pulses(nodes, switches) or find_switching_functions(nodes)):
        sentences.append("pulses and switches on states between steps of fixed size")
    if not sentences:
        return []
    remedy = "controller.dt" if fixed else "controller.dt_max"
    return [
        f"what begins and ends within one step may be missed: {' and '.join(sentences)}; {remedy} "
        "bounds the step"
    ]


def _is_fixed(algorithm: str) -> bool:
    """Return whether a method's own controller takes steps of one size."""
    return algorithm != "auto" and method(algorithm).controller == "fixed"


def _too_accurate(study: Study) -> list[str]:
    """Warn of relative tolerances below the rounding of the precision."""
    given = study.controller.rtol
    values = given.values() if isinstance(given, Mapping) else [given]
    least, rounding = min(values, default=1.0), float(np.finfo(study.precision).eps)
    if least >= rounding:
        return []
    remedy = "; precision=float64 is finer" if study.precision == "float32" else ""
    return [
        f"controller.rtol={least:g} is below the rounding of {study.precision}, {rounding:.2g}, so "
        f"steps follow controller.atol and cannot be more accurate than that{remedy}"
    ]


def _before_the_start(study: Study) -> list[str]:
    """Warn of events with known times before the start, which do not happen."""
    own = {*study.design.names, *computed_starts(study.system, study.design.names)}
    fixed = [one for one in study.system.parameters if one.name not in own]
    values = {graph.symbol(one.name): graph.const(one.value) for one in fixed}
    sentences = []
    for event in study.system.events:
        early = [time for time in _times(event, values) if time < study.t_start]
        if early:
            times = ", ".join(f"{time:g}" for time in early)
            sentences.append(
                f"event {event.name} does not happen at {times}: runs start at {study.t_start:g}"
            )
    return sentences


def without_effect(study: Study) -> list[str]:
    """Return a warning for each varied parameter that the model does not use."""
    parameters = {one.name for one in study.system.parameters}.intersection(study.design.names)
    parameters -= study.system.reaching if parameters else set()
    parameters -= study.subjects.deviations if parameters and study.subjects is not None else set()
    return [
        f"the batch varies '{name}', which changes nothing: no equation, start value, event or "
        f"observable of '{study.system.name}' uses it"
        for name in study.design.names
        if name in parameters
    ]


def _times(event: Event, values: Mapping[graph.Node, graph.Node]) -> list[float]:
    """Return the known times of an event; none for an endless schedule."""
    times = event.times
    # An event with a lag happens only after the event that it follows.
    if times is None or times.every is not ZERO or times.lag is not ZERO:
        return []
    known = substitute(list(times.listed or (times.start,)), values)
    return [float(node.value) for node in known if node.op == "const"]
