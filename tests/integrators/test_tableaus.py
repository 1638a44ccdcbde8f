"""Coefficients against theory: rooted trees, then convergence, then SciPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from rooted_trees import Array, Conditions, density, slope_of, trees

from cubie_flow.errors import FlowError
from cubie_flow.integrators.tableaus import TABLEAUS, Tableau, tableau

TOLERANCE = 1e-13
NAMES = list(TABLEAUS)
ADAPTIVE = [name for name in NAMES if TABLEAUS[name].error]
DENSE = [name for name in NAMES if TABLEAUS[name].dense]
THETAS = (0.1, 0.25, 0.5, 0.7, 0.9)


def stage_matrix(method: Tableau) -> Array:
    """Weights of all stages, of the derivative at the end and of the extra stages."""
    extra = method.dense.extra_a if method.dense else ()
    rows = [*method.a, method.b, *extra]
    matrix = np.zeros((len(rows), len(rows)))
    for i, row in enumerate(rows):
        matrix[i, : len(row)] = row
    return matrix


def nodes(method: Tableau) -> Array:
    return np.array([*method.c, 1.0, *(method.dense.extra_c if method.dense else ())])


def padded(weights: tuple[float, ...], method: Tableau) -> Array:
    return np.pad(np.array(weights), (0, len(nodes(method)) - len(weights)))


def embedded(method: Tableau, error: tuple[float, ...] | None) -> Array:
    assert error is not None
    return padded(method.b, method) - padded(error, method)


def interpolating(method: Tableau, theta: float) -> Array:
    assert method.dense is not None
    weights = np.array(method.dense.weights)
    return weights @ theta ** np.arange(1, weights.shape[1] + 1)


def residual(method: Tableau, weights: Array, orders: range, theta: float = 1.0) -> float:
    """Largest defect in the conditions of `orders` that `weights` should meet at `theta`."""
    return Conditions(stage_matrix(method)).residual(weights, orders, theta)


def defect(method: Tableau) -> float:
    """Largest defect of everything that a tableau claims exactly."""
    matrix = stage_matrix(method)
    found = [float(np.abs(matrix.sum(axis=1) - nodes(method)).max())]
    found.append(residual(method, padded(method.b, method), range(1, method.order + 1)))
    if method.error3 is not None:
        found.append(residual(method, embedded(method, method.error), range(1, 6)))
        found.append(residual(method, embedded(method, method.error3), range(1, 4)))
    elif method.embedded_order is not None:
        orders = range(1, method.embedded_order + 1)
        found.append(residual(method, embedded(method, method.error), orders))
    if method.dense is not None:
        weights = np.array(method.dense.weights)
        slopes = weights @ np.arange(1, weights.shape[1] + 1)
        end = np.eye(len(weights))[len(method.b)]
        found.append(float(np.abs(weights.sum(axis=1) - padded(method.b, method)).max()))
        found.append(float(np.abs(weights[:, 0] - np.eye(len(weights))[0]).max()))
        found.append(float(np.abs(slopes - end).max()))
        orders = range(1, method.dense.order + 1)
        found += [residual(method, interpolating(method, x), orders, x) for x in THETAS]
    return max(found)


def allowed(method: Tableau) -> float:
    """Rounding of a tableau: its coefficients are doubles, some of them of size 1000."""
    weights = method.dense.weights if method.dense else ((1.0,),)
    return TOLERANCE * max(1.0, max(abs(x) for row in weights for x in row) / 50)


def test_trees_are_counted_as_in_the_literature() -> None:
    counts = [len(trees(order)) for order in range(1, 10)]
    assert counts == [1, 1, 2, 4, 9, 20, 48, 115, 286]
    assert all(len(set(trees(order))) == len(trees(order)) for order in range(1, 10))
    # The bushy and the tall tree of order four.
    assert density(((), (), ())) == 4
    assert density((((),),)) == 6
    assert density(((((),),),)) == 24


@pytest.mark.parametrize("name", NAMES)
def test_shapes(name: str) -> None:
    method = TABLEAUS[name]
    stages = len(method.b)
    assert method.name == name
    assert method.title
    assert method.source
    assert [len(row) for row in method.a] == list(range(stages))
    assert len(method.c) == stages
    assert (method.error is None) == (method.embedded_order is None)
    assert (method.error is None) == (method.controller == "fixed")
    if method.error is not None:
        assert len(method.error) in (stages, stages + 1)
    if method.dense is not None:
        extra = len(method.dense.extra_c)
        assert method.dense.source
        assert [len(row) for row in method.dense.extra_a] == [stages + 1 + i for i in range(extra)]
        assert len(method.dense.weights) == stages + 1 + extra
        assert len({len(row) for row in method.dense.weights}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_nodes_are_row_sums(name: str) -> None:
    method = TABLEAUS[name]
    np.testing.assert_allclose(stage_matrix(method).sum(axis=1), nodes(method), 0, TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_order(name: str) -> None:
    method = TABLEAUS[name]
    b = padded(method.b, method)
    assert residual(method, b, range(1, method.order + 1)) < TOLERANCE
    assert residual(method, b, range(method.order + 1, method.order + 2)) > 1e-7


@pytest.mark.parametrize("name", [name for name in ADAPTIVE if not TABLEAUS[name].error3])
def test_embedded_order(name: str) -> None:
    method = TABLEAUS[name]
    assert method.embedded_order is not None
    b_hat = embedded(method, method.error)
    last = method.embedded_order
    assert residual(method, b_hat, range(1, last + 1)) < TOLERANCE
    assert residual(method, b_hat, range(last + 1, last + 2)) > 1e-5


def test_both_estimates_of_dop853() -> None:
    method = TABLEAUS["dormand_prince_853"]
    for error, order in ((method.error, 5), (method.error3, 3)):
        b_hat = embedded(method, error)
        assert residual(method, b_hat, range(1, order + 1)) < TOLERANCE
        assert residual(method, b_hat, range(order + 1, order + 2)) > 1e-5


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("theta", THETAS)
def test_dense_order(name: str, theta: float) -> None:
    method = TABLEAUS[name]
    assert method.dense is not None
    orders = range(1, method.dense.order + 1)
    weights = interpolating(method, theta)
    assert residual(method, weights, orders, theta) < allowed(method)


@pytest.mark.parametrize("name", DENSE)
def test_dense_order_is_not_understated(name: str) -> None:
    method = TABLEAUS[name]
    assert method.dense is not None
    orders = range(method.dense.order + 1, method.dense.order + 2)
    assert max(residual(method, interpolating(method, x), orders, x) for x in THETAS) > 1e-6


@pytest.mark.parametrize("name", DENSE)
def test_dense_output_is_continuously_differentiable(name: str) -> None:
    method = TABLEAUS[name]
    assert method.dense is not None
    weights = np.array(method.dense.weights)
    one = np.eye(len(weights))
    degrees = np.arange(1, weights.shape[1] + 1)
    value, slope = weights.sum(axis=1), weights @ degrees
    np.testing.assert_allclose(interpolating(method, 0.0), 0.0, 0, 0)
    np.testing.assert_allclose(value, padded(method.b, method), 0, allowed(method))
    np.testing.assert_allclose(weights[:, 0], one[0], 0, TOLERANCE)
    np.testing.assert_allclose(slope, one[len(method.b)], 0, 10 * allowed(method))


def test_the_steps_proposed_are_those_of_the_codes() -> None:
    exponents = {
        name: tuple(gain / (1 + (method.embedded_order or 0)) for gain in method.gains)
        for name, method in TABLEAUS.items()
    }
    # dopri5.f: expo1 = 0.2 - 0.75 * 0.04 and beta = 0.04; dop853.f: 1/8; ode23: 1/3.
    assert exponents["dormand_prince_54"] == pytest.approx((0.17, -0.04, 0.0))
    assert exponents["dormand_prince_853"] == pytest.approx((1 / 8, 0.0, 0.0))
    assert exponents["bogacki_shampine_32"] == pytest.approx((1 / 3, 0.0, 0.0))
    for method in TABLEAUS.values():
        assert 0 < method.min_factor < 1 < method.max_factor
        assert 0 < method.safety <= 1


# The checks above notice one wrong coefficient


#: Fields of dense output, beside those of the tableau itself.
OF_DENSE = ("weights", "extra_a", "extra_c")


def table(method: Tableau, name: str) -> tuple[tuple[float, ...], ...]:
    """The field `name` of a tableau or of its dense output, as rows."""
    value = getattr(method.dense if name in OF_DENSE else method, name, None)
    if not value:
        return ()
    return value if isinstance(value[0], tuple) else (value,)


def places(method: Tableau) -> list[tuple[str, int, int]]:
    """Field, row and column of every coefficient that is not zero."""
    return [
        (name, j, i)
        for name in ("a", "b", "c", "error", "error3", *OF_DENSE)
        for j, row in enumerate(table(method, name))
        for i, value in enumerate(row)
        if value
    ]


def shifted(method: Tableau, name: str, j: int, i: int, by: float) -> Tableau:
    """Return `method` with one coefficient changed."""
    changed = [list(row) for row in table(method, name)]
    changed[j][i] += by
    rows = tuple(map(tuple, changed))
    new: dict[str, Any] = {name: rows if name in ("a", "weights", "extra_a") else rows[0]}
    if name in OF_DENSE:
        assert method.dense is not None
        new = {"dense": evolve(method.dense, **new)}
    return evolve(method, **new)


@given(name=st.sampled_from(NAMES), data=st.data())
@settings(derandomize=True, max_examples=60, deadline=None)
def test_a_wrong_coefficient_is_noticed(name: str, data: st.DataObject) -> None:
    method = TABLEAUS[name]
    place = data.draw(st.sampled_from(places(method)))
    assert defect(method) < 10 * allowed(method)
    assert defect(shifted(method, *place, by=1e-9)) > 1e-10


@pytest.mark.parametrize("name", [name for name in NAMES if TABLEAUS[name].order > 2])
def test_a_wrong_row_that_still_adds_up_is_noticed(name: str) -> None:
    method = TABLEAUS[name]
    stage = len(method.a) - 1
    wrong = shifted(method, "a", stage, stage - 1, 1e-6)
    wrong = shifted(wrong, "a", stage, 0, -1e-6)
    assert defect(wrong) > 1e-9


# Convergence on a Kepler orbit of eccentricity 0.3


def kepler(_: float, y: Array) -> Array:
    return np.concatenate((y[2:], -y[:2] / (y[0] ** 2 + y[1] ** 2) ** 1.5))


def orbit(t: float) -> Array:
    e = 0.3
    anomaly = t
    for _ in range(50):
        anomaly -= (anomaly - e * np.sin(anomaly) - t) / (1 - e * np.cos(anomaly))
    sine, cosine, minor = np.sin(anomaly), np.cos(anomaly), np.sqrt(1 - e**2)
    speed = 1 / (1 - e * cosine)
    return np.array([cosine - e, minor * sine, -sine * speed, minor * cosine * speed])


def step(
    method: Tableau, f: Callable[[float, Array], Array], t: float, y: Array, h: float
) -> tuple[Array, Array]:
    """Return the new state and the derivatives at all stages, as the tableau documents them."""
    k: list[Array] = []
    for row, c in zip(method.a, method.c, strict=True):
        k.append(f(t + c * h, y + h * sum((w * x for w, x in zip(row, k, strict=True)), 0 * y)))
    new = y + h * sum(w * x for w, x in zip(method.b, k, strict=True))
    k.append(f(t + h, new))
    if method.dense is not None:
        for row, c in zip(method.dense.extra_a, method.dense.extra_c, strict=True):
            k.append(f(t + c * h, y + h * sum(w * x for w, x in zip(row, k, strict=True))))
    return new, np.array(k)


@pytest.mark.parametrize("name", NAMES)
def test_convergence(name: str) -> None:
    method = TABLEAUS[name]
    first = {1: 512, 2: 64, 3: 64, 4: 64, 5: 48, 7: 12, 8: 8}[method.order]
    errors = []
    for steps in (first, 2 * first, 4 * first):
        y, h = orbit(0.0), 2.0 / steps
        for i in range(steps):
            y = step(method, kepler, i * h, y, h)[0]
        errors.append(float(np.abs(y - orbit(2.0)).max()))
    assert slope_of(errors) == pytest.approx(method.order, abs=0.4)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_error_estimate_shrinks_as_stated(name: str) -> None:
    method = TABLEAUS[name]
    assert method.error is not None
    assert method.embedded_order is not None
    estimates = []
    for h in (0.2, 0.1, 0.05):
        _, k = step(method, kepler, 1.0, orbit(1.0), h)
        estimate = h * np.linalg.norm(np.array(method.error) @ k[: len(method.error)])
        if method.error3 is not None:
            third = h * np.linalg.norm(np.array(method.error3) @ k[: len(method.error3)])
            estimate = estimate**2 / np.hypot(estimate, 0.1 * third)
        estimates.append(float(estimate))
    assert slope_of(estimates) == pytest.approx(method.embedded_order + 1, abs=0.5)


@pytest.mark.parametrize("name", DENSE)
def test_dense_convergence(name: str) -> None:
    method = TABLEAUS[name]
    assert method.dense is not None
    errors = []
    first = 0.4 if method.dense.order > 4 else 0.2
    for h in (first, first / 2, first / 4):
        y = orbit(1.0)
        _, k = step(method, kepler, 1.0, y, h)
        between = [y + h * interpolating(method, x) @ k - orbit(1.0 + x * h) for x in THETAS]
        errors.append(float(np.abs(between).max()))
    assert slope_of(errors) == pytest.approx(method.dense.order + 1, abs=0.5)


# SciPy's coefficients are an independent transcription


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("bogacki_shampine_32", "RK23"),
        ("dormand_prince_54", "RK45"),
        ("dormand_prince_853", "DOP853"),
    ],
)
def test_one_step_is_that_of_scipy(name: str, solver: str) -> None:
    integrate = pytest.importorskip("scipy.integrate")
    method, h = TABLEAUS[name], 0.3
    known = getattr(integrate, solver)(kepler, 0.0, orbit(0.0), 9.0, first_step=h, rtol=1, atol=1)
    known.step()
    assert known.t == h
    new, k = step(method, kepler, 0.0, orbit(0.0), h)
    np.testing.assert_allclose(new, known.y, 0, 1e-14)
    output = known.dense_output()
    for theta in THETAS:
        value = orbit(0.0) + h * interpolating(method, theta) @ k
        np.testing.assert_allclose(value, output(theta * h), 0, 1e-13)


# Lookup


def test_lookup() -> None:
    assert tableau("tsit5") is TABLEAUS["tsit5"]
    assert len(TABLEAUS) == 12
    with pytest.raises(FlowError, match=r"algorithm is 'tsit'; .*vern7.*did you mean 'tsit5'\?"):
        tableau("tsit")
    with pytest.raises(FlowError, match="controller is 'pd'"):
        evolve(tableau("tsit5"), controller="pd")
