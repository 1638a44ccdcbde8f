"""The forms of a problem that peers integrate are the graph's own equations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.fields import bound, field, scalar_field
from benchmarks.problems import PROBLEMS, Problem
from cubie_flow.expressions.evaluate import evaluate

Array = Any


class Pointer:
    """Numbers behind a bare pointer: what is read or written outside of them is a mistake."""

    def __init__(self, values: Array) -> None:
        self.values = values

    def __getitem__(self, i: int) -> float:
        assert 0 <= i < len(self.values)
        return float(self.values[i])

    def __setitem__(self, i: int, value: float) -> None:
        assert 0 <= i < len(self.values)
        self.values[i] = value


def expected(about: Problem, u: Array, p: float) -> Array:
    names = [state.name for state in about.system.states]
    values = dict(zip(names, u, strict=True)) | {about.varied: p, "t": 0.5}
    return np.asarray(evaluate(bound(about), values), np.float64)


@pytest.mark.parametrize("name", [n for n, p in PROBLEMS.items() if not p.large])
def test_peers_integrate_the_equations_of_the_graph(name: str) -> None:
    about = PROBLEMS[name]
    random = np.random.default_rng(1)
    u = about.start * (1.0 + 0.1 * random.random(len(about.start))) + 1e-3
    p = float(about.probed[1])
    right = expected(about, u, p)
    du = np.full(len(u), np.nan)
    scalar_field(about)(0.5, Pointer(u), Pointer(du), Pointer(np.asarray([p])))
    np.testing.assert_allclose(du, right, rtol=1e-12, atol=1e-12 * np.abs(right).max())
    many = np.repeat(u[:, None], 3, axis=1)
    found = field(about, np)(0.5, many, np.full(3, p))
    found = np.stack([np.broadcast_to(one, 3) for one in found])
    np.testing.assert_allclose(found[:, 2], right, rtol=1e-12, atol=1e-12 * np.abs(right).max())
