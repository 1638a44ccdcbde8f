"""Coefficients of the stiff methods against theory: trees, stability, convergence, closed forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import mpmath
import numpy as np
import pytest
from attrs import evolve
from rooted_trees import Array, Conditions, Tree, density, slope_of, trees

from cubie_flow.errors import FlowError
from cubie_flow.integrators.tableaus import (
    COLLOCATION,
    DIAGONAL,
    METHODS,
    MULTISTEP,
    ROSENBROCK,
    TABLEAUS,
    TAYLOR,
    Collocation,
    DiagonallyImplicit,
    Rosenbrock,
    method,
)

Implicit = Rosenbrock | DiagonallyImplicit | Collocation
Field = Callable[[float, Array], Array]

IMPLICIT: dict[str, Implicit] = {**ROSENBROCK, **DIAGONAL, **COLLOCATION}
NAMES = list(IMPLICIT)
ADAPTIVE = [name for name in NAMES if IMPLICIT[name].error]
DENSE = [name for name in NAMES if IMPLICIT[name].dense]
TOLERANCE = 1e-13
THETAS = (0.1, 0.25, 0.5, 0.7, 0.9)


def square(rows: tuple[tuple[float, ...], ...]) -> Array:
    """Rows of any length as a square matrix."""
    matrix = np.zeros((len(rows), len(rows)))
    for i, row in enumerate(rows):
        matrix[i, : len(row)] = row
    return matrix


class Classical:
    """A method in the variables of the order conditions: ``y1 = y + sum(weights * k)``.

    ``matrix`` are the weights of stages, ``beta`` those of the linear part: the same for a
    Runge-Kutta method, ``alpha + gamma`` for a Rosenbrock method. ``to_k`` takes weights of what
    the method computes (``u``, ``k`` or ``z``) to weights of ``k``.
    """

    def __init__(self, coefficients: Implicit) -> None:
        self.method = m = coefficients
        stages = len(m.b)
        self.gamma = np.zeros((stages, stages))
        if isinstance(m, Rosenbrock):
            self.gamma = np.linalg.inv(np.eye(stages) / m.gamma - square(m.coupling))
            self.matrix, self.to_k = square(m.a) @ self.gamma, self.gamma
            self.b = np.array(m.b) @ self.gamma
        else:
            self.matrix = square(m.a)
            self.to_k = self.matrix if isinstance(m, Collocation) else np.eye(stages)
            self.b = np.array(m.b)
        self.beta = self.matrix + self.gamma
        self.conditions = Conditions(self.matrix, self.beta)
        self.known: dict[Tree, list[tuple[Array, bool]]] = {}

    def error(self) -> Array:
        """Weights of the error estimate in ``k``; of what is filtered for a collocation method."""
        assert self.method.error is not None
        return np.array(self.method.error) @ self.to_k

    def dense(self, theta: float) -> Array:
        """Weights of ``k`` at `theta`."""
        return powers(self.method, theta) @ self.to_k

    def stability(self, z: complex, weights: Array) -> complex:
        """Sum of `weights` and the stages of ``y' = y`` with step size `z`."""
        one = np.ones(len(self.b))
        return complex(z * weights @ np.linalg.solve(np.eye(len(one)) - z * self.beta, one))

    def with_any_jacobian(self, tree: Tree) -> list[tuple[Array, bool]]:
        """Elementary weights of all trees whose single branches are ``f'`` or the matrix used.

        With them, whether all are ``f'``: the others should sum to zero (Solving ODEs II, section
        IV.7).
        """
        if tree not in self.known:
            found = []
            for combination in product(*map(self.with_any_jacobian, tree)):
                value = np.ones(len(self.b))
                for branch, _ in combination:
                    value = value * (self.matrix @ branch)
                real = all(exact for _, exact in combination)
                found.append((value, real))
                if len(tree) == 1:
                    found.append((self.gamma @ combination[0][0], False))
            self.known[tree] = found
        return self.known[tree]

    def w_residual(self, orders: range) -> float:
        """Largest defect in the conditions that hold whatever the Jacobian."""
        return max(
            abs(float(self.b @ value) - (1 / density(tree) if real else 0.0))
            for order in orders
            for tree in trees(order)
            for value, real in self.with_any_jacobian(tree)
        )


CLASSICAL = {name: Classical(m) for name, m in IMPLICIT.items()}


def powers(coefficients: Implicit, theta: float) -> Array:
    """Weights of dense output at `theta`, in the variables of the method."""
    assert coefficients.dense is not None
    weights = np.array(coefficients.dense.weights)
    return weights @ theta ** np.arange(1, weights.shape[1] + 1)


def quadrature(m: Collocation) -> Array:
    """Weights of the embedded quadrature at the stages, beside ``1/gamma0`` at the start."""
    assert m.error is not None
    return CLASSICAL[m.name].b + np.array(m.error) @ square(m.a) / m.gamma0


def defect(m: Implicit) -> float:
    """Largest defect of everything that a method claims exactly."""
    k = Classical(m)
    found = [float(np.abs(k.matrix.sum(axis=1) - m.c).max())]
    found.append(k.conditions.residual(k.b, range(1, min(m.order, 5) + 1)))
    if isinstance(m, Rosenbrock):
        found.append(float(np.abs(k.gamma.sum(axis=1) - m.time_weights).max()))
        if m.w_method:
            found.append(k.w_residual(range(1, m.order + 1)))
        if not any(m.error[:-1]):
            # The embedded solution is the argument of the last stage, which corrects it.
            found.append(float(np.abs(np.subtract(m.b, m.error) - (*m.a[-1], 0.0)).max()))
    elif m.c[-1] == 1.0:
        found.append(float(np.abs(np.subtract(m.a[-1], m.b)).max()))
    if isinstance(m, DiagonallyImplicit):
        found += [abs(row[-1] - m.gamma) for row in m.a[int(m.explicit_first) :]]
    if isinstance(m, Collocation):
        found += [collocation_defect(m), splitting_defect(m), embedded_quadrature_defect(m)]
    elif m.embedded_order is not None:
        found.append(k.conditions.largest(k.error(), range(1, m.embedded_order + 1)))
        if m.name == "rosenbrock23":
            found.append(k.conditions.residual(k.b - k.error(), range(1, 4)))
    if m.dense is not None:
        found.append(float(np.abs(k.dense(1.0) - k.b).max()))
        for theta in THETAS:
            orders = range(1, m.dense.order + 1)
            found.append(k.conditions.residual(k.dense(theta), orders, theta))
    return max(found)


def collocation_defect(m: Collocation) -> float:
    """Defect of C(s) and B(p), the simplifying assumptions of J. C. Butcher."""
    a, b, c = np.array(m.a), np.array(m.b), np.array(m.c)
    found = [abs(a @ c ** (q - 1) - c**q / q).max() for q in range(1, len(c) + 1)]
    found += [abs(b @ c ** (q - 1) - 1 / q) for q in range(1, m.order + 1)]
    return float(max(found))


def splitting_defect(m: Collocation) -> float:
    """Largest entry of ``T**-1 A**-1 T - blocks``, beside the size of its terms."""
    with mpmath.workdps(50):
        inverse = mpmath.matrix(m.a) ** -1
        there, back = mpmath.matrix(m.transform), mpmath.matrix(m.transform_inverse)
        found = np.array((back * inverse * there - blocks(m)).tolist(), dtype=float)
        sizes = [np.abs(np.array(x.tolist(), dtype=float)) for x in (back, inverse, there)]
        identity = np.array((back * there - mpmath.eye(len(m.b))).tolist(), dtype=float)
    scale = np.maximum(1.0, sizes[0] @ sizes[1] @ sizes[2])
    around = np.maximum(1.0, sizes[0] @ sizes[2])
    return float(max((np.abs(found) / scale).max(), (np.abs(identity) / around).max()))


def blocks(m: Collocation) -> mpmath.matrix:
    """The block diagonal matrix of eigenvalues."""
    matrix = mpmath.zeros(len(m.b))
    for i, value in enumerate(m.inverse_real):
        matrix[i, i] = value
    starts = range(len(m.inverse_real), len(m.b), 2)
    for i, (alpha, beta) in zip(starts, m.inverse_pairs, strict=True):
        matrix[i, i] = matrix[i + 1, i + 1] = alpha
        matrix[i, i + 1], matrix[i + 1, i] = -beta, beta
    return matrix


def embedded_quadrature_defect(m: Collocation) -> float:
    """Defect of the order of the quadrature behind the error estimate, and of its filter."""
    if m.error is None or m.gamma0 is None or m.embedded_order is None:
        return 0.0
    b, c = quadrature(m), np.array(m.c)
    alpha, beta = m.inverse_pairs[0]
    expected = m.inverse_real[0] if m.inverse_real else (alpha**2 + beta**2) / alpha
    return abs(m.gamma0 - expected) + max(
        abs(float(b @ c ** (q - 1)) + (q == 1) / m.gamma0 - 1 / q)
        for q in range(1, m.embedded_order + 1)
    )


@pytest.mark.parametrize("name", NAMES)
def test_shapes(name: str) -> None:
    m = IMPLICIT[name]
    stages = len(m.b)
    assert m.name == name
    assert m.title
    assert m.source
    assert len(m.a) == len(m.c) == stages
    assert (m.error is None) == (m.embedded_order is None) == (m.controller == "fixed")
    assert m.error is None or len(m.error) == stages
    assert 0 < m.min_factor < 1 < m.max_factor
    assert 0 < m.safety <= 1
    if m.dense is not None:
        assert m.dense.source
        assert len(m.dense.weights) == stages
        assert len({len(row) for row in m.dense.weights}) == 1
        assert m.dense.extra_a == m.dense.extra_c == ()
    lengths = [len(row) for row in m.a]
    if isinstance(m, Rosenbrock):
        assert lengths == [len(row) for row in m.coupling] == list(range(stages))
        assert len(m.time_weights) == stages
    elif isinstance(m, DiagonallyImplicit):
        assert lengths == list(range(1, stages + 1))
        assert m.gamma > 0
    else:
        assert lengths == [stages] * stages
        assert len(m.inverse_real) + 2 * len(m.inverse_pairs) == stages


@pytest.mark.parametrize("name", NAMES)
def test_all_that_is_claimed_holds(name: str) -> None:
    assert defect(IMPLICIT[name]) < TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_order(name: str) -> None:
    m, k = IMPLICIT[name], CLASSICAL[name]
    assert k.conditions.residual(k.b, range(1, m.order + 1)) < TOLERANCE
    assert k.conditions.residual(k.b, range(m.order + 1, m.order + 2)) > 1e-8


@pytest.mark.parametrize("name", [name for name in ADAPTIVE if name not in COLLOCATION])
def test_error_estimate_has_its_order(name: str) -> None:
    m, k = IMPLICIT[name], CLASSICAL[name]
    assert m.embedded_order is not None
    first = m.embedded_order + 1
    assert k.conditions.largest(k.error(), range(1, first)) < TOLERANCE
    assert k.conditions.largest(k.error(), range(first, first + 1)) > 1e-3


@pytest.mark.parametrize(("name", "order"), [("rosenbrock23", 3), ("trbdf2", 3), ("rodas5p", 4)])
def test_embedded_methods_of_the_papers(name: str, order: int) -> None:
    k = CLASSICAL[name]
    assert k.conditions.residual(k.b - k.error(), range(1, order + 1)) < TOLERANCE


@pytest.mark.parametrize("name", ROSENBROCK)
def test_w_methods_are_those_that_say_so(name: str) -> None:
    m, k = ROSENBROCK[name], CLASSICAL[name]
    if m.w_method:
        assert k.w_residual(range(1, m.order + 1)) < TOLERANCE
    else:
        assert k.w_residual(range(1, m.order + 1)) > 1e-3


@pytest.mark.parametrize("name", DENSE)
def test_dense_order(name: str) -> None:
    m, k = IMPLICIT[name], CLASSICAL[name]
    assert m.dense is not None
    right, too_high = range(1, m.dense.order + 1), range(m.dense.order + 1, m.dense.order + 2)
    np.testing.assert_allclose(k.dense(1.0), k.b, 0, TOLERANCE)
    assert max(k.conditions.residual(k.dense(x), right, x) for x in THETAS) < TOLERANCE
    assert max(k.conditions.residual(k.dense(x), too_high, x) for x in THETAS) > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_stability(name: str) -> None:
    m, k = IMPLICIT[name], CLASSICAL[name]
    assert m.stability in ("A", "L")
    # Bounded on the imaginary axis and without poles to its left, thus in the left half-plane.
    assert np.linalg.eigvals(k.beta).real.min() >= 0
    axis = 1j * np.concatenate((np.linspace(0, 30, 1000), np.logspace(1.5, 5, 200)))
    assert max(abs(1 + k.stability(z, k.b)) for z in axis) < 1 + 1e-12
    far = abs(1 + k.stability(-1e7, k.b))
    assert far < 1e-5 if m.stability == "L" else 0.1 < far <= 1


@pytest.mark.parametrize("name", [name for name in DIAGONAL if DIAGONAL[name].error])
def test_estimates_that_want_a_filter_are_those_that_say_so(name: str) -> None:
    m, k = DIAGONAL[name], CLASSICAL[name]
    for z in (-1e4, -1e6):
        estimate = abs(k.stability(z, k.error()))
        assert estimate > 1e-2 * abs(z) if m.filtered else estimate < 5
        assert estimate / (1 - m.gamma * z) < 5


@pytest.mark.parametrize("name", DIAGONAL)
def test_properties_of_diagonal_methods(name: str) -> None:
    m = DIAGONAL[name]
    assert m.explicit_first == (name not in ("implicit_midpoint", "sdirk2"))
    assert m.stiffly_accurate == (name != "implicit_midpoint")


# What the codes and books print


def test_radau5_in_closed_form() -> None:
    m = COLLOCATION["radau_iia_5"]
    nine, cube = 9 ** (1 / 3), 81 ** (1 / 3)
    alpha, beta = (12 - cube + nine) / 60, (cube + nine) * 3**0.5 / 60
    size = alpha**2 + beta**2
    assert m.gamma0 == m.inverse_real[0] == pytest.approx(30 / (6 + cube - nine), rel=1e-14, abs=0)
    assert m.inverse_pairs[0] == pytest.approx((alpha / size, beta / size), rel=1e-14, abs=0)
    root = 6**0.5
    assert m.error == pytest.approx(
        ((-13 - 7 * root) / 3, (-13 + 7 * root) / 3, -1 / 3), rel=1e-14, abs=0
    )
    assert m.c[:2] == pytest.approx(((4 - root) / 10, (4 + root) / 10), rel=1e-15, abs=0)


def test_radau9_has_the_eigenvalues_of_the_code() -> None:
    m = COLLOCATION["radau_iia_9"]
    assert m.inverse_real == pytest.approx((6.286704751729276645173,), rel=1e-15, abs=0)
    expected = [
        (3.655694325463572258243, 6.543736899360077294021),
        (5.700953298671789419170, 3.210265600308549888425),
    ]
    for pair, known in zip(m.inverse_pairs, expected, strict=True):
        assert pair == pytest.approx(known, rel=1e-15, abs=0)


@pytest.mark.parametrize("name", [name for name in COLLOCATION if name.startswith("radau")])
def test_nodes_are_zeros_of_the_radau_polynomial(name: str) -> None:
    m = COLLOCATION[name]
    stages = len(m.c)
    with mpmath.workdps(40):
        for node in m.c:
            x = 2 * mpmath.mpf(node) - 1
            assert abs(mpmath.legendre(stages, x) - mpmath.legendre(stages - 1, x)) < 1e-14
    assert m.stiffly_accurate


@pytest.mark.parametrize("name", COLLOCATION)
def test_matrix_comes_apart(name: str) -> None:
    m = COLLOCATION[name]
    assert splitting_defect(m) < 1e-14
    assert all(beta > 0 for _, beta in m.inverse_pairs)


@pytest.mark.parametrize("name", COLLOCATION)
def test_polynomial_passes_through_the_stages(name: str) -> None:
    m = COLLOCATION[name]
    for i, node in enumerate(m.c):
        np.testing.assert_allclose(powers(m, node), np.eye(len(m.c))[i], 0, 1e-12)


def test_ros3p_and_rodas3_are_transformed_as_elsewhere() -> None:
    ros3p, rodas3 = ROSENBROCK["ros3p"], ROSENBROCK["rodas3"]
    # The digits of OrdinaryDiffEq.jl.
    inverse = 1 / (0.5 + 3**0.5 / 6)
    assert ros3p.coupling[1] == pytest.approx((-(inverse**2),), rel=1e-15, abs=0)
    assert ros3p.coupling[2] == pytest.approx((-(12**0.5), -(3**0.5)), rel=1e-15, abs=0)
    assert ros3p.time_weights == pytest.approx(
        (0.7886751345948129, -0.2113248654051871, -1.077350269189626), rel=1e-15, abs=0
    )
    assert np.subtract(ros3p.b, ros3p.error) == pytest.approx(
        (2.113248654051871, 1.0, 0.4226497308103742), rel=1e-15, abs=0
    )
    assert rodas3.a == ((), (0.0,), (2.0, 0.0), (2.0, 0.0, 1.0))
    assert rodas3.coupling == ((), (4.0,), (1.0, -1.0), (1.0, -1.0, -8 / 3))
    assert rodas3.b == (2.0, 0.0, 1.0, 1.0)
    assert rodas3.error == (0.0, 0.0, 0.0, 1.0)


def test_rosenbrock23_is_ode23s() -> None:
    """One step as L. F. Shampine and M. W. Reichelt (1997) write it, section 4.1."""
    h, t, y = 0.1, 0.3, START
    d, e = 1 / (2 + 2**0.5), 6 + 2**0.5
    w = np.eye(2) - h * d * jacobian(t, y)
    k1 = np.linalg.solve(w, right(t, y) + h * d * time_derivative(t, y))
    middle = right(t + h / 2, y + h / 2 * k1)
    k2 = np.linalg.solve(w, middle - k1) + k1
    new = y + h * k2
    last = right(t + h, new) - e * (k2 - middle) - 2 * (k1 - right(t, y))
    k3 = np.linalg.solve(w, last + h * d * time_derivative(t, y))
    m = ROSENBROCK["rosenbrock23"]
    found, u = step(m, t, y, h)
    np.testing.assert_allclose(found, new, 0, 1e-15)
    np.testing.assert_allclose(-np.array(m.error) @ u, h / 6 * (k1 - 2 * k2 + k3), 0, 1e-16)
    for x in THETAS:
        theirs = h * (x * (1 - x) * k1 + x * (x - 2 * d) * k2) / (1 - 2 * d)
        np.testing.assert_allclose(powers(m, x) @ u, theirs, 0, 1e-15)


# The checks above notice one wrong coefficient


SCALARS = ("gamma", "gamma0")
FIELDS = (
    *("a", "b", "c", "coupling", "time_weights", "error", "inverse_real", "inverse_pairs"),
    *("transform", "transform_inverse"),
)


def changes(m: Implicit, by: float) -> Iterator[tuple[str, Implicit]]:
    """Every method that differs from `m` in one coefficient that is not zero."""
    for name in SCALARS:
        value = getattr(m, name, None)
        if value is not None and not isinstance(m, DiagonallyImplicit):
            yield name, evolve(m, **{name: value + by})
    for name in FIELDS:
        if getattr(m, name, None):
            for where, table in shifted(getattr(m, name), by):
                yield f"{name}{where}", evolve(m, **{name: table})
    if m.dense is not None:
        for where, table in shifted(m.dense.weights, by):
            yield f"dense{where}", evolve(m, dense=evolve(m.dense, weights=table))


def shifted(table: Any, by: float) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Every copy of `table` in which one number that is not zero is shifted."""
    for i, entry in enumerate(table):
        if isinstance(entry, tuple):
            for (j, *_), row in shifted(entry, by):
                yield (i, j), (*table[:i], row, *table[i + 1 :])
        elif entry:
            yield (i,), (*table[:i], entry + by, *table[i + 1 :])


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_coefficient_is_noticed(name: str) -> None:
    m = IMPLICIT[name]
    missed = [where for where, wrong in changes(m, 1e-9) if defect(wrong) < 2e-12]
    # Any multiple of the last stage can be added to this estimate, the other one of rodas5p.
    assert missed == (["error(7,)"] if name == "rodas5pe" else [])


@pytest.mark.parametrize("name", [name for name in NAMES if len(IMPLICIT[name].b) > 2])
def test_a_wrong_row_that_still_adds_up_is_noticed(name: str) -> None:
    m = IMPLICIT[name]
    k = Classical(m)
    row = np.zeros(len(m.b))
    row[[0, len(m.a[-1]) - 2]] = 1e-6, -1e-6
    if isinstance(m, Rosenbrock):
        row = np.array([*row[:-1], 0.0]) @ np.linalg.inv(k.gamma)
    rows = [list(line) for line in m.a]
    rows[-1] = [x + dx for x, dx in zip(rows[-1], row, strict=False)]
    assert defect(evolve(m, a=tuple(map(tuple, rows)))) > 1e-9


# Convergence on a problem that is neither linear nor autonomous, solved by exp(sin(t)), 1/(1 + t)


START = np.array([1.0, 1.0])


def solution(t: float) -> Array:
    return np.array([np.exp(np.sin(t)), 1 / (1 + t)])


def right(t: float, y: Array) -> Array:
    x, z = y
    return np.array(
        [np.cos(t) * x + x * (z * (1 + t) - 1), -(z**2) + 0.5 * (x**2 - np.exp(2 * np.sin(t)))]
    )


def jacobian(t: float, y: Array) -> Array:
    x, z = y
    return np.array([[np.cos(t) + z * (1 + t) - 1, x * (1 + t)], [x, -2 * z]])


def time_derivative(t: float, y: Array) -> Array:
    x, z = y
    return np.array([-np.sin(t) * x + x * z, -np.cos(t) * np.exp(2 * np.sin(t))])


def step(
    m: Implicit, t: float, y: Array, h: float, exact: bool = True, mass: Array | None = None
) -> tuple[Array, Array]:
    """Return the new state and what the stages compute, as the method documents it.

    With a `mass` matrix the problem is multiplied by it, which should change nothing. Without
    `exact` derivatives a Rosenbrock method takes other ones.
    """
    if isinstance(m, Rosenbrock):
        mass = np.eye(len(y)) if mass is None else mass
        j, slope = mass @ jacobian(t, y), mass @ time_derivative(t, y)
        if not exact:
            j, slope = 0.3 * j - np.eye(len(y)), 0 * slope
        u = np.zeros((len(m.b), len(y)))
        for i, (a, coupling) in enumerate(zip(m.a, m.coupling, strict=True)):
            known = mass @ right(t + m.c[i] * h, y + np.array(a) @ u[:i])
            known += mass @ (np.array(coupling) @ u[:i]) / h + h * m.time_weights[i] * slope
            u[i] = np.linalg.solve(mass / (h * m.gamma) - j, known)
        return y + np.array(m.b) @ u, u
    a, times = square(m.a), t + h * np.array(m.c)
    k = np.array([right(time, y) for time in times])
    for _ in range(30):
        states = y + h * a @ k
        wrong = k - [right(time, state) for time, state in zip(times, states, strict=True)]
        inner = np.array([jacobian(*pair) for pair in zip(times, states, strict=True)])
        whole = np.eye(k.size) - h * np.einsum("ipq,ij->ipjq", inner, a).reshape(k.size, k.size)
        change = np.linalg.solve(whole, wrong.ravel()).reshape(k.shape)
        k = k - change
        if np.abs(change).max() < 1e-14:
            break
    new = y + h * np.array(m.b) @ k
    return new, h * a @ k if isinstance(m, Collocation) else h * k


def estimate(m: Implicit, t: float, y: Array, h: float) -> Array:
    """The error estimate, as the method documents it."""
    _, stages = step(m, t, y, h)
    change = np.array(m.error) @ stages
    if not isinstance(m, Collocation):
        return np.asarray(change)
    assert m.gamma0 is not None
    matrix = m.gamma0 / h * np.eye(len(y)) - jacobian(t, y)
    return np.linalg.solve(matrix, right(t, y) + change / h)


def errors_of(m: Implicit, exact: bool = True) -> list[float]:
    first = {1: 64, 2: 32, 3: 32, 4: 24, 5: 8, 9: 1}[m.order]
    found = []
    for steps in (first, 2 * first, 4 * first):
        y, h, worst = START, 1.0 / steps, 0.0
        for i in range(steps):
            y = step(m, i * h, y, h, exact)[0]
            worst = max(worst, float(np.abs(y - solution((i + 1) * h)).max()))
        found.append(worst)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_convergence(name: str) -> None:
    m = IMPLICIT[name]
    assert slope_of(errors_of(m)) == pytest.approx(m.order, abs=0.4)


@pytest.mark.parametrize("name", [name for name in ROSENBROCK if ROSENBROCK[name].w_method])
def test_w_methods_converge_with_a_wrong_jacobian(name: str) -> None:
    m = ROSENBROCK[name]
    assert slope_of(errors_of(m, exact=False)) == pytest.approx(m.order, abs=0.4)


def test_other_methods_lose_order_with_a_wrong_jacobian() -> None:
    assert slope_of(errors_of(ROSENBROCK["rodas4"], exact=False)) < 2.5


@pytest.mark.parametrize("name", ROSENBROCK)
def test_a_mass_matrix_changes_nothing(name: str) -> None:
    mass = np.array([[2.0, 1.0], [-1.0, 3.0]])
    plain, _ = step(ROSENBROCK[name], 0.3, START, 0.1)
    massive, _ = step(ROSENBROCK[name], 0.3, START, 0.1, mass=mass)
    np.testing.assert_allclose(massive, plain, 0, 1e-13)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_error_estimate_shrinks_as_stated(name: str) -> None:
    m = IMPLICIT[name]
    assert m.embedded_order is not None
    # At the start of the trajectory itself: off it, h**k has another factor.
    sizes = (0.1, 0.05, 0.025) if m.embedded_order < 5 else (0.2, 0.1, 0.05)
    found = [float(np.linalg.norm(estimate(m, 0.5, solution(0.5), h))) for h in sizes]
    assert slope_of(found) == pytest.approx(m.embedded_order + 1, abs=0.5)


def test_radau3_can_spare_the_matrix_of_its_estimate() -> None:
    m = COLLOCATION["radau_iia_3"]
    (alpha, beta), found = m.inverse_pairs[0], []
    for h in (0.1, 0.05, 0.025):
        y = solution(0.5)
        known = right(0.5, y) + np.array(m.error) @ step(m, 0.5, y, h)[1] / h
        matrix = complex(alpha, beta) / h * np.eye(2) - jacobian(0.5, y)
        found.append(float(np.linalg.norm(np.linalg.solve(matrix, known).real)))
    assert slope_of(found) == pytest.approx(3, abs=0.5)


@pytest.mark.parametrize("name", DENSE)
def test_dense_convergence(name: str) -> None:
    m = IMPLICIT[name]
    assert m.dense is not None
    # A collocation polynomial also starts the next step.
    thetas = (*THETAS, 1.6) if isinstance(m, Collocation) else THETAS
    found = []
    for h in (0.2, 0.1, 0.05):
        y = solution(0.5)
        _, stages = step(m, 0.5, y, h)
        between = [y + powers(m, x) @ stages - solution(0.5 + x * h) for x in thetas]
        found.append(float(np.abs(between).max()))
    assert slope_of(found) == pytest.approx(m.dense.order + 1, abs=0.5)


# Lookup


def test_lookup() -> None:
    assert list(METHODS) == [
        *TABLEAUS, *TAYLOR, *ROSENBROCK, *DIAGONAL, *COLLOCATION, *MULTISTEP,
    ]  # fmt: skip
    assert len(METHODS) == 38
    assert all(method(name) is known for name, known in METHODS.items())
    with pytest.raises(FlowError, match=r"algorithm is 'rodas5'; .*did you mean 'rodas5p'\?"):
        method("rodas5")
    with pytest.raises(FlowError, match="stability is 'B'"):
        evolve(method("rodas4"), stability="B")
