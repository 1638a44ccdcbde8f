"""The definition of methods, and the conversion of coefficients from the literature."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import isqrt

from attrs import field, frozen

from cubie_flow.errors import one_of

Row = tuple[float, ...]
Rows = tuple[Row, ...]


@frozen
class Dense:
    """Continuous extension of a step.

    ``y(t + theta*h) = y + h * sum(b_i(theta) * k_i)`` for ``0 <= theta <= 1``, where the
    ``k_i`` are the stages, then the derivative at the end of the step, then the extra stages.

    Parameters
    ----------
    weights : tuple of tuple of float, shape (stages + 1 + extra, degree)
        Coefficients of ``theta**1 .. theta**degree`` of ``b_i``.
    order : int
        Order of the polynomial at every ``theta``.
    source : str
        Source of the coefficients.
    extra_a : tuple of tuple of float
        One row per extra stage: weights of all ``k_i`` before it.
    extra_c : tuple of float
        Nodes of the extra stages.
    """

    weights: Rows
    order: int
    source: str
    extra_a: Rows = ()
    extra_c: Row = ()


@frozen(kw_only=True)
class Method:
    """A method: its name, its order, and suitable settings of step control.

    Parameters
    ----------
    name, title : str
        Name in configurations, and name in reports.
    order : int
        Order of the solution that is advanced.
    source : str
        Source of the coefficients.
    embedded_order : int, optional
        The error estimate of one step is ``O(h**(embedded_order + 1))``.
    stability : {'', 'A', 'L'}
        The stability function is bounded by one in the left half-plane (A) and vanishes at
        infinity too (L).
    controller : {'fixed', 'i', 'pi', 'pid', 'gustafsson'}
        Default step controller; ``fixed`` without an error estimate.
    gains : tuple of float, shape (3,)
        ``beta`` of ``factor = safety * err_n**(-beta1/k) * err_(n-1)**(-beta2/k) *
        err_(n-2)**(-beta3/k)``, with ``k = embedded_order + 1`` and errors 1 at tolerance.
    safety, min_factor, max_factor : float
        Safety factor, and bounds of the change of step size.
    dense : Dense, optional
        Continuous extension, if the literature gives one.
    """

    name: str
    title: str
    order: int
    source: str
    embedded_order: int | None = None
    stability: str = field(default="", validator=one_of("", "A", "L"))
    controller: str = field(
        default="fixed", validator=one_of("fixed", "i", "pi", "pid", "gustafsson")
    )
    gains: tuple[float, float, float] = (1.0, 0.0, 0.0)
    safety: float = 0.9
    min_factor: float = 0.2
    max_factor: float = 5.0
    dense: Dense | None = None

    @property
    def continuous(self) -> bool:
        """Whether the solution is also known inside a step."""
        return self.dense is not None

    @property
    def interpolated_order(self) -> int:
        """Order of the values within a step that equations with delays read.

        Without a continuous extension these are on the cubic through both ends and their
        derivatives (Hermite).
        """
        return 3 if self.dense is None else self.dense.order

    @property
    def interpolated_degree(self) -> int:
        """Degree of the polynomial that gives these values."""
        return 3 if self.dense is None else max(map(len, self.dense.weights))


@frozen(kw_only=True)
class Tableau(Method):
    """An explicit Runge-Kutta method and the step control its authors recommend.

    The derivative at the end of a step is always evaluated and becomes the first stage of the
    next, so a first-same-as-last method has no row for it in ``a``.

    Parameters
    ----------
    a : tuple of tuple of float
        Row ``i`` holds the weights of stages ``0 .. i - 1``.
    b, c : tuple of float, shape (stages,)
        Weights and nodes.
    error : tuple of float, shape (stages,) or (stages + 1,), optional
        ``b - b_hat``; the last of ``stages + 1`` belongs to the derivative at the end.
    error3 : tuple of float, optional
        A second estimate, of lower order. With the scaled norms ``err5`` of ``error`` and
        ``err3`` of ``error3`` over ``n`` states (sums of squares, not means), the error is
        ``abs(h) * err5**2 / sqrt((err5**2 + 0.01 * err3**2) * n)`` (DOP853).
    dense : Dense, optional
        Continuous extension, if the literature gives one.
    """

    a: Rows
    b: Row
    c: Row
    error: Row | None = None
    error3: Row | None = None


def exact(text: str) -> list[Fraction]:
    """Return the numbers of `text`, rationals or decimals separated by spaces."""
    return [Fraction(word) for word in text.split()]


def root(number: int) -> Fraction:
    """Return the square root of `number` to fifty digits."""
    scale = 10**50
    return Fraction(isqrt(number * scale**2), scale)


def row(text: str) -> Row:
    """Return the numbers of `text`, each rounded once."""
    return tuple(map(float, exact(text)))


def rows(text: str) -> Rows:
    """Return the rows of `text`; a semicolon ends each row."""
    return tuple(row(line) for line in text.split(";")[:-1])


def difference(b: str, b_hat: str) -> Row:
    """Return ``b - b_hat``, rounded once; zeros extend the shorter one."""
    high, low = exact(b), exact(b_hat)
    size = max(len(high), len(low))
    high += [Fraction(0)] * (size - len(high))
    low += [Fraction(0)] * (size - len(low))
    return tuple(float(x - y) for x, y in zip(high, low, strict=True))


def hermite(
    b: str,
    order: int,
    source: str,
    corrections: str = "",
    extra_a: str = "",
    extra_c: str = "",
) -> Dense:
    """Return cubic Hermite interpolation of a step, with a higher order by `corrections`.

    With ``f0``, ``f1`` the derivatives at both ends and ``dy = sum(b_i * k_i)``, Hairer's nested
    form is ``y + h*theta*(dy + (1-theta)*(f0 - dy + theta*(2*dy - f0 - f1 + (1-theta)*(d1 +
    theta*(d2 + ...)))))`` (E. Hairer, S. P. Norsett and G. Wanner, Solving Ordinary Differential
    Equations I, 2nd ed. 1993, section II.6; functions contd5 of dopri5.f, contd8 of dop853.f).
    It is continuously differentiable across steps for all corrections.

    Parameters
    ----------
    b : str
        Weights of the step.
    order : int
        Order of the interpolation.
    source : str
        Source of the corrections.
    corrections : str
        One row per ``d1, d2, ..``: weights of all ``k_i``.
    extra_a, extra_c : str
        Rows and nodes of the extra stages.
    """
    extra = rows(extra_a)
    advance = exact(b)
    end = len(advance)
    size = end + 1 + len(extra)
    advance += [Fraction(0)] * (size - end)
    levels = [
        advance,
        [(i == 0) - advance[i] for i in range(size)],
        [2 * advance[i] - (i == 0) - (i == end) for i in range(size)],
        *(exact(line) for line in corrections.split(";")[:-1]),
    ]
    weights = tuple(_expand([level[i] for level in levels]) for i in range(size))
    return Dense(weights, order, source, extra, row(extra_c))


def _expand(levels: Sequence[Fraction]) -> Row:
    """Return the coefficients of theta**1, theta**2, .. of the nested form of `levels`."""
    zero = Fraction(0)
    total = [zero]
    for depth in reversed(range(len(levels))):
        total[0] += levels[depth]
        shifted = [zero, *total]
        if depth % 2 == 0:
            total = shifted
        else:
            total = [x - y for x, y in zip([*total, zero], shifted, strict=True)]
    return tuple(map(float, total[1:]))
