"""Diagonally implicit Runge-Kutta methods: one stage is solved for after the other.

HW is E. Hairer and G. Wanner, Solving Ordinary Differential Equations II, 2nd revised edition,
Springer 1996; HNW is E. Hairer, S. P. Norsett and G. Wanner, Solving Ordinary Differential
Equations I, 2nd edition, Springer 1993.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from attrs import frozen

from cubie_flow.integrators.tableaus.definition import (
    Dense,
    Method,
    Row,
    Rows,
    difference,
    exact,
    hermite,
    root,
    row,
    rows,
)


@frozen(kw_only=True)
class DiagonallyImplicit(Method):
    """A Runge-Kutta method whose implicit stages share one diagonal coefficient.

    ``k_i = f(t + c_i*h, y + h*sum_j(a_ij * k_j))`` for ``j <= i``, ``y1 = y + h*sum_i(b_i * k_i)``
    and the error ``h*sum_i(error_i * k_i)``.

    Parameters
    ----------
    a : tuple of tuple of float
        Row ``i`` holds the weights of stages ``0 .. i``, the diagonal last; zero there only for an
        explicit first stage.
    b, c : tuple of float, shape (stages,)
        Weights and nodes.
    error : tuple of float, shape (stages,), optional
        ``b - b_hat``.
    filtered : bool
        The error grows without bound on stiff components, ``J`` being large, and wants
        multiplying by ``inverse(M - h*gamma*J) M`` (M. E. Hosea and L. F. Shampine, 1996; HW
        section IV.8).
    dense : Dense, optional
        Continuous extension over the stages alone.
    """

    a: Rows
    b: Row
    c: Row
    error: Row | None = None
    filtered: bool = False

    @property
    def gamma(self) -> float:
        """The diagonal of the implicit stages."""
        return self.a[-1][-1]

    @property
    def explicit_first(self) -> bool:
        """Whether the first stage is the derivative at the start of the step."""
        return self.a[0][0] == 0.0

    @property
    def stiffly_accurate(self) -> bool:
        """Whether the last stage is the end of the step, and its derivative the next start."""
        return self.a[-1] == self.b and self.c[-1] == 1.0


def _rounded(values: Sequence[Fraction]) -> Row:
    return tuple(map(float, values))


def _cubic(b: Sequence[Fraction]) -> Dense:
    """Return cubic Hermite interpolation from an explicit first to a stiffly accurate last stage.

    The derivative at the end is the last stage, not one more.
    """
    full = hermite(" ".join(map(str, b)), order=3, source="Cubic Hermite interpolation").weights
    last = tuple(x + y for x, y in zip(full[-2], full[-1], strict=True))
    return Dense(
        (*full[:-2], last), order=3, source="Cubic Hermite interpolation (HNW section II.6)"
    )


BACKWARD_EULER = DiagonallyImplicit(
    name="backward_euler",
    title="Backward Euler, with the trapezoidal rule as error estimate",
    order=1,
    embedded_order=1,
    stability="L",
    a=rows("0; 0 1;"),
    b=row("0 1"),
    c=row("0 1"),
    error=difference("0 1", "1/2 1/2"),
    filtered=True,
    dense=Dense(((0.0,), (1.0,)), order=1, source="The line through both ends"),
    source="HW section IV.3; the first stage serves only the estimate",
    controller="gustafsson",
    max_factor=8.0,
)

IMPLICIT_MIDPOINT = DiagonallyImplicit(
    name="implicit_midpoint",
    title="Implicit midpoint rule (Gauss, one stage)",
    order=2,
    stability="A",
    a=rows("1/2;"),
    b=row("1"),
    c=row("1/2"),
    source="HW section IV.5, table 5.1",
)

_SLOPES = Dense(
    ((1.0, -0.5), (0.0, 0.5)),
    order=2,
    source="The parabola with the slopes of both ends, as ntrp23t of MATLAB's ode23t",
)
TRAPEZOID = DiagonallyImplicit(
    name="trapezoid",
    title="Trapezoidal rule, fixed step",
    order=2,
    stability="A",
    a=rows("0; 1/2 1/2;"),
    b=row("1/2 1/2"),
    c=row("0 1"),
    dense=_SLOPES,
    source="HW section IV.3",
)

CRANK_NICOLSON = DiagonallyImplicit(
    name="crank_nicolson",
    title="Trapezoidal rule (Crank-Nicolson), with backward Euler as error estimate",
    order=2,
    embedded_order=1,
    stability="A",
    a=rows("0; 1/2 1/2;"),
    b=row("1/2 1/2"),
    c=row("0 1"),
    error=difference("1/2 1/2", "0 1"),
    filtered=True,
    dense=_SLOPES,
    source="J. Crank and P. Nicolson, A practical method for numerical evaluation of solutions of "
    "partial differential equations of the heat-conduction type, Proc. Camb. Phil. Soc. 43, "
    "50-67 (1947)",
    controller="gustafsson",
    max_factor=8.0,
)

# Bank et al. write gamma for the node 2 - sqrt(2), Hosea and Shampine d and w for these.
_TR_D = 1 - root(2) / 2
_TR_W = root(2) / 4
# The parabola through y, the stage at 2*d and y1: y + h*(l1*(k1 + k2)*d + l2*(w*(k1 + k2) + d*k3))
# with Lagrange's l1 = theta*(theta - 1)/(2*d*(2*d - 1)) and l2 = theta*(theta - 2*d)/(1 - 2*d).
_TR_MIDDLE = (1 / (2 * (1 - 2 * _TR_D)), -1 / (2 * (1 - 2 * _TR_D)))
_TR_END = (-2 * _TR_D / (1 - 2 * _TR_D), 1 / (1 - 2 * _TR_D))
_TR_FIRST = _rounded([x + _TR_W * y for x, y in zip(_TR_MIDDLE, _TR_END, strict=True)])
TRBDF2 = DiagonallyImplicit(
    name="trbdf2",
    title="TR-BDF2 (ode23tb)",
    order=2,
    embedded_order=2,
    stability="L",
    a=((0.0,), _rounded([_TR_D, _TR_D]), _rounded([_TR_W, _TR_W, _TR_D])),
    b=_rounded([_TR_W, _TR_W, _TR_D]),
    c=_rounded([Fraction(0), 2 * _TR_D, Fraction(1)]),
    # b_hat = ((1 - w)/3, (3*w + 1)/3, d/3), of third order.
    error=_rounded([(4 * _TR_W - 1) / 3, Fraction(-1, 3), 2 * _TR_D / 3]),
    filtered=True,
    dense=Dense(
        (_TR_FIRST, _TR_FIRST, _rounded([_TR_D * x for x in _TR_END])),
        order=2,
        source="The parabola through the start, the stage and the end, as ntrp23tb of MATLAB's "
        "ode23tb",
    ),
    source="R. E. Bank et al., Transient simulation of silicon devices and circuits, IEEE Trans. "
    "CAD 4, 436-451 (1985); error estimate of M. E. Hosea and L. F. Shampine, Analysis and "
    "implementation of TR-BDF2, Appl. Numer. Math. 20, 21-37 (1996)",
    controller="gustafsson",
    max_factor=8.0,
)

_ALEXANDER = 1 - root(2) / 2
_ALEXANDER_B = _rounded([1 - _ALEXANDER, _ALEXANDER])
_ALEXANDER_END = (-_ALEXANDER / (1 - _ALEXANDER), 1 / (2 * (1 - _ALEXANDER)))
SDIRK2 = DiagonallyImplicit(
    name="sdirk2",
    title="SDIRK2 of Alexander, two stages, second order",
    order=2,
    embedded_order=1,
    stability="L",
    a=(_rounded([_ALEXANDER]), _ALEXANDER_B),
    b=_ALEXANDER_B,
    c=_rounded([_ALEXANDER, Fraction(1)]),
    # Two stages allow an embedded method of first order: here y + h*k1.
    error=_rounded([-_ALEXANDER, _ALEXANDER]),
    dense=Dense(
        (
            _rounded([1 - _ALEXANDER_END[0], -_ALEXANDER_END[1]]),
            _rounded(_ALEXANDER_END),
        ),
        order=2,
        source="The one parabola that meets the order conditions up to two",
    ),
    source="R. Alexander, Diagonally implicit Runge-Kutta methods for stiff ODEs, SIAM J. Numer. "
    "Anal. 14, 1006-1021 (1977); the estimate compares with its first stage",
    controller="gustafsson",
    max_factor=8.0,
)

# The middle root of 6*x**3 - 18*x**2 + 9*x - 1 (HW section IV.6), which the paper rounds to
# 0.4358665215; its other coefficients follow.
_KV3 = Fraction("0.43586652150845899941601945119355684252965997637217")
_KV3_ROWS = [
    [Fraction(0)],
    [_KV3, _KV3],
    [(-4 * _KV3**2 + 6 * _KV3 - 1) / (4 * _KV3), (1 - 2 * _KV3) / (4 * _KV3), _KV3],
    [
        (6 * _KV3 - 1) / (12 * _KV3),
        -1 / ((24 * _KV3 - 12) * _KV3),
        (-6 * _KV3**2 + 6 * _KV3 - 1) / (6 * _KV3 - 3),
        _KV3,
    ],
]
KVAERNO3 = DiagonallyImplicit(
    name="kvaerno3",
    title="Kvaerno 3(2)",
    order=3,
    embedded_order=2,
    stability="L",
    a=tuple(map(_rounded, _KV3_ROWS)),
    b=_rounded(_KV3_ROWS[-1]),
    c=_rounded([Fraction(0), 2 * _KV3, Fraction(1), Fraction(1)]),
    error=_rounded(
        [x - y for x, y in zip(_KV3_ROWS[3], [*_KV3_ROWS[2], Fraction(0)], strict=True)]
    ),
    dense=_cubic(_KV3_ROWS[-1]),
    source="A. Kvaerno, Singly diagonally implicit Runge-Kutta methods with an explicit first "
    "stage, BIT 44, 489-502 (2004), ESDIRK 3/2 with the last stage advanced",
    controller="gustafsson",
    max_factor=8.0,
)

_KV5_HAT = """
    0.13855640231268224 0 -0.04245337201752043 0.02446657898003141 0.61943039072480676 0.26
"""
_KV5_B = """
    0.13659751177640291 0 -0.05496908796538376 -0.04118626728321046 0.62993304899016403
    0.06962479448202728 0.26
"""
KVAERNO5 = DiagonallyImplicit(
    name="kvaerno5",
    title="Kvaerno 5(4)",
    order=5,
    embedded_order=4,
    stability="L",
    a=rows(f"""
        0; 0.26 0.26; 0.13 0.84033320996790809 0.26;
        0.22371961478320505 0.47675532319799699 -0.06470895363112615 0.26;
        0.16648564323248321 0.10450018841591720 0.03631482272098715 -0.13090704451073998 0.26;
        {_KV5_HAT}; {_KV5_B};
    """),
    b=row(_KV5_B),
    c=row("0 0.52 1.230333209967908 0.895765984350076 0.436393609858648 1 1"),
    error=difference(_KV5_B, _KV5_HAT),
    dense=_cubic(exact(_KV5_B)),
    source="A. Kvaerno, Singly diagonally implicit Runge-Kutta methods with an explicit first "
    "stage, BIT 44, 489-502 (2004), ESDIRK 5/4 with the last stage advanced; digits as in "
    "OrdinaryDiffEq.jl",
    controller="gustafsson",
    max_factor=8.0,
)

_KC4_B = "82889/524892 0 15625/83664 69875/102672 -2260/8211 1/4"
KENCARP4 = DiagonallyImplicit(
    name="kencarp4",
    title="Kennedy-Carpenter 4(3), implicit part of ARK4(3)6L[2]SA",
    order=4,
    embedded_order=3,
    stability="L",
    a=rows(f"""
        0; 1/4 1/4; 8611/62500 -1743/31250 1/4; 5012029/34652500 -654441/2922500 174375/388108 1/4;
        15267082809/155376265600 -71443401/120774400 730878875/902184768 2285395/8070912 1/4;
        {_KC4_B};
    """),
    b=row(_KC4_B),
    c=row("0 1/2 83/250 31/50 17/20 1"),
    error=difference(
        _KC4_B,
        """
        4586570599/29645900160 0 178811875/945068544 814220225/1159782912 -3700637/11593932
        61727/225920
        """,
    ),
    dense=Dense(
        rows("""
            6943876665148/7220017795957 -54480133/30881146 6818779379841/7100303317025; 0 0 0;
            7640104374378/9702883013639 -11436875/14766696 2173542590792/12501825683035;
            -20649996744609/7521556579894 174696575/18121608 -31592104683404/5083833661969;
            8854892464581/2390941311638 -12120380/966161 61146701046299/7138195549469;
            -11397109935349/6675773540249 3843/706 -17219254887155/4939391667607;
        """),
        order=3,
        source="C. A. Kennedy and M. H. Carpenter (2003), appendix; digits as in PETSc",
    ),
    source="C. A. Kennedy and M. H. Carpenter, Additive Runge-Kutta schemes for "
    "convection-diffusion-reaction equations, Appl. Numer. Math. 44, 139-181 (2003), appendix",
    controller="gustafsson",
    max_factor=8.0,
)

METHODS = (
    BACKWARD_EULER,
    IMPLICIT_MIDPOINT,
    TRAPEZOID,
    CRANK_NICOLSON,
    TRBDF2,
    SDIRK2,
    KVAERNO3,
    KENCARP4,
    KVAERNO5,
)
