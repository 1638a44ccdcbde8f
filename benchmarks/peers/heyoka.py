"""The Taylor integrator of heyoka: batches of two SIMD registers, one integrator per thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.cases import Case, Entry
from benchmarks.fields import field
from benchmarks.peers import Prepared, Unsupported, timed
from cubie_flow.process.machine import usable_cores


def functions(hy: Any) -> SimpleNamespace:
    """Return heyoka's functions under numpy's names."""
    return SimpleNamespace(
        **{name: getattr(hy, name) for name in (
            "acos", "asin", "atan", "atan2", "cos", "cosh", "erf", "exp", "expm1", "log", "log1p",
            "sin", "sinh", "sqrt", "tan", "tanh",
        )},
        where=hy.select, less=hy.lt, less_equal=hy.lte, greater=hy.gt, greater_equal=hy.gte,
        equal=hy.eq, not_equal=hy.neq,
        logical_and=lambda a, b: hy.logical_and([a, b]),
        logical_or=lambda a, b: hy.logical_or([a, b]),
        minimum=lambda a, b: hy.select(hy.lt(a, b), a, b),
        maximum=lambda a, b: hy.select(hy.gt(a, b), a, b),
    )  # fmt: skip


class _Absolute:
    """Holds `abs` for expressions of heyoka, which has no absolute value."""

    def __init__(self, hy: Any) -> None:
        hy.expression.__abs__ = lambda x: hy.select(hy.lt(x, hy.expression(0.0)), -x, x)


def prepare(case: Case, entry: Entry) -> Prepared:
    import heyoka as hy

    if entry.dt:
        raise Unsupported("it chooses its own steps")
    _Absolute(hy)
    about = case.problem
    states = [f"u{i}" for i in range(len(about.start))]
    variables = hy.make_vars(*states)
    if len(states) == 1:
        variables = [variables]
    derivatives = field(about, functions(hy))(hy.time, variables, hy.par[0])
    real: Any = np.dtype(entry.precision).type
    # Two registers are 1.2 times as fast as one here, and four are not faster.
    width = 2 * hy.recommended_simd_size(fp_type=real)
    start = np.repeat(about.start[:, None], width, axis=1).astype(real)
    template, seconds = timed(
        lambda: hy.taylor_adaptive_batch(
            list(zip(variables, derivatives, strict=True)), start, tol=real(entry.rtol),
            pars=np.zeros((1, width), real), fp_type=real, compact_mode=len(states) > 10,
        )
    )  # fmt: skip
    given = about.values(entry.runs).astype(real)
    padded = np.concatenate([given, np.repeat(given[-1:], -entry.runs % width)])
    groups = padded.reshape(-1, width)
    threads = min(usable_cores(), len(groups))
    integrators = [deepcopy(template) for _ in range(threads)]
    times = case.times().astype(real)
    # It also needs the starting time.
    grid = np.repeat(np.concatenate([[real(0)], times])[:, None], width, axis=1)
    out = np.empty((len(groups), len(times), len(states), width), real)

    def share(number: int) -> None:
        integrator = integrators[number]
        for i in range(number, len(groups), threads):
            integrator.set_time(real(0.0))
            integrator.state[:] = start
            integrator.pars[0, :] = groups[i]
            if case.saves:
                out[i] = integrator.propagate_grid(grid)[1][1:]
            else:
                integrator.propagate_until(real(about.duration))
                out[i, 0] = integrator.state

    pool = ThreadPoolExecutor(threads)

    def run() -> Any:
        list(pool.map(share, range(threads)))
        return out

    def ends(answer: Any, probes: Any) -> Any:
        return np.stack([answer[i // width, :, :, i % width] for i in probes])

    return Prepared(run, ends, seconds)
