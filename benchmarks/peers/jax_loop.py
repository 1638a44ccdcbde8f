"""RK4 in a JAX `fori_loop` over whole arrays, compiled ahead."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.cases import Case, Entry
from benchmarks.fields import field
from benchmarks.peers import Prepared, Unsupported, finals, timed


def prepare(case: Case, entry: Entry) -> Prepared:
    import jax

    if entry.method != "rk4" or not entry.dt or case.saves:
        raise Unsupported("written for RK4 at a fixed step and final states only")
    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy
    about, dt = case.problem, entry.dt
    equations = field(about, jnp)
    steps = round(about.duration / dt)

    def all_runs(start: Any, values: Any) -> Any:
        def f(t: Any, u: Any) -> Any:
            du = equations(t, u, values)
            return jnp.stack(du) if isinstance(du, list) else du

        def step(i: Any, u: Any) -> Any:
            t = (i * dt).astype(u.dtype)
            a = f(t, u)
            b = f(t + dt / 2, u + dt / 2 * a)
            c = f(t + dt / 2, u + dt / 2 * b)
            d = f(t + dt, u + dt * c)
            return u + dt / 6 * (a + 2 * b + 2 * c + d)

        return jax.lax.fori_loop(0, steps, step, start)

    start = jnp.asarray(np.repeat(about.start[:, None], entry.runs, axis=1).astype(entry.precision))
    values = jnp.asarray(about.values(entry.runs).astype(entry.precision))
    compiled, seconds = timed(lambda: jax.jit(all_runs).lower(start, values).compile())
    return Prepared(lambda: np.asarray(compiled(start, values)), finals(True), seconds)
