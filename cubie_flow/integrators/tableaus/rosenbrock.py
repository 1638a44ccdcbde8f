"""Rosenbrock-Wanner methods: one Jacobian, one matrix and no iteration per step.

HW is E. Hairer and G. Wanner, Solving Ordinary Differential Equations II, 2nd revised edition,
Springer 1996. The literature writes a method with increments ``k``,

    ``k_i = h*f(t + alpha_i*h, y + sum_j(alpha_ij*k_j)) + h*J*sum_j(gamma_ij*k_j)
    + h**2*gamma_i*df/dt``,    ``y1 = y + sum_i(b_i*k_i)``,

which costs products with the Jacobian ``J``. They vanish in the variables ``u_i =
sum_j(gamma_ij*k_j)``, and :class:`Rosenbrock` holds coefficients for these (HW section IV.7).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import TypedDict

from attrs import evolve, frozen

from cubie_flow.integrators.tableaus.definition import (
    Dense,
    Method,
    Row,
    Rows,
    exact,
    root,
    row,
    rows,
)


@frozen(kw_only=True)
class Rosenbrock(Method):
    """A Rosenbrock method in the form without products with the Jacobian.

    With mass matrix ``M``, Jacobian ``J`` and ``df/dt`` at the start of the step, the stages are

        ``(M/(h*gamma) - J) * u_i = f(t + c_i*h, y + sum_j(a_ij * u_j))
        + M * sum_j(coupling_ij * u_j) / h + h * time_weights_i * df/dt``

    and ``y1 = y + sum_i(b_i * u_i)`` with the error ``sum_i(error_i * u_i)`` (HW eq. IV.7.25).

    Parameters
    ----------
    gamma : float
        The diagonal of the classical coefficients ``gamma_ij``.
    a, coupling : tuple of tuple of float
        Row ``i`` holds the weights of stages ``0 .. i - 1``.
    b, c, time_weights : tuple of float, shape (stages,)
        Weights, nodes, and weights of ``df/dt``.
    error : tuple of float, shape (stages,)
        ``b - b_hat``.
    dense : Dense, optional
        ``weights`` of ``w_i`` in ``y(t + theta*h) = y + sum_i(w_i(theta) * u_i)``, without a
        factor ``h``; one row per stage.
    w_method : bool
        Whether the order holds for any matrix in place of ``J``, and without ``df/dt``.
    trapezoidal : bool
        Whether the error also contains the difference from the trapezoidal rule, filtered by one
        more solution of the linear system (L. F. Shampine, Implementation of implicit formulas
        for the solution of ODEs, SIAM J. Sci. Stat. Comput. 1, 103-118, 1980). It is for methods
        whose embedded error vanishes for linear equations.
    """

    gamma: float
    a: Rows
    coupling: Rows
    b: Row
    c: Row
    time_weights: Row
    error: Row
    w_method: bool = False
    trapezoidal: bool = False


class Coefficients(TypedDict):
    """The fields of a :class:`Rosenbrock` that follow from the classical coefficients."""

    gamma: float
    a: Rows
    coupling: Rows
    b: Row
    c: Row
    time_weights: Row
    error: Row


Exact = Sequence[Fraction]


def transformed(
    alpha: Sequence[Exact], gamma: Sequence[Exact], b: Exact, b_hat: Exact
) -> Coefficients:
    """Return the fields of a method from its classical coefficients, each rounded once.

    Parameters
    ----------
    alpha : sequence of sequence of Fraction
        Row ``i`` has ``i`` entries.
    gamma : sequence of sequence of Fraction
        Row ``i`` has ``i + 1`` entries; those on the diagonal are equal.
    b, b_hat : sequence of Fraction
        Weights of the step and of the embedded method.
    """
    diagonal = gamma[0][0]
    inverse = _inverse(gamma)
    return {
        "gamma": float(diagonal),
        "a": tuple(_rounded(_times(line, inverse, i)) for i, line in enumerate(alpha)),
        "coupling": tuple(tuple(-float(x) for x in line[:-1]) for line in inverse),
        "b": _rounded(_times(b, inverse, len(b))),
        "c": _rounded([sum(line, Fraction(0)) for line in alpha]),
        "time_weights": _rounded([sum(line, Fraction(0)) for line in gamma]),
        "error": _rounded(_times([x - y for x, y in zip(b, b_hat, strict=True)], inverse, len(b))),
    }


def _inverse(lower: Sequence[Exact]) -> list[list[Fraction]]:
    """Return the inverse of a lower triangular matrix, by rows up to the diagonal."""
    inverse: list[list[Fraction]] = []
    for i, line in enumerate(lower):
        below = _times(line[:i], inverse, i)
        inverse.append([-x / line[i] for x in below] + [1 / line[i]])
    return inverse


def _times(weights: Exact, lower: Sequence[Exact], size: int) -> list[Fraction]:
    """Return the first `size` entries of ``weights @ lower``."""
    return [
        sum((weights[i] * lower[i][j] for i in range(j, size)), Fraction(0)) for j in range(size)
    ]


def _rounded(values: Exact) -> Row:
    return tuple(map(float, values))


def _exact_rows(text: str) -> list[list[Fraction]]:
    return [exact(line) for line in text.split(";")[:-1]]


def nested(b: str, corrections: str, order: int, source: str) -> Dense:
    """Return the dense output of the Rodas family.

    ``(1 - theta)*y + theta*(y1 + (1 - theta)*(d1 + theta*(d2 + theta*d3 + ..)))`` with a row of
    weights of the ``u_i`` in `corrections` for each of ``d1, d2, ..`` (function contro of
    rodas.f).

    Parameters
    ----------
    b : str
        Weights of the step.
    corrections : str
        One row per ``d1, d2, ..``.
    order : int
        Order of the interpolation.
    source : str
        Source of the corrections.
    """
    levels = [exact(b), *_exact_rows(corrections)]
    levels.append([Fraction(0)] * len(levels[0]))
    weights = (
        [levels[0][i] + levels[1][i]] + [high[i] - low[i] for low, high in pairwise(levels[1:])]
        for i in range(len(levels[0]))
    )
    return Dense(tuple(map(_rounded, weights)), order, source)


def classical_dense(text: str, gamma: Sequence[Exact], order: int, source: str) -> Dense:
    """Return the dense output ``y + sum_i(b_i(theta) * k_i)``.

    Parameters
    ----------
    text : str
        One row per power ``theta**1, theta**2, ..``: its coefficients in all ``b_i``.
    gamma : sequence of sequence of Fraction
        See `transformed`.
    order : int
        Order of the interpolation.
    source : str
        Source of the coefficients.
    """
    inverse = _inverse(gamma)
    powers = [_times(line, inverse, len(inverse)) for line in _exact_rows(text)]
    return Dense(tuple(map(_rounded, zip(*powers, strict=True))), order, source)


_ROS3P_GAMMA = Fraction(1, 2) + root(3) / 6
ROS3P = Rosenbrock(
    name="ros3p",
    title="ROS3P of Lang and Verwer, third order without order reduction on parabolic problems",
    order=3,
    embedded_order=2,
    stability="A",
    **transformed(
        alpha=[[], exact("1"), exact("1 0")],
        gamma=[
            [_ROS3P_GAMMA],
            [Fraction(-1), _ROS3P_GAMMA],
            [-_ROS3P_GAMMA, Fraction(1, 2) - 2 * _ROS3P_GAMMA, _ROS3P_GAMMA],
        ],
        b=exact("2/3 0 1/3"),
        b_hat=exact("1/3 1/3 1/3"),
    ),
    source="J. Lang and J. Verwer, ROS3P: an accurate third-order Rosenbrock solver designed for "
    "parabolic problems, BIT 41, 731-738 (2001)",
    # Three stages of this kind have no embedded second-order method with another stability
    # function: the published estimate is zero for every linear equation.
    trapezoidal=True,
    controller="pi",
    gains=(0.7, -0.4, 0.0),
    max_factor=6.0,
)

RODAS3 = Rosenbrock(
    name="rodas3",
    title="Rodas3 of Sandu et al., stiffly accurate, third order",
    order=3,
    embedded_order=2,
    stability="L",
    **transformed(
        alpha=_exact_rows("; 0; 1 0; 3/4 -1/4 1/2;"),
        gamma=_exact_rows("1/2; 1 1/2; -1/4 -1/4 1/2; 1/12 1/12 -2/3 1/2;"),
        b=exact("5/6 -1/6 -1/6 1/2"),
        b_hat=exact("3/4 -1/4 1/2 0"),
    ),
    source="A. Sandu, J. G. Verwer, J. G. Blom, E. J. Spee, G. R. Carmichael and F. A. Potra, "
    "Benchmarking stiff ODE solvers for atmospheric chemistry problems II: Rosenbrock solvers, "
    "Atmos. Environ. 31, 3459-3472 (1997)",
    controller="pi",
    gains=(0.7, -0.4, 0.0),
    max_factor=6.0,
)

_RODAS4_B = "1.221224509226641 6.019134481288629 12.53708332932087 -0.6878860361058950 1 1"
RODAS4 = Rosenbrock(
    name="rodas4",
    title="Rodas 4(3), stiffly accurate (method 1 of the code RODAS)",
    order=4,
    embedded_order=3,
    stability="L",
    gamma=0.25,
    a=rows("""
        ; 1.544; 0.9466785280815826 0.2557011698983284;
        3.314825187068521 2.896124015972201 0.9986419139977817;
        1.221224509226641 6.019134481288629 12.53708332932087 -0.6878860361058950;
        1.221224509226641 6.019134481288629 12.53708332932087 -0.6878860361058950 1;
    """),
    coupling=rows("""
        ; -5.6688; -2.430093356833875 -0.2063599157091915;
        -0.1073529058151375 -9.594562251023355 -20.47028614809616;
        7.496443313967647 -10.24680431464352 -33.99990352819905 11.70890893206160;
        8.083246795921522 -7.981132988064893 -31.52159432874371 16.31930543123136
        -6.058818238834054;
    """),
    b=row(_RODAS4_B),
    c=row("0 0.386 0.21 0.63 1 1"),
    time_weights=row("0.25 -0.1043 0.1035 -0.0362 0 0"),
    error=row("0 0 0 0 0 1"),
    dense=nested(
        _RODAS4_B,
        order=3,
        source="function contro of rodas.f (METH=1)",
        corrections="""
            10.12623508344586 -7.487995877610167 -34.80091861555747 -7.992771707568823
            1.025137723295662 0;
            -0.6762803392801253 6.087714651680015 16.43084320892478 24.76722511418386
            -6.594389125716872 0;
        """,
    ),
    source="HW section VI.4, code rodas.f (METH=1); digits as in rodas.f and OrdinaryDiffEq.jl",
    controller="pi",
    gains=(0.7, -0.4, 0.0),
    # rodas.f: FAC1 = 5, FAC2 = 1/6, SAFE = 0.9.
    max_factor=6.0,
)

_RODAS4P_B = "-7.170454962423024 -4.741636671481785 -16.31002631330971 -1.062004044111401 1 1"
RODAS4P = Rosenbrock(
    name="rodas4p",
    title="Rodas4P of Steinebach, fourth order on parabolic problems too (METH=3 of RODAS)",
    order=4,
    embedded_order=3,
    stability="L",
    gamma=0.25,
    a=rows("""
        ; 3; 1.831036793486759 0.4955183967433795;
        2.304376582692669 -0.05249275245743001 -1.176798761832782;
        -7.170454962423024 -4.741636671481785 -16.31002631330971 -1.062004044111401;
        -7.170454962423024 -4.741636671481785 -16.31002631330971 -1.062004044111401 1;
    """),
    coupling=rows("""
        ; -12; -8.791795173947035 -2.207865586973518;
        10.81793056857153 6.780270611428266 19.53485944642410;
        34.19095006749676 15.49671153725963 54.74760875964130 14.16005392148534;
        34.62605830930532 15.30084976114473 56.99955578662667 18.40807009793095
        -5.714285714285717;
    """),
    b=row(_RODAS4P_B),
    c=row("0 0.75 0.21 0.63 1 1"),
    time_weights=row("0.25 -0.5 -0.023504 -0.0362 0 0"),
    error=row("0 0 0 0 0 1"),
    dense=nested(
        _RODAS4P_B,
        order=3,
        source="function contro of rodas.f (METH=3)",
        corrections="""
            25.09876703708589 11.62013104361867 28.49148307714626 -5.664021568594133 0 0;
            1.638054557396973 -0.7373619806678748 8.477918219238990 15.99253148779520
            -1.882352941176471 0;
        """,
    ),
    source="G. Steinebach, Order-reduction of ROW-methods for DAEs and method of lines "
    "applications, preprint 1741, TU Darmstadt (1995); digits as in rodas.f (METH=3)",
    controller="pi",
    gains=(0.7, -0.4, 0.0),
    max_factor=6.0,
)

_RODAS5P_A = """
    -7.502846399306121 2.561846144803919 -11.627539656261098 -0.18268767659942256
    0.030198172008377946
"""
_RODAS5P_B = f"{_RODAS5P_A} 1 1 1"
RODAS5P = Rosenbrock(
    name="rodas5p",
    title="Rodas5P of Steinebach, stiffly accurate, fifth order",
    order=5,
    embedded_order=4,
    stability="L",
    gamma=0.21193756319429014,
    a=rows(f"""
        ; 3; 2.849394379747939 0.45842242204463923;
        -6.954028509809101 2.489845061869568 -10.358996098473584;
        2.8029986275628964 0.5072464736228206 -0.3988312541770524 -0.04721187230404641;
        {_RODAS5P_A}; {_RODAS5P_A} 1; {_RODAS5P_A} 1 1;
    """),
    coupling=rows("""
        ; -14.155112264123755; -17.97296035885952 -2.859693295451294;
        147.12150275711716 -1.41221402718213 71.68940251302358;
        165.43517024871676 -0.4592823456491126 42.90938336958603 -5.961986721573306;
        24.854864614690072 -3.0009227002832186 47.4931110020768 5.5814197821558125
        -0.6610691825249471;
        30.91273214028599 -3.1208243349937974 77.79954646070892 34.28646028294783
        -19.097331116725623 -28.087943162872662;
        37.80277123390563 -3.2571969029072276 112.26918849496327 66.9347231244047
        -40.06618937091002 -54.66780262877968 -9.48861652309627;
    """),
    b=row(_RODAS5P_B),
    c=row("0 0.6358126895828704 0.4095798393397535 0.9769306725060716 0.4288403609558664 1 1 1"),
    time_weights=row("""
        0.21193756319429014 -0.42387512638858027 -0.3384627126235924 1.8046452872882734
        2.325825639765069 0 0 0
    """),
    error=row("0 0 0 0 0 0 0 1"),
    dense=nested(
        _RODAS5P_B,
        order=4,
        source="G. Steinebach (2023), digits as in OrdinaryDiffEq.jl",
        corrections="""
            25.948786856663858 -2.5579724845846235 10.433815404888879 -2.3679251022685204
            0.524948541321073 1.1241088310450404 0.4272876194431874 -0.17202221070155493;
            -9.91568850695171 -0.9689944594115154 3.0438037242978453 -24.495224566215796
            20.176138334709044 15.98066361424651 -6.789040303419874 -6.710236069923372;
            11.419903575922262 2.8879645146136994 72.92137995996029 80.12511834622643
            -52.072871366152654 -59.78993625266729 -0.15582684282751913 4.883087185713722;
        """,
    ),
    source="G. Steinebach, Construction of Rosenbrock-Wanner method Rodas5P and numerical "
    "benchmarks within the Julia Differential Equations package, BIT 63:27 (2023); digits as in "
    "OrdinaryDiffEq.jl",
    controller="pi",
    gains=(0.7, -0.4, 0.0),
    max_factor=6.0,
)

RODAS5PE = evolve(
    RODAS5P,
    name="rodas5pe",
    title="Rodas5P with the other error estimate of Steinebach",
    error=row("""
        0.2606326497975715 -0.005158627295444251 1.3038988631109731 1.235000722062074
        -0.7931985603795049 -1.005448461135913 -0.18044626132120234 0.17051519239113755
    """),
    source="G. Steinebach, Rosenbrock methods within OrdinaryDiffEq.jl: overview, recent "
    "developments and applications, Proc. JuliaCon Conf. (2024); digits as in OrdinaryDiffEq.jl",
)

# The paper advances with k, W = I - h*d*J and a third stage that holds f at the first two. With
# u1 = h*d*k1, u2 = h*d*(k2 - k1) and u3 = h*d*(k3 - e32*(k2 - k1) - 2*k1) that form is
# avoided: W*k1 = f0 + h*d*df/dt and W*(k2 - k1) + k1 = f1 express f by products with W, which the
# solution of the third stage includes.
_D = 1 / (2 + root(2))
_E32 = 6 + root(2)
ROSENBROCK23 = Rosenbrock(
    name="rosenbrock23",
    title="Shampine-Reichelt 2(3) (ode23s)",
    order=2,
    embedded_order=2,
    stability="L",
    w_method=True,
    gamma=float(_D),
    a=((), _rounded([1 / (2 * _D)]), _rounded([1 / _D, 1 / _D])),
    coupling=((), _rounded([-1 / _D]), _rounded([-2 / _D, -_E32 / _D])),
    b=_rounded([1 / _D, 1 / _D, Fraction(0)]),
    c=row("0 1/2 1"),
    time_weights=_rounded([_D, Fraction(0), -_D]),
    error=_rounded([-1 / (6 * _D), (2 - _E32) / (6 * _D), -1 / (6 * _D)]),
    dense=Dense(
        (
            _rounded([1 / _D, Fraction(0)]),
            _rounded([-2 / (1 - 2 * _D), 1 / (_D * (1 - 2 * _D))]),
            (0.0, 0.0),
        ),
        order=2,
        source="L. F. Shampine and M. W. Reichelt (1997), section 4.1",
    ),
    source="L. F. Shampine and M. W. Reichelt, The MATLAB ODE suite, SIAM J. Sci. Comput. 18, "
    "1-22 (1997), section 4.1, rewritten",
    # ode23s: elementary, 4/5, at most five times.
    controller="i",
    safety=0.8,
    max_factor=5.0,
)

_PW2_B = "0.24212380706095346 -1.2232505839045147 1.5452602553351020 0.43586652150845900"
_PW2_GAMMA = _exact_rows("""
    0.43586652150845900; -0.87173304301691801 0.43586652150845900;
    -0.90338057013044082 0.054180672388095326 0.43586652150845900;
    0.24212380706095346 -1.2232505839045147 0.54526025533510214 0.43586652150845900;
""")
ROS34PW2 = Rosenbrock(
    name="ros34pw2",
    title="ROS34PW2 of Rang and Angermann, a stiffly accurate W-method of third order",
    order=3,
    embedded_order=2,
    stability="L",
    w_method=True,
    **transformed(
        alpha=_exact_rows(
            "; 0.87173304301691801; 0.84457060015369423 -0.11299064236484185; 0 0 1;"
        ),
        gamma=_PW2_GAMMA,
        b=exact(_PW2_B),
        b_hat=exact("0.37810903145819369 -0.096042292212423178 1/2 0.21793326075422950"),
    ),
    dense=classical_dense(
        """
        1.0564298455794094 2.296429974281067 -1.307599564525376 -1.045260255335102;
        -1.3864882699759573 -8.262611700275677 7.250979895056055 2.398120075195581;
        0.5721822314575016 4.742931142090097 -4.398120075195578 -0.9169932983520199;
        """,
        _PW2_GAMMA,
        order=3,
        source="PETSc, function TSRosWRegisterAll (ra34pw2)",
    ),
    source="J. Rang and L. Angermann, New Rosenbrock W-methods of order 3 for partial "
    "differential algebraic equations of index 1, BIT 45, 761-787 (2005); digits as in PETSc",
    controller="pi",
    gains=(0.7, -0.4, 0.0),
    max_factor=6.0,
)

METHODS = (ROS3P, RODAS3, ROSENBROCK23, ROS34PW2, RODAS4, RODAS4P, RODAS5P, RODAS5PE)
