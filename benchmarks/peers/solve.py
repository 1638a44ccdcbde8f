"""cubie_flow: `cubie_flow.solve`, from a model and arrays to a labelled dataset."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.cases import Case, Entry
from benchmarks.peers import Prepared


def prepare(case: Case, entry: Entry) -> Prepared:
    from cubie_flow import ControllerChoice, solve

    about = case.problem
    values = about.values(entry.runs)
    controller = ControllerChoice(
        kind="fixed" if entry.dt else "default", rtol=entry.rtol, atol=entry.atol, dt=entry.dt
    )
    names = [state.name for state in about.system.states]

    def run() -> Any:
        return solve(
            about.system,
            parameters={about.varied: values},
            duration=about.duration,
            algorithm=entry.method,
            precision=entry.precision,
            controller=controller,
            times=case.times() if case.saves else None,
            target="cpu",
        )

    def ends(answer: Any, probes: Any) -> Any:
        if case.saves:
            return np.stack([answer[name].values[probes] for name in names], axis=2)
        columns = [answer[f"{name}_final"].values[probes] for name in names]
        return np.stack(columns, axis=1)[:, None, :]

    return Prepared(run, ends)
