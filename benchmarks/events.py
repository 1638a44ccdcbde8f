"""The cost of events: the same batch with and without events, solved alternately.

    python -m benchmarks.events

Prints medians of the kernel seconds, without compiling and writing.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from attrs import evolve

from cubie_flow.expressions.graph import symbol
from cubie_flow.integrators.run import RunSettings
from cubie_flow.integrators.tolerances import Tolerances
from cubie_flow.kernels.kernel import BatchSolverConfig, BatchSolverKernel
from cubie_flow.process.machine import usable_cores
from cubie_flow.systems import OdeSystem
from cubie_flow.systems.events import Event

ROUNDS = 5
SYSTEMS = Path(__file__).parents[1] / "conf" / "system"


def cases() -> dict[str, tuple[OdeSystem, str, tuple[float, float], int]]:
    """Return, by name, the system with events, the varied parameter, its range and the runs."""
    neuron = OdeSystem.from_file(SYSTEMS / "hodgkin_huxley.yaml")
    spike = Event("spike", root=symbol("V") - 0.0)
    lorenz = OdeSystem.from_file(SYSTEMS / "lorenz.yaml")
    turn = Event("turn", root=symbol("x") - 0.0, direction="both")
    return {
        "hodgkin_huxley, spikes counted": (evolve(neuron, events=(spike,)), "I_ext", (7, 20), 2048),
        "lorenz, changes of side counted": (evolve(lorenz, events=(turn,)), "rho", (25, 60), 16384),
    }


def main() -> None:
    """Print one line per case."""
    threads = min(2, usable_cores(None))
    for name, (system, varied, span, runs) in cases().items():
        columns = {varied: np.linspace(*span, runs)}
        kernels = []
        for events in ((), system.events):
            settings = RunSettings(
                evolve(system, events=events), varied=(varied,), duration=system.duration,
                event_times=10 if events else 0,
            )  # fmt: skip
            kernels.append(BatchSolverKernel(settings, BatchSolverConfig("cpu")))
        seconds: tuple[list[float], list[float]] = ([], [])
        happened: Any = 0.0
        steps = [0.0, 0.0]
        for _ in range(ROUNDS):
            for i, kernel in enumerate(kernels):
                result = kernel.solve(columns, runs, Tolerances(1e-6, 1e-6), threads=threads)
                seconds[i].append(result.seconds)
                steps[i] = float((result.steps + result.rejected).mean())
                if i and len(result.event_counts):
                    happened = result.event_counts.sum(axis=0).mean()
        without, with_events = (median(one) for one in seconds)
        print(
            f"{name}: {1e6 * without / runs:.2f} us per run without, "
            f"{1e6 * with_events / runs:.2f} with events ({happened:.1f} recorded per run; "
            f"{steps[0]:.0f} and {steps[1]:.0f} attempts); speed {without / with_events:.2f}"
        )


if __name__ == "__main__":
    main()
