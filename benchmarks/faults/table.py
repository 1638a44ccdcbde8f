"""The table of trials: how they ended, what must not happen and did, and the most expensive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field, frozen

from benchmarks.faults.study import STARTING
from benchmarks.faults.watch import Outcome

Say = Callable[[str], None]
#: Seconds of the processor, and bytes, that a command may take on a damaged study above those that
#: it takes on a good one.
SECONDS, BYTES = 1.0, 500_000_000
#: Commands that are named as the most expensive.
NAMED = 10


@frozen
class Cost:
    """What a command took.

    Attributes
    ----------
    cpu, seconds : float
        Of the processor, and by the clock.
    memory : int
        Bytes.
    """

    cpu: float
    seconds: float
    memory: int

    @classmethod
    def of(cls, outcome: Outcome) -> Cost:
        """Return the cost of a command."""
        return cls(outcome.cpu, outcome.seconds, outcome.memory)


@define
class Table:
    """Counts of trials, and the first example of every fault.

    Attributes
    ----------
    healthy : mapping of str to Cost
        What each command takes on a good study.
    tried : Counter
        Trials by kind.
    ended : Counter
        How they ended, by kind and end.
    faults : dict of str to list of str
        What must not happen and did, with the trials.
    kills : Counter
        Kills by where they hit.
    costs : list
        Of each command on a damaged or hostile study: seconds of the processor and by the clock,
        and bytes, each above those on a good study, and its trial.
    """

    healthy: Mapping[str, Cost] = field(factory=dict)
    tried: Counter[str] = field(factory=Counter)
    ended: Counter[tuple[str, str]] = field(factory=Counter)
    faults: dict[str, list[str]] = field(factory=dict)
    kills: Counter[str] = field(factory=Counter)
    costs: list[tuple[float, float, int, str]] = field(factory=list)

    def add(self, kind: str, name: str, end: str, fault: str, text: str, say: Say) -> None:
        """Count a trial."""
        self.tried[kind] += 1
        self.ended[kind, fault or end] += 1
        if fault:
            self.faults.setdefault(f"{kind}: {fault}", []).append(name)
            say(f"FAULT {fault}: {name}\n{_indented(text)}")

    def weigh(self, kind: str, name: str, command: str, outcome: Outcome) -> str:
        """Note what a command took; return the fault if it is too much, else nothing."""
        usual, cost = self.healthy[command], Cost.of(outcome)
        above = cost.cpu - usual.cpu, cost.seconds - usual.seconds, cost.memory - usual.memory
        self.costs.append((*above, f"{kind}: {name}"))
        if cost.memory > BYTES:
            return "memory"
        # A shard that is solved again, and an audit, may compile a kernel that was not needed.
        computes = outcome.code == 0 and command in STARTING
        return "slow" if above[0] > SECONDS and not computes else ""

    def slowest(self) -> list[tuple[float, float, int, str]]:
        """Return the costs of the most expensive trials."""
        return sorted(self.costs, reverse=True)[:NAMED]

    def record(self) -> dict[str, Any]:
        """Return the table as a document."""
        ended: dict[str, dict[str, int]] = {}
        for (kind, end), number in self.ended.items():
            ended.setdefault(kind, {})[end] = number
        return {
            "tried": dict(self.tried), "ended": ended,
            "faults": {name: len(names) for name, names in self.faults.items()},
            "kills": dict(self.kills),
            "above_a_good_study": {
                "trials": len(self.costs),
                "cpu_seconds": max((cost[0] for cost in self.costs), default=0.0),
                "clock_seconds": max((cost[1] for cost in self.costs), default=0.0),
                "memory_bytes": max((cost[2] for cost in self.costs), default=0),
            },
            "slowest": [
                {"trial": name, "cpu_seconds": round(cpu, 3), "clock_seconds": round(clock, 3),
                 "memory_bytes": memory}
                for cpu, clock, memory, name in self.slowest()
            ],
        }  # fmt: skip

    def text(self) -> str:
        """Return the table."""
        lines = []
        for kind, count in self.tried.items():
            ends = ", ".join(
                f"{end} {number}" for (of, end), number in self.ended.items() if of == kind
            )
            lines.append(f"{kind:<8} {count:>6} tried: {ends}")
        if self.kills:
            where = ", ".join(f"{phase} {number}" for phase, number in self.kills.items())
            lines.append(f"kills    {self.kills.total():>6} hit: {where}")
        for cpu, clock, memory, name in self.slowest():
            lines.append(
                f"slowest  {cpu:6.2f} s CPU, {clock:6.2f} s, {memory / 1e6:4.0f} MB: {name}"
            )
        if self.costs:
            lines.append("         (above the same command on a good study)")
        for fault, names in self.faults.items():
            lines.append(f"FAULT    {fault}: {len(names)}, such as {names[0]}")
        return "\n".join(lines)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[-8:])
