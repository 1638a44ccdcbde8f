"""Reference solutions: scipy at far tighter tolerances than those of the entries."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from benchmarks.fields import field
from benchmarks.problems import Problem, problem

Array = Any


@cache
def reference(name: str, times: tuple[float, ...]) -> Array:
    """Return the states of the probed runs, shape (probes, times, states)."""
    about = problem(name)
    return np.stack([_one(about, float(value), np.asarray(times)) for value in about.probed])


def _one(about: Problem, value: float, times: Array) -> Array:
    from scipy.integrate import solve_ivp

    how: dict[str, Any]
    equations = field(about, np)
    if about.stiff:
        how = {"method": "Radau", "rtol": 1e-11, "atol": about.atol * 1e-4}
        how["jac"] = jacobian(about, value)
    else:
        how = {"method": "DOP853", "rtol": 3e-14, "atol": 1e-16 * about.floor}
    solution = solve_ivp(
        lambda t, u: equations(t, u, value), (0.0, about.duration), about.start, t_eval=times, **how
    )
    if not solution.success:
        raise RuntimeError(f"no reference for '{about.name}': {solution.message}")
    return solution.y.T


def jacobian(about: Problem, value: float) -> Any:
    """Return ``jac(t, u)``, the sparse matrix of derivatives of the right-hand side."""
    from scipy.sparse import csc_matrix

    from benchmarks.fields import bound
    from cubie_flow.expressions.derivatives import sparse_jacobian
    from cubie_flow.expressions.evaluate import evaluate
    from cubie_flow.expressions.graph import symbol

    states = about.system.states
    rows = sparse_jacobian(bound(about), [symbol(state.name) for state in states])
    places = [(i, j) for i, row in enumerate(rows) for j in row]
    nodes = [rows[i][j] for i, j in places]
    at = tuple(np.asarray(places).T)

    def jac(t: float, u: Array) -> Any:
        known = {state.name: u[i] for i, state in enumerate(states)}
        known |= {about.varied: value, "t": t}
        values = [float(x) for x in evaluate(nodes, known)]
        return csc_matrix((values, at), shape=(len(states), len(states)))

    return jac


def error(found: Array, right: Array, floor: float) -> float:
    """Return the largest error relative to ``|right| + floor``; NaN if a value is NaN.

    Parameters
    ----------
    found, right : ndarray, shape (probes, times, states)
        Masked values of `found` are not compared.
    floor : float
        Size below which an error counts as absolute, in units of this size.
    """
    apart = np.abs(np.asarray(found) - right) / (np.abs(right) + floor)
    return float(apart[~np.ma.getmaskarray(found)].max())
