"""Metamorphic checks: a case is solved in another way, and all results are compared.

Most checks require identical bits. Checks that change the computation, such as the time at which a
run starts, compare the results with the reference of the case.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from attrs import evolve

from benchmarks.conformance.case import Case, solve_case
from benchmarks.conformance.comparison import Finding, RunReference, compare, half_step
from cubie_flow import OdeSystem
from cubie_flow.batches import make_design
from cubie_flow.integrators.tableaus import METHODS
from cubie_flow.kernels.targets.detect import toolkit_installed
from cubie_flow.study.attempts import DEFAULT
from cubie_flow.study.options import OutputChoice, TargetChoice

Array = Any
Arrays = Mapping[str, Array]
#: Number of runs of a batch that is ordered by cost, and of a batch that two threads share.
MANY, SEVERAL = 600, 96
#: Shift of a run in time.
SHIFT = 3.25


def differences(
    kind: str, ours: Arrays, wanted: Arrays, runs: Sequence[int] | Array | None = None,
    ignored: frozenset[str] = frozenset(),
) -> Iterator[Finding]:  # fmt: skip
    """Yield every array whose bits differ, or that only one of both results contains.

    Parameters
    ----------
    kind : str
        Kind of the findings.
    ours, wanted : mapping
        All arrays by name; those of `wanted` are taken at `runs` where they have a run axis.
    runs : sequence of int, optional
        Numbers in `wanted` of the runs of `ours`.
    ignored : frozenset of str
        Names that are not compared.
    """
    count = len(wanted["status"])
    for name in sorted({*ours, *wanted} - ignored):
        if name not in ours or name not in wanted:
            where = "only one result" if name in ours else "the other result only"
            yield Finding(kind, f"'{name}' is in {where}")
            continue
        a, b = np.asarray(ours[name]), np.asarray(wanted[name])
        if runs is not None and b.ndim and len(b) == count and name != "time":
            b = b[np.asarray(runs)]
        if a.shape != b.shape or a.dtype != b.dtype:
            yield Finding(kind, f"'{name}' is {a.dtype}{a.shape}, was {b.dtype}{b.shape}")
        elif a.tobytes() != b.tobytes():
            apart = np.flatnonzero((a.view(f"V{a.itemsize}") != b.view(f"V{b.itemsize}")).ravel())
            first = np.unravel_index(apart[0], a.shape)
            run = int(first[0]) if a.ndim else 0
            yield Finding(
                kind, f"'{name}'{list(map(int, first))} is {a[first]!r}, was {b[first]!r} "
                f"({len(apart)} of {a.size} differ)", run,
            )  # fmt: skip


def _tiled(case: Case, count: int) -> tuple[Case, Array]:
    """Return a case of `count` repeated runs, and their numbers in the original case."""
    runs = np.arange(count) % case.runs
    # The repetitions have other neighbours.
    runs = np.concatenate(
        [runs[: case.runs], np.random.default_rng(7).permutation(runs[case.runs :])]
    )
    return case.with_runs(runs.tolist()), runs


# identical bits ---------------------------------------------------------------------------


def order(case: Case, base: Arrays, _: Sequence[RunReference]) -> Iterator[Finding]:
    """Solve the runs in another order."""
    runs = np.random.default_rng(3).permutation(case.runs)
    yield from differences("bits of order", solve_case(case.with_runs(runs.tolist())), base, runs)


def cost(case: Case, base: Arrays, _: Sequence[RunReference]) -> Iterator[Finding]:
    """Solve the runs in the order of their cost."""
    many, runs = _tiled(case, MANY)
    yield from differences("bits of batch.order", solve_case(many, order="cost"), base, runs)


def threads(case: Case, base: Arrays, _: Sequence[RunReference]) -> Iterator[Finding]:
    """Use two threads instead of one."""
    several, runs = _tiled(case, SEVERAL)
    target = TargetChoice("cpu", threads=2, lanes=case.lanes)
    yield from differences("bits of threads", solve_case(several, target=target), base, runs)


def rescue(case: Case, base: Arrays, _: Sequence[RunReference]) -> Iterator[Finding]:
    """Enable the rescue, which must not change successful runs."""
    healthy = np.flatnonzero(np.isin(base["status"], (0, 5)))
    if not healthy.size:
        return
    ours = solve_case(case.with_runs(healthy.tolist()), rescue=DEFAULT)
    attempts = ours.pop("attempt")
    yield from differences("bits of rescue", ours, base, healthy)
    if attempts.any():
        yield Finding("bits of rescue", "a healthy run was rescued", int(np.argmax(attempts)))


def rewritten(case: Case, base: Arrays, _: Sequence[RunReference]) -> Iterator[Finding]:
    """Write the model and read it again."""
    system = case.system
    again = OdeSystem.from_mapping(system.to_mapping())
    if again.content_hash != system.content_hash:
        yield Finding("bits of the written model", "the content hash differs")


def lanes(case: Case, base: Arrays, _: Sequence[RunReference]) -> Iterator[Finding]:
    """Use another number of lanes."""
    other = {None: 2, 2: 16, 4: 1}.get(case.lanes, 4)
    yield from differences("bits of lanes", solve_case(evolve(case, lanes=other)), base)


def renamed(case: Case, base: Arrays, _: Sequence[RunReference]) -> Iterator[Finding]:
    """Rename a state."""
    state = list(case.model["states"])[-1]
    new = {name: "zeta" + name[len(state) :] for name in base if _belongs(name, state)}
    wanted = {new.get(name, name): values for name, values in base.items()}
    yield from differences("bits of a name", solve_case(_renamed(case, state, "zeta")), wanted)


def _belongs(name: str, state: str) -> bool:
    return name == state or name.startswith(f"{state}_")


def _renamed(case: Case, old: str, new: str) -> Case:
    def changed(given: Any) -> Any:
        if isinstance(given, str):
            return re.sub(rf"\b{old}\b", new, given)
        if isinstance(given, Mapping):
            return {changed(key): changed(value) for key, value in given.items()}
        return [changed(one) for one in given] if isinstance(given, list) else given

    return evolve(
        case, model={**changed(case.model), "name": case.model.get("name", "m")},
        columns=changed(case.columns), atol=changed(case.atol), summaries=changed(case.summaries),
    )  # fmt: skip


def unsaved(case: Case, base: Arrays, _: Sequence[RunReference]) -> Iterator[Finding]:
    """Save nothing over time, which must not change the steps of methods with dense output."""
    method = METHODS.get(case.algorithm)
    if not case.times or method is None or not method.continuous:
        return
    ignored = frozenset({*case.saved, "time"})
    yield from differences(
        "bits without saving", solve_case(evolve(case, times=[])), base, None, ignored
    )


def simulator(case: Case, base: Arrays, _: Sequence[RunReference]) -> Iterator[Finding]:
    """Use the simulator of a GPU, with cheap runs only because it is slow."""
    cheap = np.argsort(base["steps"] + base["rejected"])[:2].tolist()
    if not toolkit_installed() or int((base["steps"] + base["rejected"])[cheap].max()) > 300:
        return
    if "duration" in case.columns:
        return
    ours = solve_case(case.with_runs(cheap), target=TargetChoice("simulator"))
    yield from differences("bits of the simulator", ours, base, cheap)


def _stored(case: Case, folder: Path, **options: Any) -> dict[str, Array]:
    """Return the results of a case from a store in a folder; `options` are those of `run_study`."""
    from cubie_flow.analysis.opening import open_runs
    from cubie_flow.api import run_study
    from cubie_flow.study.auto_method import resolve_algorithm

    study, _ = resolve_algorithm(case.study(shard_runs=5))
    run_study(study, folder / "results.zarr", **options)
    data = open_runs(folder / "results.zarr")
    return {str(name): np.asarray(array.values) for name, array in data.variables.items()}


def shards(case: Case, base: Arrays, _: Sequence[RunReference]) -> Iterator[Finding]:
    """Write the results to a store, shard by shard."""
    with tempfile.TemporaryDirectory() as folder:
        yield from differences("bits of shards", _stored(case, Path(folder)), base)


class _Stop(Exception):
    """Ends a study early."""


def resume(case: Case, base: Arrays, _: Sequence[RunReference]) -> Iterator[Finding]:
    """Stop a study after two shards, and resume it."""
    calls = 0

    def stop(_: float) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise _Stop

    with tempfile.TemporaryDirectory() as folder:
        with suppress(_Stop):
            _stored(case, Path(folder), between_shards=stop)
        ours = _stored(case, Path(folder), start="resume")
        yield from differences("bits of a resumed study", ours, base)


def dask(case: Case, base: Arrays, _: Sequence[RunReference]) -> Iterator[Finding]:
    """Use two worker processes."""
    from cubie_flow.engines import make_engine

    with tempfile.TemporaryDirectory() as folder:
        ours = _stored(case, Path(folder), engine=make_engine("dask", workers=2))
        yield from differences("bits of engine=dask", ours, base)


# agreement within the tolerance -----------------------------------------------------------


def _autonomous(case: Case) -> bool:
    """Return whether a model does not depend on time."""
    model = case.model
    if model.get("doses") or model.get("drivers") or case.switches:
        return False
    if any("at" in event for event in (model.get("events") or {}).values()):
        return False
    return not re.search(r"\bt\b", str({k: v for k, v in model.items() if k != "time"}))


def shifted(case: Case, base: Arrays, references: Sequence[RunReference]) -> Iterator[Finding]:
    """Solve an autonomous model at another time."""
    if not _autonomous(case) or case.precision == "float32":
        return
    ours = solve_case(evolve(case, t_start=case.t_start + SHIFT))
    for name in case.model.get("events") or {}:
        if f"{name}_times" in ours:
            ours[f"{name}_times"] = ours[f"{name}_times"] - SHIFT
    finer = half_step(evolve(case, t_start=case.t_start + SHIFT))
    for one in references:
        for finding in compare(case, ours, one, finer):
            yield evolve(finding, kind=f"{finding.kind} of a shifted run")


def folded(case: Case, base: Arrays, references: Sequence[RunReference]) -> Iterator[Finding]:
    """Solve one run alone, with its values in the model instead of the batch."""
    for one in references[:1]:
        given = case.values(one.run)
        model = dict(case.model)
        for group in ("parameters", "states"):
            own = model.get(group) or {}
            model[group] = {**own, **{n: v for n, v in given.items() if n in own}}
        duration = given.get("duration", case.duration)
        times = [time for time in case.times if time <= duration]
        alone = evolve(case, model=model, columns={}, duration=duration, times=times)
        ours = solve_case(alone)
        right, others = one.right, one.disturbed
        cut = len(times)
        moved = RunReference(
            0, evolve(right, saved=right.saved[:, :cut]),
            tuple(evolve(other, saved=other.saved[:, :cut]) for other in others), one.sizes,
        )  # fmt: skip
        for finding in compare(alone, ours, moved, half_step(alone)):
            yield evolve(finding, kind=f"{finding.kind} of one run alone", run=one.run)


def split(case: Case, base: Arrays, references: Sequence[RunReference]) -> Iterator[Finding]:
    """Solve a run in two parts; the second starts at the end of the first."""
    model = case.model
    sets = {name for e in (model.get("events") or {}).values() for name in e.get("set") or {}}
    if (
        not _autonomous(case)
        or sets & {*(model.get("parameters") or {})}
        or case.precision == "float32"
    ):
        return
    if any("initially" in e for e in (model.get("events") or {}).values()) or case.summaries:
        return
    spans = np.asarray(case.columns.get("duration", [case.duration] * case.runs))
    first = 0.37 * spans
    states = list(model["states"])
    # Start values and durations vary in both parts, so that both use the same kernel.
    columns = {**case.columns, **{name: _starts(case, name) for name in states}}
    part = evolve(case, columns={**columns, "duration": first.tolist()}, times=[])
    a = solve_case(part)
    carried = {name: np.asarray(a[f"{name}_final"], float).tolist() for name in states}
    rest = evolve(part, columns={**columns, **carried, "duration": (spans - first).tolist()})
    ended = ~np.isin(a["status"], (0,))
    b = solve_case(rest)
    joined = {f"{name}_final": b[f"{name}_final"] for name in states}
    joined |= {"status": b["status"], "steps": a["steps"] + b["steps"]}
    for name, event in (model.get("events") or {}).items():
        if event.get("record", True):
            joined[f"{name}_count"] = a[f"{name}_count"] + b[f"{name}_count"]
    unsaved_case = evolve(case, times=[])
    for one in references:
        if ended[one.run] or case.dt:
            continue
        for finding in compare(unsaved_case, joined, one):
            if finding.kind in ("values", "counts", "lost runs", "status"):
                yield evolve(finding, kind=f"{finding.kind} of a run in two parts")


def _starts(case: Case, name: str) -> list[float]:
    """Return the start values of a state in all runs."""
    from benchmarks.conformance.reference import Reference

    if name in case.columns:
        return case.columns[name]
    reference = Reference(case)
    number = reference.states.index(name)
    return [reference.start(case.values(run))[0][number] for run in range(case.runs)]


#: From a case, its results by name and the references of some runs, to the disagreements.
Check = Callable[[Case, Arrays, Sequence[RunReference]], Iterator[Finding]]
#: Checks by their cost: with the same kernel, with a store, with a new kernel, and slow ones.
FREE: dict[str, Check] = {
    "order": order, "cost": cost, "threads": threads, "rescue": rescue, "rewritten": rewritten,
}  # fmt: skip
STORED: dict[str, Check] = {"shards": shards, "resume": resume}
COMPILED: dict[str, Check] = {
    "lanes": lanes, "renamed": renamed, "unsaved": unsaved, "shifted": shifted, "folded": folded,
    "split": split,
}  # fmt: skip
RARE: dict[str, Check] = {"simulator": simulator, "dask": dask}
CHECKS: dict[str, Check] = {**FREE, **STORED, **COMPILED, **RARE}


def draw_checks(rng: np.random.Generator) -> list[str]:
    """Return the names of random checks for one case."""
    chosen = [name for name in FREE if rng.random() < 0.4]
    for share, group in ((0.08, STORED), (0.12, COMPILED)):
        if rng.random() < share:
            chosen.append(list(group)[int(rng.integers(len(group)))])
    if rng.random() < 0.004:
        chosen.append("simulator")
    if rng.random() < 0.001:
        chosen.append("dask")
    return chosen


__all__ = ["CHECKS", "OutputChoice", "differences", "draw_checks", "make_design"]
