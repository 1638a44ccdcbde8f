"""What is chosen of a study: step control, outputs and target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from attrs import field, frozen

from cubie_flow.errors import FlowError
from cubie_flow.integrators.tolerances import AUTO

Array = Any


def check_number(key: str, value: object) -> None:
    """Refuse what is neither a number nor None.

    Raises
    ------
    FlowError
        Naming the key.
    """
    if value is not None and (isinstance(value, bool | np.bool_) or not isinstance(value, Real)):
        raise FlowError(f"{key} is {value!r:.60}; it must be a number")


def _names(value: Any) -> Any:
    """Return one name as a list of it, and what is no list of names as it is."""
    return (value,) if isinstance(value, str) else value


def _check_names(_: object, attribute: Any, value: Any) -> None:
    listed = isinstance(value, Sequence | np.ndarray)
    if value is not None and not (listed and all(isinstance(name, str) for name in value)):
        raise FlowError(
            f"output.{attribute.name} is {value!r:.60}; it must be a list of names, such as "
            "['x', 'y'], or None"
        )


@frozen
class ControllerChoice:
    """Step control: the kind and its constants (compiled in), tolerances and bounds (run time).

    ``atol`` may be ``auto``: see `cubie_flow.integrators.tolerances.absolute_tolerances`.
    """

    kind: str = "default"
    rtol: float | Mapping[str, float] = 1e-6
    atol: float | Mapping[str, float] | str = AUTO
    dt: float | None = None
    dt_min: float = 0.0
    dt_max: float | None = None
    max_steps: int = 1_000_000
    safety: float | None = None
    min_factor: float | None = None
    max_factor: float | None = None

    def __attrs_post_init__(self) -> None:
        for key in ("dt", "dt_min", "dt_max", "max_steps", "safety", "min_factor", "max_factor"):
            check_number(f"controller.{key}", getattr(self, key))
        for key, given in (("rtol", self.rtol), ("atol", self.atol)):
            if key == "atol" and given == AUTO:
                continue
            for name, value in given.items() if isinstance(given, Mapping) else [("", given)]:
                check_number(f"controller.{key}{f'.{name}' if name else ''}", value)


@frozen
class OutputChoice:
    """What is kept of every run.

    Parameters
    ----------
    save_every : float, optional
        Interval between saved times, from the start on.
    times : sequence of float, optional
        Saved times, relative to the start; instead of `save_every`.
    variables : sequence of str, optional
        States and observables saved at those times; None saves all states.
    summaries : sequence of str, optional
        States and observables whose min, max, mean, rms, std and number of peaks over the whole
        run are kept; None keeps none.
    sensitivities : sequence of str, optional
        Parameters, and states for their initial values, with respect to which the derivatives of
        all states are integrated too; see `cubie_flow.systems.sensitivities`.
    compare : path or mapping, optional
        Measured data whose misfit is kept of every run; see `cubie_flow.systems.measurements`.
    where : str, optional
        A condition on what is kept of every run, by the names of the store, such as
        ``"x_max > 20"``: a second pass saves the trajectories of the runs that satisfy it, those
        of the others are NaN; see `cubie_flow.study.trajectory_filter`.
    event_times : int
        First times that are kept of every event of the model, beside how often it happened.
    """

    save_every: float | None = None
    times: Sequence[float] | None = None
    variables: Sequence[str] | None = field(default=None, converter=_names, validator=_check_names)
    summaries: Sequence[str] | None = field(default=None, converter=_names, validator=_check_names)
    sensitivities: Sequence[str] | None = field(
        default=None, converter=_names, validator=_check_names
    )
    compare: Any = field(default=None, eq=False)
    where: str | None = None
    event_times: int = 10

    def saved_times(self, duration: float) -> Array:
        """Return the saved times relative to the start, float64; empty for the final state only.

        Raises
        ------
        FlowError
            If both ways are used, or times are negative, repeated or not increasing.
        """
        if self.save_every is not None and self.times is not None:
            raise FlowError("output.save_every and output.times exclude each other; give one")
        check_number("output.save_every", self.save_every)
        if self.save_every is not None:
            if not self.save_every > 0:
                raise FlowError(f"output.save_every is {self.save_every}; it must be positive")
            count = int(np.floor(duration / self.save_every * (1 + 1e-12)))
            if count >= 10_000_000:
                raise FlowError(
                    f"output.save_every={self.save_every} makes {count + 1} saved times over a "
                    f"duration of {duration}; allowed are 10,000,000"
                )
            return self.save_every * np.arange(count + 1)
        given = np.asarray([] if self.times is None else list(self.times), np.float64)
        if given.size and (
            not np.isfinite(given).all() or given[0] < 0 or (np.diff(given) <= 0).any()
        ):
            raise FlowError(
                "output.times must be finite, not negative and increasing, such as [0, 0.5, 1]"
            )
        return given


@frozen
class TargetChoice:
    """Where and how the batch runs; see `BatchSolverConfig`.

    ``device`` is the GPU to use, several of them, or None for all: shards spread over them.
    """

    kind: str = "auto"
    threads: int | None = None
    lanes: int | None = None
    math: str = "portable"
    arch: str | None = None
    block_size: int = 128
    device: int | tuple[int, ...] | None = None

    @property
    def first_device(self) -> int:
        """The GPU that a study is planned for."""
        if isinstance(self.device, int):
            return self.device
        return self.device[0] if self.device else 0
