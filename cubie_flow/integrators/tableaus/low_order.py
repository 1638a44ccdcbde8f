"""Methods of order one to five.

HNW is E. Hairer, S. P. Norsett and G. Wanner, Solving Ordinary Differential Equations I, 2nd
edition, Springer 1993.
"""

from __future__ import annotations

from cubie_flow.integrators.tableaus.definition import Tableau, difference, hermite, row, rows

EULER = Tableau(
    name="euler",
    title="Euler",
    order=1,
    a=((),),
    b=(1.0,),
    c=(0.0,),
    source="L. Euler, Institutiones calculi integralis I (1768); HNW section I.7",
)

HEUN = Tableau(
    name="heun",
    title="Heun (explicit trapezoidal rule), with Euler as error estimate",
    order=2,
    embedded_order=1,
    a=rows("; 1;"),
    b=row("1/2 1/2"),
    c=row("0 1"),
    error=difference("1/2 1/2", "1"),
    source="K. Heun, Z. Math. Phys. 45, 23-38 (1900); HNW section II.1",
    # The elementary controller of HNW eq. II.4.13.
    controller="i",
)

RALSTON = Tableau(
    name="ralston",
    title="Ralston, second order with least error bound",
    order=2,
    a=rows("; 2/3;"),
    b=row("1/4 3/4"),
    c=row("0 2/3"),
    source="A. Ralston, Runge-Kutta methods with minimum error bounds, "
    "Math. Comp. 16, 431-437 (1962)",
)

MIDPOINT = Tableau(
    name="midpoint",
    title="Midpoint (Runge)",
    order=2,
    a=rows("; 1/2;"),
    b=row("0 1"),
    c=row("0 1/2"),
    source="C. Runge, Math. Ann. 46, 167-178 (1895); HNW section II.1",
)

RK4 = Tableau(
    name="rk4",
    title="Classical Runge-Kutta (Kutta)",
    order=4,
    a=rows("; 1/2; 0 1/2; 0 0 1;"),
    b=row("1/6 1/3 1/3 1/6"),
    c=row("0 1/2 1/2 1"),
    source="W. Kutta, Z. Math. Phys. 46, 435-453 (1901); HNW section II.1, table 1.2",
)

_BS3_B = "2/9 1/3 4/9"
BOGACKI_SHAMPINE_32 = Tableau(
    name="bogacki_shampine_32",
    title="Bogacki-Shampine 3(2)",
    order=3,
    embedded_order=2,
    a=rows("; 1/2; 0 3/4;"),
    b=row(_BS3_B),
    c=row("0 1/2 3/4"),
    error=difference(_BS3_B, "7/24 1/4 1/3 1/8"),
    dense=hermite(
        _BS3_B,
        order=3,
        source="Cubic Hermite interpolation, as in ode23: L. F. Shampine and M. W. Reichelt, The "
        "MATLAB ODE suite, SIAM J. Sci. Comput. 18, 1-22 (1997)",
    ),
    source="P. Bogacki and L. F. Shampine, A 3(2) pair of Runge-Kutta formulas, "
    "Appl. Math. Lett. 2, 321-325 (1989)",
    # Shampine and Reichelt, ode23: elementary, 4/5, at most five times, at least half.
    controller="i",
    safety=0.8,
    min_factor=0.5,
    max_factor=5.0,
)

_FEHLBERG_B = "16/135 0 6656/12825 28561/56430 -9/50 2/55"
FEHLBERG_45 = Tableau(
    name="fehlberg_45",
    title="Fehlberg 4(5), advancing with the fifth order solution (local extrapolation)",
    order=5,
    embedded_order=4,
    a=rows("""
        ; 1/4; 3/32 9/32; 1932/2197 -7200/2197 7296/2197; 439/216 -8 3680/513 -845/4104;
        -8/27 2 -3544/2565 1859/4104 -11/40;
    """),
    b=row(_FEHLBERG_B),
    c=row("0 1/4 3/8 12/13 1 1/2"),
    error=difference(_FEHLBERG_B, "25/216 0 1408/2565 2197/4104 -1/5 0"),
    source="E. Fehlberg, NASA TR R-315 (1969), table III (RK4(5), formula 2)",
    # L. F. Shampine, H. A. Watts and S. M. Davenport, SIAM Review 18, 376-411 (1976); code RKF45.
    controller="i",
    min_factor=0.1,
    max_factor=5.0,
)

_CASH_KARP_B = "37/378 0 250/621 125/594 0 512/1771"
CASH_KARP_54 = Tableau(
    name="cash_karp_54",
    title="Cash-Karp 5(4)",
    order=5,
    embedded_order=4,
    a=rows("""
        ; 1/5; 3/40 9/40; 3/10 -9/10 6/5; -11/54 5/2 -70/27 35/27;
        1631/55296 175/512 575/13824 44275/110592 253/4096;
    """),
    b=row(_CASH_KARP_B),
    c=row("0 1/5 3/10 3/5 1 7/8"),
    error=difference(_CASH_KARP_B, "2825/27648 0 18575/48384 13525/55296 277/14336 1/4"),
    source="J. R. Cash and A. H. Karp, A variable order Runge-Kutta method for initial value "
    "problems with rapidly varying right-hand sides, ACM TOMS 16, 201-222 (1990)",
    # W. H. Press et al., Numerical Recipes, 2nd ed. 1992, section 16.2 (routine rkqs).
    controller="i",
    min_factor=0.1,
    max_factor=5.0,
)

_DOPRI_B = "35/384 0 500/1113 125/192 -2187/6784 11/84"
DORMAND_PRINCE_54 = Tableau(
    name="dormand_prince_54",
    title="Dormand-Prince 5(4) (DOPRI5, ode45)",
    order=5,
    embedded_order=4,
    a=rows("""
        ; 1/5; 3/40 9/40; 44/45 -56/15 32/9; 19372/6561 -25360/2187 64448/6561 -212/729;
        9017/3168 -355/33 46732/5247 49/176 -5103/18656;
    """),
    b=row(_DOPRI_B),
    c=row("0 1/5 3/10 4/5 8/9 1"),
    error=difference(_DOPRI_B, "5179/57600 0 7571/16695 393/640 -92097/339200 187/2100 1/40"),
    dense=hermite(
        _DOPRI_B,
        order=4,
        source="L. F. Shampine, Some practical Runge-Kutta formulas, Math. Comp. 46, 135-150 "
        "(1986), in the form of dopri5.f (HNW, appendix)",
        corrections="""
            -12715105075/11282082432 0 87487479700/32700410799 -10690763975/1880347072
            701980252875/199316789632 -1453857185/822651844 69997945/29380423;
        """,
    ),
    source="J. R. Dormand and P. J. Prince, A family of embedded Runge-Kutta formulae, "
    "J. Comput. Appl. Math. 6, 19-26 (1980), RK5(4)7M; HNW table II.5.2",
    # dopri5.f: exponents 0.2 - 0.75 beta and beta = 0.04, times k = 5.
    controller="pi",
    gains=(0.85, -0.2, 0.0),
    max_factor=10.0,
)

_TSIT5_B = """
    0.09646076681806522951816731316512876 1/100 0.4798896504144995747752495322905965199
    1.379008574103741893192274821856872771 -3.290069515436080679901047585711363850
    2.324710524099773982415355918398765796
"""
TSIT5 = Tableau(
    name="tsit5",
    title="Tsitouras 5(4)",
    order=5,
    embedded_order=4,
    a=rows("""
        ; 161/1000;
        -0.008480655492356988544426874250230775 0.3354806554923569885444268742502307747;
        2.897153057105493432130432594192938765 -6.359448489975074843148159912383825626
        4.362295432869581411017727318190886861;
        5.325864828439256604428877920840511318 -11.74888356406282787774717033978577296
        7.495539342889836208304604784564358156 -0.09249506636175524925650207933207191611;
        5.861455442946420028659251486982647890 -12.92096931784710929170611868178335940
        8.159367898576158643180400794539253485 -0.07158497328140099722453054252582973869
        -0.02826905039406838290900305721271224147;
    """),
    b=row(_TSIT5_B),
    c=row("0 161/1000 327/1000 9/10 0.9800255409045096857298102862870245955 1"),
    error=difference(
        _TSIT5_B,
        """
        0.09468075576583945807478876255758922856 0.009183565540343253096776363936645313760
        0.4877705284247615707855642599631228242 1.234297566930478985655109673884237654
        -2.707712349983525454881109975059321671 1.866628418170587035753719399566211499 1/66
        """,
    ),
    dense=hermite(
        _TSIT5_B,
        order=4,
        source="Ch. Tsitouras (2011), the interpolant's coefficients of theta**4; the rest of it "
        "is cubic Hermite",
        corrections="""
            -1.0530884977290216 0.1017 2.490627285651252793 -16.54810288924490272
            47.37952196281928122 -34.87065786149660974 2.5;
        """,
    ),
    source="Ch. Tsitouras, Runge-Kutta pairs of order 5(4) satisfying only the first column "
    "simplifying assumption, Comput. Math. Appl. 62, 770-775 (2011)",
    # Gustafsson's 0.7/k, 0.4/k: K. Gustafsson, ACM TOMS 17, 533-554 (1991); E. Hairer and
    # G. Wanner, Solving ODEs II, section IV.2. So does OrdinaryDiffEq.jl for this method.
    controller="pi",
    gains=(0.7, -0.4, 0.0),
    max_factor=10.0,
)

METHODS = (
    EULER,
    HEUN,
    RALSTON,
    MIDPOINT,
    BOGACKI_SHAMPINE_32,
    RK4,
    FEHLBERG_45,
    CASH_KARP_54,
    DORMAND_PRINCE_54,
    TSIT5,
)
