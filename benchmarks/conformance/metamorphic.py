"""What must not matter: a case is solved in another way, and every stored array is compared.

Most checks ask for the same bits. Those that change what is computed, such as the time at which a
run starts, are compared with the reference of the case.
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

from benchmarks.conformance.case import Case, solved
from benchmarks.conformance.comparison import Finding, Judged, compare, half_step
from cubie_flow import OdeSystem
from cubie_flow.batches import make_design
from cubie_flow.integrators.tableaus import METHODS
from cubie_flow.kernels.targets.detect import toolkit_installed
from cubie_flow.study.attempts import DEFAULT
from cubie_flow.study.options import OutputChoice, TargetChoice

Array = Any
Arrays = Mapping[str, Array]
#: Runs of a batch that is large enough to be ordered by cost, and of one that two threads share.
MANY, SEVERAL = 600, 96
#: By how much a run is shifted in time.
SHIFT = 3.25


def differences(
    kind: str, ours: Arrays, wanted: Arrays, runs: Sequence[int] | Array | None = None,
    leave: frozenset[str] = frozenset(),
) -> Iterator[Finding]:  # fmt: skip
    """Yield every array whose bits differ; what only one of both has is a difference too.

    Parameters
    ----------
    kind : str
    ours, wanted : mapping
        All arrays by name; those of `wanted` are taken at `runs` where they have a run axis.
    runs : sequence of int, optional
        Which runs of `wanted` those of `ours` are.
    leave : frozenset of str
        Names that are not compared.
    """
    count = len(wanted["status"])
    for name in sorted({*ours, *wanted} - leave):
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
    """Return a case of `count` runs, and which of the case they are."""
    runs = np.arange(count) % case.runs
    # Not the same neighbours all over.
    runs = np.concatenate(
        [runs[: case.runs], np.random.default_rng(7).permutation(runs[case.runs :])]
    )
    return case.chosen(runs.tolist()), runs


# the same bits ----------------------------------------------------------------------------


def order(case: Case, base: Arrays, _: Sequence[Judged]) -> Iterator[Finding]:
    """Runs in another order."""
    runs = np.random.default_rng(3).permutation(case.runs)
    yield from differences("bits of order", solved(case.chosen(runs.tolist())), base, runs)


def cost(case: Case, base: Arrays, _: Sequence[Judged]) -> Iterator[Finding]:
    """Runs solved in the order of their cost."""
    many, runs = _tiled(case, MANY)
    yield from differences("bits of batch.order", solved(many, order="cost"), base, runs)


def threads(case: Case, base: Arrays, _: Sequence[Judged]) -> Iterator[Finding]:
    """Two threads instead of one."""
    several, runs = _tiled(case, SEVERAL)
    target = TargetChoice("cpu", threads=2, lanes=case.lanes)
    yield from differences("bits of threads", solved(several, target=target), base, runs)


def rescue(case: Case, base: Arrays, _: Sequence[Judged]) -> Iterator[Finding]:
    """A rescue leaves healthy runs alone."""
    healthy = np.flatnonzero(np.isin(base["status"], (0, 5)))
    if not healthy.size:
        return
    found = solved(case.chosen(healthy.tolist()), rescue=DEFAULT)
    attempts = found.pop("attempt")
    yield from differences("bits of rescue", found, base, healthy)
    if attempts.any():
        yield Finding("bits of rescue", "a healthy run was rescued", int(np.argmax(attempts)))


def rewritten(case: Case, base: Arrays, _: Sequence[Judged]) -> Iterator[Finding]:
    """The model written out and read again."""
    system = case.system
    again = OdeSystem.from_mapping(system.to_mapping())
    if again.content_hash != system.content_hash:
        yield Finding("bits of the written model", "the content hash differs")


def lanes(case: Case, base: Arrays, _: Sequence[Judged]) -> Iterator[Finding]:
    """Another number of runs side by side."""
    other = {None: 2, 2: 16, 4: 1}.get(case.lanes, 4)
    yield from differences("bits of lanes", solved(evolve(case, lanes=other)), base)


def renamed(case: Case, base: Arrays, _: Sequence[Judged]) -> Iterator[Finding]:
    """A state with another name."""
    state = list(case.model["states"])[-1]
    new = {name: "zeta" + name[len(state) :] for name in base if _belongs(name, state)}
    wanted = {new.get(name, name): values for name, values in base.items()}
    yield from differences("bits of a name", solved(_renamed(case, state, "zeta")), wanted)


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


def unsaved(case: Case, base: Arrays, _: Sequence[Judged]) -> Iterator[Finding]:
    """Nothing saved over time: methods with dense output do not land on saved times."""
    chosen = METHODS.get(case.algorithm)
    if not case.times or chosen is None or not chosen.continuous:
        return
    left = frozenset({*case.saved, "time"})
    yield from differences("bits without saving", solved(evolve(case, times=[])), base, None, left)


def simulator(case: Case, base: Arrays, _: Sequence[Judged]) -> Iterator[Finding]:
    """The simulator of a GPU; it is slow, so that only cheap runs take part."""
    cheap = np.argsort(base["steps"] + base["rejected"])[:2].tolist()
    if not toolkit_installed() or int((base["steps"] + base["rejected"])[cheap].max()) > 300:
        return
    if "duration" in case.columns:
        return
    found = solved(case.chosen(cheap), target=TargetChoice("simulator"))
    yield from differences("bits of the simulator", found, base, cheap)


def _stored(case: Case, folder: Path, **options: Any) -> dict[str, Array]:
    from cubie_flow.analysis.opening import open_runs
    from cubie_flow.api import run_study
    from cubie_flow.study.auto_method import resolve_algorithm

    study, _ = resolve_algorithm(case.study(shard_runs=5))
    run_study(study, folder / "results.zarr", **options)
    data = open_runs(folder / "results.zarr")
    return {str(name): np.asarray(array.values) for name, array in data.variables.items()}


def shards(case: Case, base: Arrays, _: Sequence[Judged]) -> Iterator[Finding]:
    """Written to a store, shard by shard."""
    with tempfile.TemporaryDirectory() as folder:
        yield from differences("bits of shards", _stored(case, Path(folder)), base)


class _Stop(Exception):
    pass


def resume(case: Case, base: Arrays, _: Sequence[Judged]) -> Iterator[Finding]:
    """Stopped after two shards, and resumed."""
    calls = 0

    def stop(_: float) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise _Stop

    with tempfile.TemporaryDirectory() as folder:
        with suppress(_Stop):
            _stored(case, Path(folder), between_shards=stop)
        found = _stored(case, Path(folder), start="resume")
        yield from differences("bits of a resumed study", found, base)


def dask(case: Case, base: Arrays, _: Sequence[Judged]) -> Iterator[Finding]:
    """Two worker processes."""
    from cubie_flow.engines import make_engine

    with tempfile.TemporaryDirectory() as folder:
        found = _stored(case, Path(folder), engine=make_engine("dask", workers=2))
        yield from differences("bits of engine=dask", found, base)


# the same digits --------------------------------------------------------------------------


def _autonomous(case: Case) -> bool:
    """Return whether nothing in a model depends on time."""
    model = case.model
    if model.get("doses") or model.get("drivers") or case.switches:
        return False
    if any("at" in event for event in (model.get("events") or {}).values()):
        return False
    return not re.search(r"\bt\b", str({k: v for k, v in model.items() if k != "time"}))


def shifted(case: Case, base: Arrays, about: Sequence[Judged]) -> Iterator[Finding]:
    """An autonomous model at another time."""
    if not _autonomous(case) or case.precision == "float32":
        return
    found = solved(evolve(case, t_start=case.t_start + SHIFT))
    for name in case.model.get("events") or {}:
        if f"{name}_times" in found:
            found[f"{name}_times"] = found[f"{name}_times"] - SHIFT
    finer = half_step(evolve(case, t_start=case.t_start + SHIFT))
    for one in about:
        for finding in compare(case, found, one, finer):
            yield evolve(finding, kind=f"{finding.kind} of a shifted run")


def folded(case: Case, base: Arrays, about: Sequence[Judged]) -> Iterator[Finding]:
    """What the batch varies as values of the model."""
    for one in about[:1]:
        given = case.values(one.run)
        model = dict(case.model)
        for group in ("parameters", "states"):
            own = model.get(group) or {}
            model[group] = {**own, **{n: v for n, v in given.items() if n in own}}
        duration = given.get("duration", case.duration)
        times = [time for time in case.times if time <= duration]
        alone = evolve(case, model=model, columns={}, duration=duration, times=times)
        found = solved(alone)
        right, others = one.right, one.disturbed
        cut = len(times)
        moved = Judged(
            0, evolve(right, saved=right.saved[:, :cut]),
            tuple(evolve(other, saved=other.saved[:, :cut]) for other in others), one.sizes,
        )  # fmt: skip
        for finding in compare(alone, found, moved, half_step(alone)):
            yield evolve(finding, kind=f"{finding.kind} of one run alone", run=one.run)


def split(case: Case, base: Arrays, about: Sequence[Judged]) -> Iterator[Finding]:
    """A run in two parts, the state carried over."""
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
    # Start values and durations vary in both parts, so that one kernel serves.
    columns = {**case.columns, **{name: _starts(case, name) for name in states}}
    part = evolve(case, columns={**columns, "duration": first.tolist()}, times=[])
    a = solved(part)
    carried = {name: np.asarray(a[f"{name}_final"], float).tolist() for name in states}
    rest = evolve(part, columns={**columns, **carried, "duration": (spans - first).tolist()})
    ended = ~np.isin(a["status"], (0,))
    b = solved(rest)
    joined = {f"{name}_final": b[f"{name}_final"] for name in states}
    joined |= {"status": b["status"], "steps": a["steps"] + b["steps"]}
    for name, event in (model.get("events") or {}).items():
        if event.get("record", True):
            joined[f"{name}_count"] = a[f"{name}_count"] + b[f"{name}_count"]
    unsaved_case = evolve(case, times=[])
    for one in about:
        if ended[one.run] or case.dt:
            continue
        for finding in compare(unsaved_case, joined, one):
            if finding.kind in ("values", "counts", "lost runs", "status"):
                yield evolve(finding, kind=f"{finding.kind} of a run in two parts")


def _starts(case: Case, name: str) -> list[float]:
    from benchmarks.conformance.reference import Reference

    if name in case.columns:
        return case.columns[name]
    about = Reference(case)
    place = about.states.index(name)
    return [about.start(case.values(run))[0][place] for run in range(case.runs)]


Check = Callable[[Case, Arrays, Sequence[Judged]], Iterator[Finding]]
#: Checks by what they cost: nothing new compiled, a store written, a new kernel, and slow ones.
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


def some(rng: np.random.Generator) -> list[str]:
    """Return the names of the checks for one case."""
    chosen = [name for name in FREE if rng.random() < 0.4]
    for share, group in ((0.08, STORED), (0.12, COMPILED)):
        if rng.random() < share:
            chosen.append(list(group)[int(rng.integers(len(group)))])
    if rng.random() < 0.004:
        chosen.append("simulator")
    if rng.random() < 0.001:
        chosen.append("dask")
    return chosen


__all__ = ["CHECKS", "OutputChoice", "differences", "make_design", "some"]
