"""The fastest rate of a model, from its equations, without integrating it."""

from __future__ import annotations

from typing import Any

import numpy as np

from cubie_flow.expressions.evaluate import evaluate
from cubie_flow.study.study import Study
from cubie_flow.systems.delays import without_delays

Array = Any
#: Runs that are examined, and the relative change of a state.
_RUNS, _CHANGE = 4, 1e-6


def fastest_rate(study: Study) -> float:
    """Return the largest rate at which a state acts on itself at the start of some runs.

    This is the largest magnitude on the diagonal of the Jacobian, by finite differences. Unlike
    other entries, these do not depend on the units of states.
    """
    size = study.design.size
    runs = np.unique(np.linspace(0, size - 1, min(size, _RUNS)).astype(np.int64))
    return max((_rate(study, int(run)) for run in runs), default=0.0)


def _rate(study: Study, run: int) -> float:
    """Return the fastest rate at the start of one run."""
    system = study.system
    given = study.design.columns(run, run + 1)
    values: dict[str, Any] = {item.name: float(item.value) for item in system.quantities}
    values |= {name: float(column[0]) for name, column in given.items() if name in values}
    values["t"] = study.t_start
    for driver in system.drivers:
        values[driver.name] = driver.value_at(study.t_start, 0)
    names = [state.name for state in system.states]
    starts = np.array([values[name] for name in names])
    sizes = np.abs(starts)
    sizes[sizes == 0.0] = sizes.max(initial=0.0) or 1.0
    changes = _CHANGE * sizes
    # Row 0 is the start, row j + 1 has state j changed.
    count = len(names)
    table = np.repeat(starts[None, :], count + 1, axis=0)
    table[np.arange(1, count + 1), np.arange(count)] += changes
    values |= dict(zip(names, table.T, strict=True))
    fastest = 0.0
    for j, rate in enumerate(evaluate(without_delays(system.derivatives), values)):
        row = np.broadcast_to(rate, (count + 1,))
        with np.errstate(all="ignore"):
            magnitude = abs(float((row[j + 1] - row[0]) / changes[j]))
        if np.isfinite(magnitude):
            fastest = max(fastest, magnitude)
    return fastest
