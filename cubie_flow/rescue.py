"""Failed runs, solved again with sturdier settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import evolve, field, frozen

from cubie_flow.errors import FlowError, nearest, one_of
from cubie_flow.integrators.loop import STATUS
from cubie_flow.integrators.steps import LINEAR_SOLVERS
from cubie_flow.integrators.tableaus import method
from cubie_flow.kernels.kernel import BatchSolverKernel, Tolerances
from cubie_flow.kernels.launch import BatchResult

Array = Any
#: Ends that are no failures.
_ENDED = (STATUS["success"], STATUS["event_stop"])


@frozen
class Attempt:
    """Settings of one attempt; what is None stays as it was.

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
    precision: str | None = field(default=None, validator=one_of("float32", "float64", None))
    linear_solver: str | None = field(default=None, validator=one_of(*LINEAR_SOLVERS, None))
    tolerance_factor: float = 1.0
    max_steps_factor: float = 10.0


#: A stiff method in double precision; then a fully implicit one, pivoted, at a tenth of the
#: tolerance, which starts every Newton iteration nearer to its end.
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


class Rescue:
    """Solves the failed runs of batches again; its kernels are built when first needed.

    Parameters
    ----------
    study : Study
    build : callable
        ``build(study)``: the kernel of a study.
    limits : callable
        ``limits(controller)``: its run-time settings.
    """

    def __init__(
        self,
        study: Any,
        build: Callable[[Any], BatchSolverKernel],
        limits: Callable[[Any], Tolerances],
    ) -> None:
        self.study = study
        self._build = build
        self._limits = limits
        self._kernels: dict[int, BatchSolverKernel] = {}

    def apply(
        self, columns: Mapping[str, Array], result: BatchResult, times: Array | None, threads: int
    ) -> BatchResult:
        """Return the result with failed runs replaced where an attempt succeeds.

        Every attempt gathers the runs that still fail into one compact batch; the others are not
        touched. ``attempts`` of the result is 0 for runs as they were, else the number of the
        attempt, from 1, that ended well.
        """
        attempts = np.zeros(len(result.status), np.uint8)
        seconds = result.seconds
        for number in range(1, len(self.study.rescue) + 1):
            failed = np.flatnonzero(~np.isin(result.status, _ENDED))
            if not failed.size:
                break
            chosen = {name: values[failed] for name, values in columns.items()}
            again = self._solve(number, chosen, failed.size, times, threads)
            seconds += again.seconds
            good = np.isin(again.status, _ENDED)
            saved = failed[good]
            for name, axis in _ARRAYS:
                into, new = getattr(result, name), getattr(again, name)
                # A float64 attempt may end where float32 has no number for it.
                with np.errstate(over="ignore"):
                    _rows(into, axis)[saved] = _rows(new, axis)[good]
            attempts[saved] = number
        return evolve(result, attempts=attempts, seconds=seconds)

    def _solve(
        self, number: int, columns: Mapping[str, Array], count: int, times: Array | None,
        threads: int,
    ) -> BatchResult:  # fmt: skip
        study = self._study(number)
        if number not in self._kernels:
            self._kernels[number] = self._build(study)
        limits = self._limits(study.controller)
        return self._kernels[number].solve(columns, count, limits, times, threads)

    def _study(self, number: int) -> Any:
        """Return the study as an attempt solves it."""
        study, attempt = self.study, self.study.rescue[number - 1]
        c = study.controller
        precision = attempt.precision or study.precision
        steps = int(c.max_steps * attempt.max_steps_factor)

        def scaled(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {name: one * attempt.tolerance_factor for name, one in value.items()}
            return value * attempt.tolerance_factor

        return evolve(
            study,
            algorithm=attempt.algorithm or study.algorithm,
            precision=precision,
            linear_solver=attempt.linear_solver or "auto",
            controller=evolve(
                c,
                kind="default",
                safety=None,
                min_factor=None,
                max_factor=None,
                dt=None,
                rtol=scaled(c.rtol),
                atol=scaled(c.atol),
                max_steps=min(steps, 2**24) if precision == "float32" else steps,
            ),
            locations={},
            rescue=(),
        )


#: Arrays of a result and their axis of runs.
_ARRAYS = (
    ("samples", 1), ("finals", 1), ("metrics", 2), ("misfits", 2), ("event_counts", 1),
    ("event_times", 2), ("status", 0), ("steps", 0), ("rejected", 0),
)  # fmt: skip


def _rows(array: Array, axis: int) -> Array:
    return np.moveaxis(array, axis, 0)
