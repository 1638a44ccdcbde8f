"""CVODES of SUNDIALS through casadi, with runs mapped over threads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.cases import Case, Entry
from benchmarks.fields import field
from benchmarks.peers import Prepared, Unsupported, timed
from cubie_flow.process.machine import usable_cores


def functions(ca: Any) -> SimpleNamespace:
    """Return casadi's functions under numpy's names."""
    return SimpleNamespace(
        **{name: getattr(ca, name) for name in (
            "acos", "asin", "atan", "atan2", "cos", "cosh", "erf", "exp", "expm1", "floor", "log",
            "log10", "log1p", "sin", "sinh", "sqrt", "tan", "tanh", "logic_and",
        )},
        where=ca.if_else, less=ca.lt, less_equal=ca.le, greater=ca.gt, greater_equal=ca.ge,
        equal=ca.eq, not_equal=ca.ne, logical_and=ca.logic_and, logical_or=ca.logic_or,
        logical_not=ca.logic_not, minimum=ca.fmin, maximum=ca.fmax,
    )  # fmt: skip


def prepare(case: Case, entry: Entry) -> Prepared:
    import casadi as ca

    if entry.dt:
        raise Unsupported("it chooses its own steps")
    about = case.problem
    t, p = ca.SX.sym("t"), ca.SX.sym("p")
    u = ca.SX.sym("u", len(about.start))
    components = [u[i] for i in range(len(about.start))]
    derivatives = ca.vertcat(*field(about, functions(ca))(t, components, p))
    times, threads = case.times(), min(usable_cores(), entry.runs)
    options = {
        "reltol": entry.rtol, "abstol": entry.atol, "max_num_steps": 1_000_000,
        "error_on_fail": False,
    }  # fmt: skip

    def build() -> Any:
        one = ca.integrator(
            "one", "cvodes", {"x": u, "p": p, "t": t, "ode": derivatives}, 0.0, times, options
        )
        return one.map(entry.runs, "thread", threads)

    mapped, seconds = timed(build)
    start = np.repeat(about.start[:, None], entry.runs, axis=1)
    values = about.values(entry.runs)[None, :]

    def run() -> Any:
        return np.asarray(mapped(x0=start, p=values)["xf"])

    def ends(answer: Any, probes: Any) -> Any:
        # The columns are the times of the first run, then those of the second, and so on.
        table = answer.reshape(len(about.start), entry.runs, len(times))
        return table[:, probes, :].transpose(1, 2, 0)

    return Prepared(run, ends, seconds)
