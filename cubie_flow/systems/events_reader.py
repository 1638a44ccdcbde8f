"""Events and doses of a model, read from its mapping.

Events by name, each with exactly one of ``when``, ``root`` and ``at``::

    events:
      bounce:
        root: height                    # happens where this goes through zero
        direction: falling              # rising (the default), falling or both
        set: {speed: -elasticity*speed} # states and parameters, computed from the old values
      over: {when: x > 5 and t > 1, stop: true}     # when a condition becomes true; ends the run
      spike: {root: V - 20}             # only counted and its times recorded
      pulse: {at: [1.0, 2.5, 7.0], set: {I: 0}}     # at times, which may use parameters
      daily: {at: {start: 8, every: 24, count: 10}, set: {light: 1 - light}}
      answer: {when: signal > 1, delay: 2*tau, set: {y: y + 1}}   # happens later

Further keys:

- ``priority``: of the events at one time, the one with the highest priority happens first. The next
  event uses the values that it leaves.
- ``record: false``: the number and the times of the event are not saved.
- ``initially`` (true or false): value of the condition before the start; by default its value at
  the start.
- ``delay``: time from the moment when the condition becomes true, or the root is crossed, to the
  event; computed at that moment. The condition may become true again before.
- ``persistent: false``: the event does not happen if the condition becomes false before: by an
  earlier event at the same time, or during the delay.
- ``values: trigger``: the event uses the values of the moment when the condition became true,
  before other events at the same time and before the delay.

A dose goes into a state; with ``duration`` or ``rate`` it is an infusion::

    doses:
      - {into: gut, amount: dose, start: 0, every: tau, count: n}
      - {name: drip, into: central, amount: 500, duration: 2, start: 6}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve

from cubie_flow.errors import FlowError, nearest
from cubie_flow.expressions.graph import ONE, ZERO, Node, const, symbol
from cubie_flow.expressions.traversal import free_symbols
from cubie_flow.systems.events import DIRECTIONS, Event, Times
from cubie_flow.systems.parser import Expression
from cubie_flow.systems.quantities import Quantity, check_keys, check_name, finite, shortened
from cubie_flow.systems.scope import Scope

EVENT_KEYS = (
    "when", "root", "at", "direction", "set", "stop", "priority", "record", "initially",
    "persistent", "values", "delay",
)  # fmt: skip
DOSE_KEYS = ("name", "into", "amount", "start", "every", "count", "at", "duration", "rate")


class EventsReader:
    """Reads the events and doses of one model.

    Parameters
    ----------
    model : mapping
    scope : Scope
        Names of the model.
    where : str
        Names the system in errors.
    states : sequence of str
    """

    def __init__(
        self, model: Mapping[str, Any], scope: Scope, where: str, states: Sequence[str]
    ) -> None:
        self.states = states
        self.model = model
        self.scope = scope
        self.where = where
        self.used: set[str] = set()

    # pieces -------------------------------------------------------------------------------------

    def _build(self, given: Any, where: str) -> Node:
        if not isinstance(given, str):
            return const(finite(given, where))
        expression = Expression.read(given, where)
        expression.check_names(self.scope)
        self.used |= expression.names
        return expression.build(self.scope)

    def _number(self, given: Any, where: str) -> Node:
        node = self._build(given, where)
        if node.kind != "float":
            raise FlowError(
                f"{where}: '{given}' is true or false, not a number; use where(condition, a, b)"
            )
        return node

    def _truth(self, given: Any, where: str) -> Node:
        node = self._build(given, where)
        if node.kind != "bool":
            raise FlowError(
                f"{where}: {shortened(given)} is not a condition; write x > 0, or use 'root'"
            )
        return node

    @staticmethod
    def _mapping(given: Any, where: str, known: Sequence[str]) -> Mapping[Any, Any]:
        if not isinstance(given, Mapping):
            raise FlowError(f"{where} must be a mapping, not {shortened(given)}")
        check_keys(given, known, where)
        return given

    @staticmethod
    def _flag(given: Mapping[Any, Any], key: str, default: bool, where: str) -> bool:
        value = given.get(key, default)
        if not isinstance(value, bool):
            raise FlowError(f"{where}: {key} is {shortened(value)}; it must be true or false")
        return value

    def _moment(self, given: Any, where: str) -> Node:
        """Return a time or a number of a schedule."""
        node = self._number(given, where)
        for name in free_symbols([node]):
            if name == "t" or name in self.states:
                raise FlowError(
                    f"{where}: '{given}' uses '{name}'; a schedule may use parameters only, for "
                    "what depends on the state use 'when' or 'root'"
                )
        return node

    def _times(self, given: Any, where: str) -> Times:
        """Return a schedule: a mapping, a list of times, or one time."""
        if isinstance(given, Mapping):
            given = self._mapping(given, where, ("start", "every", "count", "lag", "times"))
            lag = self._moment(given.get("lag", 0), f"{where}.lag")
            if "times" in given:
                return evolve(self._times(given["times"], where), lag=lag)
            return evolve(self._repeated_times(given, where), lag=lag)
        if isinstance(given, Sequence) and not isinstance(given, str):
            listed = [self._moment(one, f"{where}[{i}]") for i, one in enumerate(given)]
            if not listed:
                raise FlowError(f"{where} is an empty list; give at least one time")
            numbers = [one.value for one in listed if one.op == "const"]
            if numbers != sorted(numbers):
                raise FlowError(f"{where} must increase, unlike {shortened(list(given))}")
            return Times(listed=tuple(listed))
        return Times(self._moment(given, where))

    def _repeated_times(self, given: Mapping[Any, Any], where: str) -> Times:
        if "start" not in given:
            raise FlowError(f"{where}: 'start' is missing")
        if "count" in given and "every" not in given:
            raise FlowError(f"{where}: 'count' needs 'every', the time between two")
        every = self._moment(given.get("every", 0), f"{where}.every")
        if every.op == "const" and "every" in given and not every.value > 0:
            raise FlowError(f"{where}.every is {every.value:g}; it must be positive")
        # Without a count they continue to the end of the run.
        count = const(1e15) if "every" in given else ONE
        if "count" in given:
            count = self._moment(given["count"], f"{where}.count")
        return Times(self._moment(given["start"], f"{where}.start"), every, count)

    # events -------------------------------------------------------------------------------------

    def events(self) -> tuple[Event, ...]:
        """Return the events of the model.

        Raises
        ------
        FlowError
            For the first mistake, in one sentence that names it.
        """
        given = self.model.get("events")
        if given is None:
            return ()
        if not isinstance(given, Mapping):
            raise FlowError(f"{self.where}: 'events' must be a mapping, not {shortened(given)}")
        return tuple(self._event(name, one) for name, one in given.items())

    def _event(self, name: Any, given: Any) -> Event:
        check_name(name, f"{self.where}: the event")
        where = f"{self.where}, event {name}"
        given = self._mapping(given, where, EVENT_KEYS)
        self._check_keys(given, where)
        direction = given.get("direction", "rising")
        if direction not in DIRECTIONS:
            raise FlowError(
                f"{where}: direction is {shortened(direction)}; it must be one of "
                f"{', '.join(DIRECTIONS)}{nearest(str(direction), DIRECTIONS)}"
            )
        values = given.get("values", "now")
        if values not in ("now", "trigger"):
            raise FlowError(f"{where}: values is {shortened(values)}; it must be now or trigger")
        initially = given.get("initially")
        if initially is not None:
            initially = self._flag(given, "initially", True, where)
        resets = given.get("set") or {}
        if not isinstance(resets, Mapping):
            raise FlowError(f"{where}: 'set' must map names to values, not {shortened(resets)}")
        return Event(
            name=str(name),
            condition=self._truth(given["when"], f"{where}, when") if "when" in given else None,
            root=self._number(given["root"], f"{where}, root") if "root" in given else None,
            direction=direction,
            times=self._times(given["at"], f"{where}, at") if "at" in given else None,
            resets=tuple(
                (str(key), self._number(value, f"{where}, set.{key}"))
                for key, value in resets.items()
            ),
            stop=self._flag(given, "stop", False, where),
            priority=self._number(given.get("priority", 0), f"{where}, priority"),
            initially=initially,
            persistent=self._flag(given, "persistent", True, where),
            early=values == "trigger",
            record=self._flag(given, "record", True, where),
            delay=self._delay(given["delay"], f"{where}, delay") if "delay" in given else None,
        )

    def _delay(self, given: Any, where: str) -> Node | None:
        """Return the delay of an event, None for 0."""
        node = self._number(given, where)
        if node.op == "const" and node.value < 0.0:
            raise FlowError(f"{where} is {node.value:g}; it must not be negative")
        return None if node is ZERO else node

    @staticmethod
    def _check_keys(given: Mapping[Any, Any], where: str) -> None:
        """Refuse keys that exclude or need each other."""
        if sum(key in given for key in ("when", "root", "at")) != 1:
            raise FlowError(f"{where}: it needs exactly one of 'when', 'root' and 'at'")
        if "direction" in given and "root" not in given:
            raise FlowError(f"{where}: 'direction' is only for a 'root'")
        if "delay" in given and "at" in given:
            raise FlowError(f"{where}: 'delay' is not for 'at'; add it to the times")
        for key in ("initially", "persistent"):
            if key in given and "when" not in given:
                raise FlowError(f"{where}: '{key}' is only for a condition, 'when'")

    # doses --------------------------------------------------------------------------------------

    def doses(self) -> tuple[tuple[Event, ...], list[Quantity], dict[str, Node]]:
        """Return doses as events, counters of running infusions, and the inflow into states.

        Raises
        ------
        FlowError
            For the first mistake, in one sentence that names it.
        """
        given = self.model.get("doses")
        if given is None:
            return (), [], {}
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise FlowError(f"{self.where}: 'doses' must be a list, not {shortened(given)}")
        events: list[Event] = []
        running: list[Quantity] = []
        inflow: dict[str, Node] = {}
        for number, dose in enumerate(given):
            where = f"{self.where}, doses[{number}]"
            dose = self._mapping(dose, where, DOSE_KEYS)
            default = "dose" if len(given) == 1 else f"dose_{number}"
            name = check_name(dose.get("name", default), f"{where}: name")
            into = dose.get("into")
            if into not in self.states:
                raise FlowError(
                    f"{where}: into is {shortened(into)}; it must be a state"
                    f"{nearest(str(into), self.states)}"
                )
            target = str(into)
            amount = self._number(dose["amount"], f"{where}.amount") if "amount" in dose else None
            times = self._dose_times(dose, where)
            if "duration" not in dose and "rate" not in dose:
                if amount is None:
                    raise FlowError(f"{where}: 'amount' is missing")
                resets = ((target, symbol(target) + amount),)
                events.append(Event(name, times=times, resets=resets, record=False))
                continue
            rate, span = self._infusion(dose, amount, where)
            count = Quantity(f"{name}_running", 0.0, "1", f"number of running infusions of {name}")
            running.append(count)
            now = symbol(count.name)
            events += [
                Event(f"{name}_{what}", times=at, resets=((count.name, now + step),), record=False)
                for what, at, step in (
                    ("begins", times, 1.0),
                    ("ends", evolve(times, lag=times.lag + span), -1.0),
                )
            ]
            inflow[target] = inflow.get(target, ZERO) + now * rate
        return tuple(events), running, inflow

    def _infusion(
        self, dose: Mapping[Any, Any], amount: Node | None, where: str
    ) -> tuple[Node, Node]:
        """Return the rate and the duration of an infusion."""
        if sum(key in dose for key in ("amount", "duration", "rate")) != 2:
            raise FlowError(
                f"{where}: an infusion has two of 'amount', 'duration' and 'rate', from which "
                "the third follows"
            )
        rate = self._number(dose["rate"], f"{where}.rate") if "rate" in dose else None
        if "duration" in dose:
            span = self._moment(dose["duration"], f"{where}.duration")
            if span.op == "const" and not span.value > 0:
                raise FlowError(f"{where}.duration is {span.value:g}; it must be positive")
        else:
            assert amount is not None
            assert rate is not None
            span = amount / rate
        if rate is None:
            assert amount is not None
            rate = amount / span
        return rate, span

    def _dose_times(self, given: Mapping[Any, Any], where: str) -> Times:
        if "at" in given:
            for key in ("start", "every", "count"):
                if key in given:
                    raise FlowError(f"{where}: 'at' and '{key}' exclude each other")
            return self._times(given["at"], f"{where}.at")
        schedule = {key: given[key] for key in ("start", "every", "count") if key in given}
        return self._times({"start": 0, **schedule}, where)


def add_inflow(
    states: Sequence[Quantity],
    derivatives: Sequence[Node],
    masses: Sequence[float],
    inflow: Mapping[str, Node],
    where: str,
) -> tuple[Node, ...]:
    """Return the derivatives of states with the inflow of infusions.

    Parameters
    ----------
    states : sequence of Quantity
    derivatives : sequence of Node, shape (states,)
    masses : sequence of float, shape (states,)
        Empty if all are 1.
    inflow : mapping
        Rate by the name of a state.
    where : str
        Names the system in errors.

    Raises
    ------
    FlowError
        If an infusion goes into a state whose equation is algebraic.
    """
    total = list(derivatives)
    for i, state in enumerate(states):
        if state.name in inflow:
            mass = masses[i] if masses else 1.0
            if mass == 0.0:
                raise FlowError(
                    f"{where}: an infusion goes into '{state.name}', whose equation is algebraic"
                )
            total[i] = total[i] + mass * inflow[state.name]
    return tuple(total)


def write_events(events: Sequence[Event], texts: Sequence[str]) -> dict[str, Any]:
    """Return the mapping of events that `EventsReader.events` reads back.

    Parameters
    ----------
    events : sequence of Event
    texts : sequence of str
        Texts of the expressions of all events, in order.
    """
    waiting = iter(texts)
    entries = {}
    for event in events:
        written: dict[str, Any] = {}
        if event.condition is not None:
            written["when"] = next(waiting)
        if event.root is not None:
            written["root"] = next(waiting)
            written["direction"] = event.direction
        if event.times is not None:
            start, every, count, lag = (next(waiting) for _ in range(4))
            listed = [next(waiting) for _ in event.times.listed]
            at: dict[str, Any] = {"times": listed}
            if not listed:
                at = {"start": start}
                if event.times.every is not ZERO:
                    at |= {"every": every, "count": count}
            written["at"] = {**at, "lag": lag}
        written["set"] = {name: next(waiting) for name, _ in event.resets}
        written["priority"] = next(waiting)
        if event.delay is not None:
            written["delay"] = next(waiting)
        if event.initially is not None:
            written["initially"] = event.initially
        if event.condition is not None:
            written["persistent"] = event.persistent
        written |= {
            "stop": event.stop,
            "record": event.record,
            "values": "trigger" if event.early else "now",
        }
        entries[event.name] = written
    return entries
