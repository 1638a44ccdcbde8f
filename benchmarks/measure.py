"""Measurement of a case: interleaved rounds over its entries, each in its own process."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from time import perf_counter
from typing import Any

from attrs import frozen

from benchmarks.cases import Case, Entry
from benchmarks.problems import probes
from benchmarks.reference import error, reference
from benchmarks.worker import serve

Array = Any
Say = Callable[[str], None]


@frozen
class Effort:
    """Limits of the time of a case.

    Parameters
    ----------
    rounds : int
        Interleaved rounds.
    first_limit : float
        Seconds for the first result of an entry; slower entries are left out and named.
    case_limit : float
        Seconds for the rounds of a case; slow entries run fewer rounds, at least two.
    """

    rounds: int = 5
    first_limit: float = 30.0
    case_limit: float = 10.0


class _Entrant:
    """An entry and the connection to its process."""

    def __init__(self, case: Case, entry: Entry) -> None:
        self.case, self.entry = case, entry
        self.wall: list[float] = []
        self.core: list[float] = []
        self.device: list[float] = []
        self.row: dict[str, Any] = {
            "entry": entry.label, "peer": entry.peer, "method": entry.method,
            "precision": entry.precision, "rtol": entry.rtol, "dt": entry.dt, "runs": entry.runs,
        }  # fmt: skip
        if entry.note:
            self.row["note"] = entry.note
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, case, entry, probes(entry.runs)))
        self.process.start()
        theirs.close()

    def ask(self, word: str | None, limit: float) -> Any:
        """Send a word and return the answer, or None if the process fails or is late."""
        try:
            if word is not None:
                self.pipe.send(word)
            return self.pipe.recv() if self.pipe.poll(limit) else None
        except (EOFError, OSError):
            return {"missing": "its process died"} if word is None else None

    def begin(self, limit: float) -> bool:
        """Wait for the first result; return whether the entry takes part in the rounds."""
        answer = self.ask(None, limit)
        if answer is None:
            answer = {"missing": f"too slow: no first result within {limit:g} s"}
        if "missing" in answer:
            self.row["missing"] = answer["missing"]
            return False
        about, entry = self.case.problem, self.entry
        right = reference(about.name, tuple(self.case.times()))
        self.once = answer["once"]
        self.row |= {
            "error": error(answer["ends"], right, about.floor),
            "first_result_s": answer["first_result_s"],
            "compile_s": answer["compile_s"],
        }
        assert answer["ends"].shape == right.shape, entry.label
        return True

    def round(self, limit: float) -> None:
        """Run one round."""
        answer = self.ask("round", limit)
        if answer is not None:
            self.core.append(answer[0])
            self.wall.append(answer[1])
            self.device += [] if answer[2] is None else [answer[2]]

    def finish(self) -> dict[str, Any]:
        """Ask for the peak memory and return the row."""
        if self.wall:
            scale = 1e6 / self.entry.runs
            ordered = sorted(self.wall)
            quarter = len(ordered) // 4
            self.row |= {
                "rounds": len(self.wall),
                "us": median(self.wall) * scale,
                "us_spread": [ordered[i] * scale for i in (quarter, -1 - quarter)],
                "core_us": median(self.core) * scale,
                "peak_bytes": self.ask("stop", 10.0) or 0,
            }  # fmt: skip
            if self.device:
                self.row["device_us"] = median(self.device) * scale
        elif "missing" not in self.row:
            self.row["missing"] = "failed after its first result"
        return self.row

    def end(self) -> None:
        """End the process."""
        self.pipe.close()
        self.process.join(1.0)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def measure(case: Case, effort: Effort, say: Say = lambda _: None) -> dict[str, Any]:
    """Return the record of a case: its description, one row per entry, and the load."""
    load, began = os.getloadavg()[0], perf_counter()
    entrants: list[_Entrant] = []
    taking_part: list[_Entrant] = []
    try:
        for entry in case.entries:
            # One after another, so that a first result has the whole machine.
            entrant = _Entrant(case, entry)
            entrants.append(entrant)
            if entrant.begin(effort.first_limit):
                taking_part.append(entrant)
                say(f"  {entry.label}: error {entrant.row['error']:.1e}")
            else:
                say(f"  {entry.label}: {entrant.row['missing']}")
                entrant.end()
        for entrant in _rounds(taking_part, effort):
            entrant.round(max(30.0, 20 * entrant.once))
        rows = [entrant.finish() for entrant in entrants]
    finally:
        for entrant in entrants:
            entrant.end()
    took = round(perf_counter() - began, 1)
    return {**case.as_dict(), "load": round(load, 2), "took_s": took, "rows": rows}


def _rounds(entrants: Sequence[_Entrant], effort: Effort) -> Iterator[_Entrant]:
    """Yield the entries of every round; slow ones are in the first rounds only."""
    began = perf_counter()
    share = effort.case_limit / max(1, len(entrants))
    for number in range(effort.rounds):
        late = perf_counter() - began > effort.case_limit
        for entrant in entrants:
            spent = sum(entrant.wall) + entrant.once
            if number < 2 or (not late and spent + entrant.once <= share):
                yield entrant
