"""RK4 in a JAX `fori_loop` over whole arrays, compiled ahead of time."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.cases import Case, Entry
from benchmarks.fields import field
from benchmarks.peers import Prepared, steps_a_save, timed


def prepare(case: Case, entry: Entry) -> Prepared:
    import jax

    steps, dt = steps_a_save(case, entry)
    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy
    about = case.problem
    equations = field(about, jnp)

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

        def until_saved(u: Any, number: Any) -> tuple[Any, Any]:
            u = jax.lax.fori_loop(number * steps, (number + 1) * steps, step, u)
            return u, u

        return jax.lax.scan(until_saved, start, jnp.arange(len(case.times())))[1]

    start = jnp.asarray(np.repeat(about.start[:, None], entry.runs, axis=1).astype(entry.precision))
    values = jnp.asarray(about.values(entry.runs).astype(entry.precision))
    compiled, seconds = timed(lambda: jax.jit(all_runs).lower(start, values).compile())
    return Prepared(
        lambda: np.asarray(compiled(start, values)),
        lambda answer, probes: answer[:, :, probes].transpose(2, 0, 1),
        seconds,
    )
