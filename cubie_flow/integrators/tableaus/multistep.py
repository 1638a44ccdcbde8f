"""Linear multistep methods for stiff problems."""

from __future__ import annotations

from fractions import Fraction

from attrs import frozen

from cubie_flow.integrators.tableaus.definition import Method, Row, exact


@frozen(kw_only=True)
class Multistep(Method):
    """Numerical differentiation formulas of variable order in backward differences.

    With differences ``D_j`` of the last values at a constant step, ``gamma_k = sum(1/j, j=1..k)``
    and ``alpha_k = (1 - kappa_k)*gamma_k``, a step of order ``k`` solves ``alpha_k*d +
    sum(gamma_j*D_j, j=1..k) = h*f(y)`` with ``y = sum(D_j, j=0..k) + d``. Its error is
    ``error_k*d`` (L. F. Shampine and M. W. Reichelt, The MATLAB ODE suite, SIAM J. Sci. Comput.
    18, 1-22, 1997, section 2).

    Parameters
    ----------
    kappa : tuple of float, shape (orders,)
        Values for orders 1, 2, ..; all zero for backward differentiation formulas.
    """

    kappa: Row

    @property
    def continuous(self) -> bool:
        return True

    @property
    def interpolated_order(self) -> int:
        return self.order

    @property
    def interpolated_degree(self) -> int:
        return self.order

    @property
    def gamma(self) -> Row:
        """``gamma_0`` to ``gamma_k`` for the highest order ``k``."""
        sums = [Fraction(0)]
        for j in range(1, self.order + 1):
            sums.append(sums[-1] + Fraction(1, j))
        return tuple(map(float, sums))

    @property
    def alpha(self) -> Row:
        """``alpha_k`` for orders 1, 2, .."""
        return tuple(
            (1.0 - kappa) * gamma for kappa, gamma in zip(self.kappa, self.gamma[1:], strict=True)
        )

    @property
    def errors(self) -> Row:
        """``error_k`` for orders 1, 2, .."""
        return tuple(
            kappa * gamma + 1.0 / (k + 1)
            for k, (kappa, gamma) in enumerate(
                zip(self.kappa, self.gamma[1:], strict=True), start=1
            )
        )


BDF = Multistep(
    name="bdf",
    title="NDF of variable order 1 to 5 (backward differentiation with Klopfenstein's terms)",
    order=5,
    embedded_order=1,
    stability="A",
    kappa=tuple(map(float, exact("-37/200 -1/9 -823/10000 -83/2000 0"))),
    source="L. F. Shampine and M. W. Reichelt, The MATLAB ODE suite, SIAM J. Sci. Comput. 18, "
    "1-22 (1997), table 1; R. W. Klopfenstein, RCA Review 32, 447-462 (1971)",
    controller="i",
    max_factor=10.0,
)

METHODS = (BDF,)
