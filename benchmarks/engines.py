"""Engines and orders: ``python -m benchmarks.engines [workers] [overhead] [order]``.

``workers`` solves one study with one and with two Dask workers of one thread each. ``overhead``
measures the bookkeeping per shard with 1, 2, 4 and 8 simulated workers: threads whose shards only
sleep. ``order`` solves batches of widely varying cost with and without ``batch.order=cost``.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from attrs import evolve, frozen

from cubie_flow import OdeSystem
from cubie_flow.api import (
    ControllerChoice,
    OutputChoice,
    Study,
    TargetChoice,
    run_study,
    solve_study,
)
from cubie_flow.batches import make_design
from cubie_flow.engines import Record, RunStatistics, WorkerResources, make_engine

SLEEP, SHARDS = 0.2, 20
REPEATS = 5


# workers --------------------------------------------------------------------------------------


def lorenz() -> OdeSystem:
    return OdeSystem.from_equations(
        "x' = sigma*(y - x)\ny' = x*(rho - z) - y\nz' = x*y - beta*z",
        states={"x": 1.0, "y": 1.0, "z": 1.0},
        parameters={"sigma": 10.0, "rho": 28.0, "beta": 8 / 3},
        name="lorenz",
    )


def workers() -> None:
    """Time the shards of a study on one and on two worker processes, alternately."""
    from distributed import LocalCluster

    study = Study(
        lorenz(),
        make_design("sobol", {"rho": {"uniform": [20, 40]}}, size=64_000),
        duration=150.0,
        controller=ControllerChoice(rtol=1e-7, atol=1e-7),
        output=OutputChoice(save_every=10.0),
        target=TargetChoice(kind="cpu", threads=1),
        shard_runs=2000,
    )
    rates: dict[int, list[float]] = {1: [], 2: []}
    quiet = {"dashboard_address": "127.0.0.1:0"}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(REPEATS):
            for number in (1, 2):
                with LocalCluster(
                    n_workers=number, threads_per_worker=1, dashboard_address=None,
                    scheduler_kwargs=quiet, silence_logs=50,
                ) as cluster:  # fmt: skip
                    seen: list[tuple[float, int]] = []

                    def show(state: Any, seen: list[tuple[float, int]] = seen) -> None:
                        seen.append((time.perf_counter(), state.done))

                    run_study(
                        study,
                        Path(folder) / f"{repeat}_{number}.zarr",
                        on_progress=show,
                        engine=make_engine("dask", scheduler=cluster.scheduler_address),
                    )
                # Without the first shards: the first task of a worker loads libraries.
                done = [(at, runs) for at, runs in seen if runs >= 4000]
                rates[number].append((done[-1][1] - done[0][1]) / (done[-1][0] - done[0][0]))
    print("workers   runs/s, median of", REPEATS)
    for number, found in rates.items():
        print(f"{number:7}   {median(found):,.0f}   ({', '.join(f'{r:,.0f}' for r in found)})")
    pairs = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    print(f"ratio of pairs: median {median(pairs):.2f}, {min(pairs):.2f} to {max(pairs):.2f}")


# overhead -------------------------------------------------------------------------------------


class NoStore:
    """A store that discards its shards."""

    file_seconds = 0.0

    def write_shard(self, index: int, arrays: Mapping[str, Any]) -> None:
        pass


@frozen
class Sleeper:
    """Work whose shards take a known time without using the processor; also its own solver."""

    token: str
    devices: tuple[int, ...] = ()
    where: str = "nowhere"

    def solver(self, seat: WorkerResources) -> Sleeper:
        return self

    def store(self) -> Any:
        return NoStore()

    @property
    def alone(self) -> str:
        return ""

    def runs(self, index: int) -> tuple[int, int]:
        return 100 * index, 100 * (index + 1)

    def solve(
        self, index: int, tick: Callable[[int], None] | None = None
    ) -> tuple[dict[str, Any], Record]:
        from distributed import get_worker

        began = time.perf_counter()
        # Vary the time by a half up and down, so that workers do not run in step.
        time.sleep(SLEEP * (0.5 + (index * 0.61803) % 1.0))
        row = {"number": float(get_worker().name), "began": began, "ended": time.perf_counter()}
        return {}, Record(index, 100, {0: 100}, 0, 0, (), SLEEP, row=row)


def overhead() -> None:
    """Measure the idle time of a worker between two shards."""
    from distributed import LocalCluster

    print("workers   ms between two shards: mean, median, 95 %; processor ms per shard, all parts")
    for number in (1, 2, 4, 8):
        with LocalCluster(
            n_workers=number, threads_per_worker=1, processes=False, dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"}, silence_logs=50,
        ) as cluster:  # fmt: skip
            engine = make_engine("dask", scheduler=cluster.scheduler_address)
            found: list[float] = []
            engine.run(Sleeper("warm"), range(number), RunStatistics({}))
            began = time.process_time()
            for repeat in range(REPEATS):
                account = RunStatistics({})
                engine.run(Sleeper(f"s{repeat}"), range(SHARDS * number), account)
                rows = [record.row for record in account.records.values()]
                assert len(rows) == SHARDS * number
                for one in range(number):
                    own = sorted((r["began"], r["ended"]) for r in rows if r["number"] == one)
                    found += [1000 * (b[0] - a[1]) for a, b in pairwise(own)]
            spent = 1000 * (time.process_time() - began) / (REPEATS * SHARDS * number)
        high = np.percentile(found, 95)
        print(f"{number:7}   {np.mean(found):5.1f} {median(found):7.1f} {high:7.1f} {spent:8.1f}")


# order ----------------------------------------------------------------------------------------


def order() -> None:
    """Solve the same batches in the given order and by cost, alternately."""
    oscillator = OdeSystem.from_equations(
        "x' = v\nv' = mu*(1 - x**2)*v - x",
        states={"x": 2.0, "v": 0.0}, parameters={"mu": 1.0}, name="van_der_pol",
    )  # fmt: skip
    spread = make_design("sobol", {"mu": {"loguniform": [0.1, 300.0]}}, size=2**15)
    durations = {"rho": {"uniform": [20, 40]}, "duration": {"loguniform": [0.2, 100.0]}}
    cases = {
        "van der Pol, mu 0.1 to 300": Study(oscillator, spread, duration=50.0),
        "Lorenz, duration 0.2 to 100": Study(lorenz(), make_design("sobol", durations, size=2**15)),
    }
    for title, study in cases.items():
        study = evolve(study, controller=ControllerChoice(rtol=1e-5, atol=1e-5))
        for target in _targets():
            study = evolve(study, target=target)
            ratios, spent = [], []
            for _ in range(REPEATS):
                seconds = {}
                for how in ("given", "cost"):
                    began = time.perf_counter()
                    data = solve_study(evolve(study, order=how))
                    seconds[how] = time.perf_counter() - began
                ratios.append(seconds["given"] / seconds["cost"])
                spent.append(seconds["given"])
            attempts = (data.steps + data.rejected).to_numpy()
            low, high = np.percentile(attempts, [5, 95])
            print(
                f"{title}, {target.kind}: given order {median(spent):.2f} s, by cost "
                f"{median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f}); "
                f"attempts {low:.0f} to {high:.0f} (5 to 95 %)"
            )


def _targets() -> list[TargetChoice]:
    from cubie_flow.kernels.targets.detect import cuda_devices, toolkit_installed

    found = [TargetChoice(kind="cpu", threads=1)]
    if cuda_devices() and toolkit_installed():
        found.append(TargetChoice(kind="cuda"))
    return found


if __name__ == "__main__":
    PARTS = {"workers": workers, "overhead": overhead, "order": order}
    for name in sys.argv[1:] or PARTS:
        PARTS[name]()
