"""The attempts of a rescue: settings with which failed runs are solved again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import field, frozen

from cubie_flow.allowed_values import LINEAR_SOLVERS, PRECISIONS
from cubie_flow.errors import FlowError, nearest, one_of
from cubie_flow.integrators.tableaus import method


@frozen
class Attempt:
    """Settings of one attempt; None keeps the setting of the study.

    Parameters
    ----------
    algorithm : str, optional
    precision : {"float32", "float64"}, optional
        Of the integration; results are stored in the study's own.
    linear_solver : str, optional
    tolerance_factor : float
        Multiplies rtol and atol.
    max_steps_factor : float
        Multiplies the step limit.
    """

    algorithm: str | None = None
    precision: str | None = field(default=None, validator=one_of(*PRECISIONS, None))
    linear_solver: str | None = field(default=None, validator=one_of(*LINEAR_SOLVERS, None))
    tolerance_factor: float = 1.0
    max_steps_factor: float = 10.0


#: A stiff method in double precision; then a fully implicit one, pivoted, at a tenth of the
#: tolerance, so that every Newton iteration starts nearer to its solution.
DEFAULT = (
    Attempt(algorithm="rodas5p", precision="float64"),
    Attempt(
        algorithm="radau_iia_5",
        precision="float64",
        linear_solver="pivoted",
        tolerance_factor=0.1,
    ),
)


def read_rescue(given: Any) -> tuple[Attempt, ...]:
    """Return the attempts that ``rescue`` asks for: off, default, or a list of settings.

    Raises
    ------
    FlowError
        Naming the key that is wrong.
    """
    # YAML reads a plain `off` as false.
    if given is False or given is None or given == "off":
        return ()
    if given == "default":
        return DEFAULT
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise FlowError(
            f"rescue is {given!r}; it must be off, default, or a list of settings such as "
            "[{algorithm: rodas5p, precision: float64}]"
        )
    return tuple(_read_attempt(f"rescue[{i}]", item) for i, item in enumerate(given))


def _read_attempt(key: str, given: Any) -> Attempt:
    known = ("algorithm", "precision", "linear_solver", "tolerance_factor", "max_steps_factor")
    if isinstance(given, str):
        given = {"algorithm": given}
    if not isinstance(given, Mapping):
        raise FlowError(f"{key} is {given!r}; it must be a mapping of {', '.join(known)}")
    for name, value in given.items():
        if name not in known:
            raise FlowError(f"{key} has no key '{name}'{nearest(str(name), known)}")
        if name.endswith("_factor") and not (
            isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e12
        ):
            raise FlowError(f"{key}.{name} is {value!r}; it must be a positive number")
    if given.get("algorithm") is not None:
        method(str(given["algorithm"]))
    return Attempt(**given)
