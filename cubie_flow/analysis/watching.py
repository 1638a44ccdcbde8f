"""How far a study is, from its store alone: whoever computes it, and wherever.

A shard is in the store once its statuses are, so the statuses say everything: which runs are
finished, and how they ended. The process that computes is never asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from attrs import evolve, frozen

from cubie_flow.analysis import folders
from cubie_flow.analysis.runs import flags
from cubie_flow.batches.store_names import STATUS
from cubie_flow.console.pace import Pace, duration_text
from cubie_flow.console.paths import location_text
from cubie_flow.console.progress import Progress
from cubie_flow.engines import Part
from cubie_flow.errors import FlowError
from cubie_flow.integrators.status import WELL
from cubie_flow.storage import Location, ResultStore
from cubie_flow.storage.folders import CONFIG, LOG
from cubie_flow.storage.index import FAILED, SUCCESS, is_multirun, read_index
from cubie_flow.storage.latest import named_run
from cubie_flow.storage.schema import UNWRITTEN


@frozen
class Look:
    """What a store holds at one moment.

    Attributes
    ----------
    name, about : str
        The study, and its model and method.
    done, total : int
        Runs in the store, and all runs.
    ended : mapping
        Number of runs by status.
    jobs : tuple of Look
        Of a multirun, one for each job.
    note : str
        Why nothing is known, or why a job failed.
    """

    name: str
    about: str = ""
    done: int = 0
    total: int = 0
    ended: Mapping[str, int] = {}
    jobs: tuple[Look, ...] = ()
    note: str = ""

    @property
    def failures(self) -> int:
        """Runs that did not end well."""
        return sum(count for name, count in self.ended.items() if name not in WELL)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to wait for."""
        if self.jobs:
            return all(job.complete or job.note for job in self.jobs)
        return 0 < self.total == self.done

    @property
    def values(self) -> dict[str, Any]:
        """The same in plain types."""
        return {
            "study": self.name,
            "about": self.about,
            "runs": self.total,
            "done": self.done,
            "failed": self.failures,
            "ended": dict(self.ended),
            "complete": self.complete,
            "note": self.note,
            "jobs": [job.values for job in self.jobs],
        }


class Watcher:
    """Looks at the store of a study again and again.

    Parameters
    ----------
    path : path or str
        A store, the folder of a run, or a URL, as for `cubie_flow.open_results`.

    Raises
    ------
    FlowError
        If there is neither a store nor a study that is about to make one.
    """

    def __init__(self, path: str | Path) -> None:
        self._given = path if folders.is_url(path) else named_run(Path(path).expanduser())
        self.pace = Pace()
        self._began = monotonic()
        self._complete: dict[str, Look] = {}
        self._location()

    def look(self) -> Look:
        """Return what the store holds now."""
        look = self._look()
        self.pace.note(monotonic() - self._began, look.done)
        return look

    def progress(self, look: Look) -> Progress:
        """Return a look as the progress of a study."""
        parts = tuple(
            Part(f"{job.name} {job.about}".rstrip(), job.done, job.failures, 0.0, total=job.total)
            for job in look.jobs
            if 0 < job.done < job.total
        )
        ended = sum(job.complete for job in look.jobs)
        detail = f"{ended:,} of {len(look.jobs):,} jobs" if look.jobs else ""
        seconds = monotonic() - self._began
        return Progress(
            look.done, look.total, look.failures, seconds, parts, detail, compiling=not look.total
        )

    def facts(self, look: Look) -> list[tuple[str, str]]:
        """Return a look as named lines."""
        facts = [("study", f"{look.name}: {look.about}" if look.about else look.name)]
        if look.note:
            return [*facts, ("note", look.note)]
        share = f", {100 * look.done / look.total:.1f} %" if look.total else ""
        facts.append(("runs", f"{look.done:,} of {look.total:,}{share}"))
        if look.ended:
            facts.append(("ended", ", ".join(f"{name} {n:,}" for name, n in look.ended.items())))
        if look.jobs:
            failed = sum(bool(job.note) for job in look.jobs)
            ended = sum(job.complete for job in look.jobs)
            text = f"{ended:,} of {len(look.jobs):,} complete"
            facts.append(("jobs", f"{text}{f', {failed:,} failed' if failed else ''}"))
        if not look.complete and (rate := self.pace.rate) is not None:
            left = duration_text(self.pace.remaining(look.total) or 0.0)
            facts.append(("pace", f"{rate:,.0f} runs/s, about {left} to go"))
        return facts

    def _location(self) -> Location | None:
        """Return where the store is; None while its study has not made it yet."""
        try:
            return folders.place_of(self._given)
        except FlowError:
            folder = Path(self._given)
            if all((folder / name).is_file() for name in (CONFIG, LOG)):
                return None
            raise

    def _look(self) -> Look:
        location = self._location()
        if location is None:
            return Look(str(self._given), note="it compiles, or was stopped before it began")
        if is_multirun(location):
            return self._look_at_jobs(location)
        try:
            return self._look_at_runs(location, "")
        except FlowError:
            if self._complete or not _is_being_made(location):
                raise
            return Look(location.name, note="its store is being made")

    def _look_at_runs(self, location: Location, name: str) -> Look:
        """Return a look at the runs of one store or group."""
        store = ResultStore.open(location)
        attrs = store.attrs
        if "design" not in attrs:
            raise FlowError(f"'{location.name}' holds no study that could be watched")
        counts = store.status_counts()
        words = {code: word for word, code in flags(store.array(STATUS)).items()}
        missing = counts.pop(UNWRITTEN, 0)
        about = ", ".join(str(attrs[key]) for key in ("title", "algorithm") if attrs.get(key))
        total = store.plan.runs
        return Look(
            name or str(attrs.get("study", location.name)),
            about,
            total - missing,
            total,
            {words.get(code, str(code)): count for code, count in sorted(counts.items())},
        )

    def _look_at_jobs(self, root: Location) -> Look:
        """Return a look at all jobs of a multirun; a complete job is read once."""
        rows, _ = read_index(root)
        jobs = []
        for row in rows:
            group = str(row["group"])
            if group not in self._complete:
                job = self._look_at_job(root.child(group), row)
                if job.complete:
                    self._complete[group] = job
                jobs.append(job)
            else:
                jobs.append(self._complete[group])
        ended: dict[str, int] = {}
        for job in jobs:
            for name, count in job.ended.items():
                ended[name] = ended.get(name, 0) + count
        return Look(
            location_text(root),
            f"{len(jobs):,} jobs",
            sum(job.done for job in jobs),
            sum(job.total for job in jobs),
            ended,
            tuple(jobs),
        )

    def _look_at_job(self, location: Location, row: Mapping[str, Any]) -> Look:
        name, words = str(row["group"]), str(row["overrides"])
        waiting = Look(name, words, total=int(row["runs"] or 0))
        if row["job_status"] == FAILED:
            return evolve(waiting, note=str(row["error"]) or "failed")
        try:
            return evolve(self._look_at_runs(location, name), about=words)
        except FlowError:
            # Its group appears once its kernel is compiled; then the table is right about the rest.
            if row["job_status"] == SUCCESS:
                raise
            return waiting


def _is_being_made(location: Location) -> bool:
    """Return whether a store may be incomplete because its process makes it at this moment."""
    folder = location.folder
    return folder is not None and (folder.parent / LOG).is_file()


def first_runs(path: str | Path, most: int) -> Any:
    """Return the runs that are in a store, at most about `most` of them, as a dataset.

    Raises
    ------
    FlowError
        If there are none.
    """
    from cubie_flow.analysis import runs
    from cubie_flow.analysis.opening import open_runs

    data = open_runs(path)
    chosen = np.flatnonzero(data[STATUS].values != UNWRITTEN)
    if not chosen.size:
        raise FlowError("no run is in the store yet")
    return runs.take(data, chosen[:: -(-chosen.size // most)])
