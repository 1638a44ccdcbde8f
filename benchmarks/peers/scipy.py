"""scipy's `solve_ivp`, one run after another on one core."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.cases import Case, Entry
from benchmarks.fields import field
from benchmarks.peers import Prepared


def prepare(case: Case, entry: Entry) -> Prepared:
    from scipy.integrate import solve_ivp

    about = case.problem
    equations = field(about, np)
    values, times, start = about.values(entry.runs), case.times(), about.start

    def one(value: float) -> Any:
        solution = solve_ivp(
            lambda t, u: equations(t, u, value), (0.0, about.duration), start, entry.method,
            times, rtol=entry.rtol, atol=entry.atol,
        )  # fmt: skip
        return solution.y.T

    return Prepared(
        lambda: [one(value) for value in values],
        lambda answer, probes: np.stack([answer[i] for i in probes]),
    )
