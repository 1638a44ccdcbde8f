"""The options of a study: step control, outputs and target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import field, frozen

from cubie_flow.allowed_values import CONTROLLERS, MATHS
from cubie_flow.errors import FlowError
from cubie_flow.registries import TARGETS
from cubie_flow.study.checks import (
    ARCHITECTURES,
    DATA,
    DEVICES,
    MAPPING,
    NAMES,
    TEXT,
    TIMES,
    choice,
    number,
    optional,
    registered,
    setting,
    tolerance,
    whole,
)

Array = Any


@frozen
class ControllerChoice:
    """Step control: the kind and its constants (compiled in), tolerances and bounds (run time).

    Parameters
    ----------
    kind : str
        One of `cubie_flow.allowed_values.CONTROLLERS`.
    rtol : float or mapping
        Relative tolerance: one number, or one per state by name.
    atol : float, mapping or "auto"
        Absolute tolerance in units of the state; for ``auto`` see
        `cubie_flow.integrators.tolerances.absolute_tolerances`.
    dt : float, optional
        First step of an adaptive method, the step of a fixed one; None chooses.
    dt_min, dt_max : float, optional
        Bounds of the step.
    max_steps : int
        Attempted steps per run.
    pending_events : int
        How often one event with a delay can wait to happen at once.
    safety, min_factor, max_factor : float, optional
        Constants of the controller; None takes those of the method.
    history : int
        Largest number of steps that are kept for the delays of a model.

    Raises
    ------
    FlowError
        For a value that is not allowed, naming the key.
    """

    kind: str = setting("controller.kind", choice(*CONTROLLERS), "default")
    rtol: float | Mapping[str, float] = setting("controller.rtol", tolerance(absolute=False), 1e-6)
    atol: float | Mapping[str, float] | str = setting(
        "controller.atol", tolerance(absolute=True), "auto"
    )
    dt: float | None = setting("controller.dt", optional(number(above=0.0)), None)
    dt_min: float = setting("controller.dt_min", number(least=0.0), 0.0)
    dt_max: float | None = setting("controller.dt_max", optional(number(above=0.0)), None)
    max_steps: int = setting("controller.max_steps", whole(1), 1_000_000)
    pending_events: int = setting("controller.pending_events", whole(1), 16)
    safety: float | None = setting("controller.safety", optional(number(above=0.0)), None)
    min_factor: float | None = setting("controller.min_factor", optional(number(above=0.0)), None)
    max_factor: float | None = setting("controller.max_factor", optional(number(above=1.0)), None)
    history: int = setting("controller.history", whole(2), 256)


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
    error : mapping
        Models of the residual error of the observations of subjects, by observed quantity: the
        standard deviations ``additive``, ``proportional`` or both, or ``lognormal``; see
        `cubie_flow.integrators.residual_errors`.
    where : str, optional
        A condition on what is kept of every run, by the names of the store, such as
        ``"x_max > 20"``: a second pass saves the trajectories of the runs that satisfy it, those
        of the others are NaN; see `cubie_flow.study.trajectory_filter`.
    event_times : int
        First times that are kept of every event of the model, in addition to how often it happened.
    """

    save_every: float | None = setting("output.save_every", optional(number(above=0.0)), None)
    times: Sequence[float] | None = setting("output.times", TIMES, None)
    variables: Sequence[str] | None = setting("output.variables", NAMES, None)
    summaries: Sequence[str] | None = setting("output.summaries", NAMES, None)
    sensitivities: Sequence[str] | None = setting("output.sensitivities", NAMES, None)
    # Python may give more than a config can, so the data are checked where they are read.
    compare: Any = field(default=None, eq=False, metadata={"key": "output.compare", "check": DATA})
    error: Mapping[str, Any] = setting("output.error", MAPPING, factory=dict)
    where: str | None = setting("output.trajectories.where", optional(TEXT), None)
    event_times: int = setting("output.event_times", whole(0), 10)

    def saved_times(self, duration: float) -> Array:
        """Return the saved times relative to the start, float64; empty for the final state only.

        Raises
        ------
        FlowError
            If both ways are used, or times are repeated or not increasing.
        """
        if self.save_every is not None and self.times is not None:
            raise FlowError("output.save_every and output.times exclude each other; give one")
        import numpy as np

        if self.save_every is not None:
            # The quotient of large and small numbers may be infinite.
            count = int(min(np.floor(duration / self.save_every * (1 + 1e-12)), 1e18))
            if count >= 10_000_000:
                raise FlowError(
                    f"output.save_every={self.save_every} makes {count + 1} saved times over a "
                    f"duration of {duration}; allowed are 10,000,000"
                )
            return self.save_every * np.arange(count + 1)
        given = np.asarray([] if self.times is None else list(self.times), np.float64)
        if (np.diff(given) <= 0).any():
            raise FlowError("output.times must be increasing, such as [0, 0.5, 1]")
        return given


@frozen
class TargetChoice:
    """Where and how the batch runs.

    Parameters
    ----------
    kind : str
        A name of `cubie_flow.registries.TARGETS`, or ``auto``.
        ``auto`` is ``cuda`` where a GPU is usable, else ``cpu``.
    threads : int, optional
        CPU threads; None uses all that this process may use.
    lanes : int, optional
        Runs that a CPU core solves side by side; None chooses.
    math : {"portable", "native"}
        Elementary functions on CUDA.
    arch : str, optional
        CUDA architecture to compile for; None asks the device.
    block_size : int
        Threads per CUDA block, before shared memory is fitted.
    device : int or tuple of int, optional
        The GPU to use, several of them, or None for all: shards spread over them.

    Raises
    ------
    FlowError
        For a value that is not allowed, naming the key.
    """

    kind: str = setting("target.kind", registered(TARGETS, "auto"), "auto")
    threads: int | None = setting("target.threads", optional(whole(1)), None)
    lanes: int | None = setting("target.lanes", optional(whole(1)), None)
    math: str = setting("target.math", choice(*MATHS), "portable")
    arch: str | None = setting("target.arch", ARCHITECTURES, None)
    block_size: int = setting("target.block_size", whole(1), 128)
    device: int | tuple[int, ...] | None = setting("target.device", DEVICES, None)

    @property
    def first_device(self) -> int:
        """The GPU that a study is planned for."""
        if isinstance(self.device, int):
            return self.device
        return self.device[0] if self.device else 0
