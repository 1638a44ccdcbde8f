"""diffrax under `vmap` and `jit`, compiled ahead of time."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.cases import Case, Entry
from benchmarks.fields import field
from benchmarks.peers import Prepared, Unsupported, timed

#: The `Entry.method` names and diffrax's.
METHODS = {"tsit5": "Tsit5", "dopri8": "Dopri8", "kvaerno5": "Kvaerno5"}


def prepare(case: Case, entry: Entry) -> Prepared:
    import diffrax
    import jax

    if entry.dt:
        raise Unsupported("it has no classical RK4")
    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy
    about = case.problem
    equations = field(about, jnp)
    times = jnp.asarray(case.times().astype(entry.precision))
    start = jnp.asarray(about.start.astype(entry.precision))
    solver = getattr(diffrax, METHODS[entry.method])()
    controller = diffrax.PIDController(rtol=entry.rtol, atol=entry.atol)

    def derivative(t: Any, u: Any, value: Any) -> Any:
        du = equations(t, u, value)
        return jnp.stack(jnp.broadcast_arrays(*du)) if isinstance(du, list) else du

    term = diffrax.ODETerm(derivative)
    first = jnp.asarray(about.duration * 1e-6, start.dtype) if about.stiff else None
    zero, end = (jnp.asarray(value, start.dtype) for value in (0.0, about.duration))

    def one(value: Any) -> Any:
        return diffrax.diffeqsolve(
            term, solver, zero, end, first, start, args=value,
            saveat=diffrax.SaveAt(ts=times), stepsize_controller=controller, max_steps=None,
            throw=False,
        ).ys  # fmt: skip

    values = jnp.asarray(about.values(entry.runs).astype(entry.precision))
    compiled, seconds = timed(lambda: jax.jit(jax.vmap(one)).lower(values).compile())
    return Prepared(
        lambda: np.asarray(compiled(values)), lambda answer, probes: answer[probes], seconds
    )
