"""Collocation methods: fully implicit, with all stages of a step solved simultaneously.

HW is E. Hairer and G. Wanner, Solving Ordinary Differential Equations II, 2nd revised edition,
Springer 1996; HNW is E. Hairer, S. P. Norsett and G. Wanner, Solving Ordinary Differential
Equations I, 2nd edition, Springer 1993. Every number is computed from the nodes to fifty digits and
rounded once.
"""

from __future__ import annotations

from attrs import frozen

from cubie_flow.integrators.tableaus.definition import Dense, Method, Row, Rows, row, rows


@frozen(kw_only=True)
class Collocation(Method):
    """A fully implicit Runge-Kutta method, and the variables that decouple its stages.

    With ``z_i = Y_i - y`` the stages solve ``inverse(a) z / h = f(Y)``. In ``w`` with ``z =
    transform w`` the matrix ``transform_inverse inverse(a) transform`` is block diagonal: first
    the real eigenvalues, then a block ``[[alpha, -beta], [beta, alpha]]`` for each pair
    (HW section IV.8).

    Parameters
    ----------
    a : tuple of tuple of float, shape (stages, stages)
        Weights of the stages.
    b, c : tuple of float, shape (stages,)
        Weights and nodes.
    inverse_real : tuple of float
        Real eigenvalues of ``inverse(a)``.
    inverse_pairs : tuple of (float, float)
        ``(alpha, beta)`` of its complex pairs, ``beta > 0``.
    transform, transform_inverse : tuple of tuple of float, shape (stages, stages)
        From and to the variables that decouple the stages.
    dense : Dense
        ``weights`` of ``w_i`` in the collocation polynomial ``y(t + theta*h) = y +
        sum_i(w_i(theta) * z_i)``, without a factor ``h``; at ``theta = 1`` it is the end of the
        step, and beyond that it gives starting values of the next stages.
    error : tuple of float, shape (stages,), optional
        The error is ``inverse(gamma0/h * M - J) (f(t, y) + M * sum_i(error_i * z_i) / h)``
        (HW section IV.8), the difference to the quadrature of order ``embedded_order``
        with weight ``1/gamma0`` at the start of the step.
    gamma0 : float, optional
        The real eigenvalue if the method has one, so that its factored matrix is used again. For a
        single pair it is ``(alpha**2 + beta**2)/alpha``, and no further matrix is needed either:
        the real part of the solution with ``(alpha + i*beta)/h * M - J`` is an error of the same
        kind.
    """

    a: Rows
    b: Row
    c: Row
    inverse_real: Row
    inverse_pairs: tuple[tuple[float, float], ...]
    transform: Rows
    transform_inverse: Rows
    dense: Dense
    error: Row | None = None
    gamma0: float | None = None

    @property
    def stiffly_accurate(self) -> bool:
        """Whether the last stage is the end of the step."""
        return self.a[-1] == self.b and self.c[-1] == 1.0


_POLYNOMIAL = "The collocation polynomial (HNW section II.7; HW section IV.8)"

RADAU_IIA_3 = Collocation(
    name="radau_iia_3",
    title="Radau IIA, two stages, third order",
    order=3,
    embedded_order=2,
    stability="L",
    a=rows("5/12 -1/12; 3/4 1/4;"),
    b=row("3/4 1/4"),
    c=row("1/3 1"),
    inverse_real=(),
    inverse_pairs=((2.0, 1.4142135623730951),),
    transform=rows("1/9 0.31426968052735443; 1 0;"),
    transform_inverse=rows("0 1; 3.181980515339464 -0.3535533905932738;"),
    gamma0=3.0,
    error=row("-9/2 1/2"),
    dense=Dense(
        rows("9/2 -9/2; -1/2 3/2;"),
        order=2,
        source=_POLYNOMIAL,
    ),
    source="B. L. Ehle, Research report CSRR 2010, University of Waterloo (1969); HW table IV.5.5",
    controller="gustafsson",
    max_factor=8.0,
)

RADAU_IIA_5 = Collocation(
    name="radau_iia_5",
    title="Radau IIA, three stages, fifth order (RADAU5)",
    order=5,
    embedded_order=3,
    stability="L",
    a=rows("""
        0.1968154772236604 -0.06553542585019839 0.02377097434822015;
        0.3944243147390873 0.2920734116652285 -0.04154875212599793;
        0.37640306270046725 0.5124858261884216 0.1111111111111111;
    """),
    b=row("0.37640306270046725 0.5124858261884216 0.1111111111111111"),
    c=row("0.1550510257216822 0.6449489742783178 1"),
    inverse_real=row("3.637834252744496"),
    inverse_pairs=((2.6810828736277523, 3.0504301992474105),),
    transform=rows("""
        0.09123239487089295 -0.1412552950209542 -0.030029194105147424;
        0.241717932707107 0.20412935229379994 0.3829421127572619;
        0.966048182615093 1 0;
    """),
    transform_inverse=rows("""
        4.325579890063155 0.33919925181580984 0.5417705399358749;
        -4.178718591551905 -0.32768282076106237 0.47662355450055044;
        -0.5028726349457868 2.571926949855605 -0.5960392048282249;
    """),
    gamma0=3.637834252744496,
    error=row("-10.048809399827416 1.382142733160749 -0.3333333333333333"),
    dense=Dense(
        rows("""
            10.048809399827416 -25.62959144707664 15.580782047249224;
            -1.382142733160749 10.296258113743306 -8.914115380582556;
            0.3333333333333333 -2.6666666666666665 3.3333333333333335;
        """),
        order=3,
        source=_POLYNOMIAL,
    ),
    source="HW table IV.5.6 and section IV.8, code radau5.f",
    # radau5.f: FACL = 5, FACR = 1/8, SAFE = 0.9.
    controller="gustafsson",
    max_factor=8.0,
)

RADAU_IIA_9 = Collocation(
    name="radau_iia_9",
    title="Radau IIA, five stages, ninth order",
    order=9,
    embedded_order=5,
    stability="L",
    a=rows("""
        0.07299886431790333 -0.02673533110794557 0.018676929763984353 -0.01287910609330644
        0.005042839233882015;
        0.15377523147918246 0.14621486784749352 -0.03644456890512809 0.02123306311930472
        -0.007935579902728777;
        0.14006304568480987 0.29896712949128346 0.16758507013524895 -0.03396910168661774
        0.010944288744192253;
        0.14489430810953477 0.2765000687601592 0.32579792291042103 0.12875675325490976
        -0.015708917378805327;
        0.14371356079122594 0.28135601514946207 0.31182652297574126 0.22310390108357075 0.04;
    """),
    b=row("""
        0.14371356079122594 0.28135601514946207 0.31182652297574126 0.22310390108357075 0.04
    """),
    c=row("0.05710419611451768 0.2768430136381238 0.5835904323689168 0.8602401356562195 1"),
    inverse_real=row("6.2867047517292765"),
    inverse_pairs=(
        (3.655694325463572, 6.543736899360077),
        (5.70095329867179, 3.2102656003085497),
    ),
    transform=rows("""
        0.012517586220501045 -0.010242047817908826 0.04767387729029572 -0.011478515255229515
        -0.01401985889287541;
        0.0014916701518953824 0.05017286451737106 -0.09433181918161143 -0.007668830749180163
        0.024708578426518527;
        0.07298187638808715 -0.23053953404341795 0.1027030453801259 0.01939846399882895
        0.08180035370375117;
        0.3800914400035681 0.37789390224886127 0.46674413033249434 0.40760117128019907
        0.19968242788680252;
        0.9219789736812105 1 0 1 0;
    """),
    transform_inverse=rows("""
        30.0415677215444 13.865107856271413 3.4800027747951856 -1.0320087978252634
        0.8043030450739899;
        5.344186437834912 4.593615567759161 -3.0363603234594243 1.050660190231459
        -0.27277861186429625;
        3.748059807439805 -3.984965736343885 -1.0444156416080188 1.1840985681379486
        -0.44991777015678036;
        -33.041880213519 -17.376953479063566 -0.17212906325400557 -0.09916977798254265
        0.5312281158383066;
        -8.611443979875292 9.699991409528808 1.9147286396968743 2.41869200608494
        -1.0474634879353375;
    """),
    gamma0=6.2867047517292765,
    error=row("""
        -27.78093394406464 3.641478498049213 -1.2525477211691187 0.5920031671845428 -0.2
    """),
    dense=Dense(
        rows("""
            27.78093394406464 -208.02785730090133 524.1878839694918 -543.8283560361325
            199.88739542347736;
            -3.641478498049213 77.88337605511782 -264.89491356822634 317.67586907995275
            -127.022853068795;
            1.2525477211691187 -29.167414317829696 137.90290440413477 -202.09087094360743
            92.10283313613321;
            -0.5920031671845428 14.111895563613205 -72.39587480540027 123.04335789978718
            -64.16737549081559;
            0.2 -4.8 25.2 -44.8 25.2;
        """),
        order=5,
        source=_POLYNOMIAL,
    ),
    source="E. Hairer and G. Wanner, Stiff differential equations solved by Radau methods, "
    "J. Comput. Appl. Math. 111, 93-111 (1999), code radau.f",
    controller="gustafsson",
    max_factor=8.0,
)

GAUSS_LEGENDRE_4 = Collocation(
    name="gauss_legendre_4",
    title="Gauss-Legendre (Hammer and Hollingsworth), two stages, fixed step",
    order=4,
    stability="A",
    a=rows("0.25 -0.03867513459481288; 0.5386751345948129 0.25;"),
    b=row("0.5 0.5"),
    c=row("0.2113248654051871 0.7886751345948129"),
    inverse_real=(),
    inverse_pairs=((3.0, 1.7320508075688772),),
    transform=rows("0 0.2679491924311227; 1 0;"),
    transform_inverse=rows("0 1; 3.732050807568877 0;"),
    dense=Dense(
        rows("""
            6.464101615137754 -8.196152422706632;
            -0.4641016151377546 2.196152422706632;
        """),
        order=2,
        source=_POLYNOMIAL,
    ),
    source="P. C. Hammer and J. W. Hollingsworth, Trapezoidal methods of approximating solutions "
    "of differential equations, MTAC 9, 92-96 (1955); HW table IV.5.1",
)

METHODS = (RADAU_IIA_3, GAUSS_LEGENDRE_4, RADAU_IIA_5, RADAU_IIA_9)
