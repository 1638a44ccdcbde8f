"""Initial value problems with named states, parameters and observables."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen

from cubie_flow.errors import FlowError, nearest
from cubie_flow.expressions import graph
from cubie_flow.expressions.graph import Node
from cubie_flow.expressions.infix import to_text
from cubie_flow.expressions.traversal import content_hash, free_symbols
from cubie_flow.systems.delays import (
    PlainDelays,
    check_history,
    delayed_names,
    has_delays,
    refuse_delays,
)
from cubie_flow.systems.drivers import Driver
from cubie_flow.systems.drivers_reader import replace_drivers
from cubie_flow.systems.equations_text import read_equations
from cubie_flow.systems.events import Event, check_events
from cubie_flow.systems.model_reader import read_model
from cubie_flow.systems.model_writer import write_model
from cubie_flow.systems.ordering import matching
from cubie_flow.systems.parser import parse_expression
from cubie_flow.systems.quantities import (
    Observable,
    Quantity,
    check_name,
    check_unique,
    finite,
    shortened,
)
from cubie_flow.systems.starts import with_numbers, with_start
from cubie_flow.systems.trace import check_graph, trace


@frozen
class OdeSystem:
    """A model ``dy/dt = f(t, y, p)``, or ``M dy/dt = f(t, y, p)`` with a diagonal matrix M.

    Make one with `from_file`, `from_mapping`, `from_equations` or `from_function`.

    Parameters
    ----------
    name : str
    states : tuple of Quantity
        In order, with initial values, which may be expressions.
    derivatives : tuple of Node
        Time derivative of each state, in symbols of states, parameters and ``t``.
    parameters : tuple of Quantity
        Quantities that runs may vary, in addition to initial values.
    observables : tuple of Observable
    drivers : tuple of Driver
        Series over time, which equations use by name.
    mass : tuple of float, optional, shape (states,)
        Diagonal of M; 0 makes an equation algebraic. Empty for all ones.
    events : tuple of Event
    history : tuple of (str, Node)
        States before the start of a run, as expressions of ``t``, parameters and start values; a
        state without one has its start value.
    title, description, source : str
    duration : float
        Default duration of a run, in `time_unit`.
    time_unit : str
    suggested : mapping
        Quantities that a batch varies by default: value specs of `cubie_flow.batches` by name.

    Raises
    ------
    FlowError
        If a name is unusable or used twice, a value is not finite, or an expression uses an
        unknown name.
    """

    name: str
    states: tuple[Quantity, ...]
    derivatives: tuple[Node, ...]
    parameters: tuple[Quantity, ...] = ()
    observables: tuple[Observable, ...] = ()
    drivers: tuple[Driver, ...] = ()
    mass: tuple[float, ...] = ()
    events: tuple[Event, ...] = ()
    history: tuple[tuple[str, Node], ...] = ()
    title: str = ""
    description: str = ""
    source: str = ""
    duration: float = 1.0
    time_unit: str = ""
    suggested: Mapping[str, Any] = field(factory=dict, hash=False)

    def __attrs_post_init__(self) -> None:
        where = f"system {self.name}"
        self._check_quantities(where)
        self._check_masses(where)
        if finite(self.duration, f"{where}: duration") <= 0:
            raise FlowError(f"{where}: duration is {self.duration}; it must be positive")
        starts = [item.start for item in self.quantities if item.start is not None]
        refuse_delays(starts, f"{where}, start values", "write the history itself there")
        states, parameters = with_numbers((self.states, self.parameters), self.drivers, where)
        object.__setattr__(self, "states", states)
        object.__setattr__(self, "parameters", parameters)
        self._check_expressions(where)
        self._make_delays_plain(where)

    def _check_quantities(self, where: str) -> None:
        if not self.states:
            raise FlowError(f"{where}: it has no states")
        if len(self.derivatives) != len(self.states):
            raise FlowError(
                f"{where}: it has {len(self.states)} states, but {len(self.derivatives)} "
                "derivatives"
            )
        kinds = (("state", self.states), ("parameter", self.parameters))
        for kind, quantities in kinds:
            for quantity in quantities:
                check_name(quantity.name, f"{where}: the {kind}")
                if quantity.start is None:
                    finite(quantity.value, f"{where}: {kind} '{quantity.name}'")
        for item in self.observables:
            check_name(item.name, f"{where}: the observable")
        for driver in self.drivers:
            check_name(driver.name, f"{where}: the driver")
            self._check_choice(driver)
        named = (*kinds, ("observable", self.observables), ("driver", self.drivers))
        check_unique(((kind, item.name) for kind, group in named for item in group), self.name)

    def _check_masses(self, where: str) -> None:
        if self.mass and len(self.mass) != len(self.states):
            raise FlowError(
                f"{where}: it has {len(self.states)} states, but {len(self.mass)} masses; the "
                "mass matrix is diagonal, with one number per state"
            )
        for state, mass in zip(self.states, self.mass, strict=False):
            finite(mass, f"{where}: mass of {state.name}")
        if self.mass and not any(self.mass):
            raise FlowError(f"{where}: every mass is 0, so no equation is differential")
        if self.mass:
            self._check_index(where)

    def _check_index(self, where: str) -> None:
        """Refuse algebraic equations that cannot determine their states, whatever the values."""
        numbers = [i for i, mass in enumerate(self.mass) if mass == 0.0]
        names = [self.states[i].name for i in numbers]
        partner = matching({i: set(free_symbols([self.derivatives[i]])) for i in numbers}, names)
        for i in numbers:
            if i not in partner.values():
                raise FlowError(
                    f"{where}: the algebraic equation of '{self.states[i].name}' determines no "
                    f"state of {shortened(names)} that the others leave; the index is above 1, so "
                    "differentiate the equation in time until it is 1"
                )

    def _check_expressions(self, where: str) -> None:
        known = {"t"} | {item.name for item in (*self.quantities, *self.drivers)}
        pairs = zip(self.states, self.derivatives, strict=True)
        outputs = [(f"equation of {state.name}", node) for state, node in pairs]
        outputs += [(f"observable {item.name}", item.expression) for item in self.observables]
        outputs += [(f"history of {name}", node) for name, node in self.history]
        check_graph(outputs, known, where)
        check_events(self.events, {item.name for item in self.quantities}, where)
        for event in self.events:
            label = f"event {event.name}"
            nodes = (
                node if node.kind == "float" else graph.where(node, 1.0, 0.0)
                for node in event.nodes
            )
            check_graph([(label, node) for node in nodes], known, where)

    def _make_delays_plain(self, where: str) -> None:
        """Bring delayed values into the plain form, and refuse those where none may be."""
        refuse_delays(
            (node for event in self.events for node in event.nodes),
            f"{where}, events",
            "an event sees the present; make a state or observable of it without a delay",
        )
        observed = [item.expression for item in self.observables]
        if has_delays((*self.derivatives, *observed)):
            changed = {name for event in self.events for name, _ in event.resets}
            names = {state.name for state in self.states}
            delays = PlainDelays(names, {one.name for one in self.drivers}, changed)
            pairs = zip(self.states, self.derivatives, strict=True)
            plain = [delays.plain(node, f"{where}, equation of {one.name}") for one, node in pairs]
            observables = [
                evolve(one, expression=delays.plain(one.expression, f"{where}, {one.name}"))
                for one in self.observables
            ]
            object.__setattr__(self, "derivatives", tuple(plain))
            object.__setattr__(self, "observables", tuple(observables))
        delayed = delayed_names(self.expressions)
        known = {"t", *(item.name for item in self.quantities)}
        check_history(dict(self.history), delayed, known, where)

    @property
    def delayed(self) -> frozenset[str]:
        """Names of the states whose past is read."""
        return frozenset(delayed_names(self.expressions))

    def _check_choice(self, driver: Driver) -> None:
        """Refuse a driver whose series no parameter, or a parameter without a number, chooses."""
        if not driver.series:
            return
        choices = [item for item in self.parameters if item.name == driver.series]
        where = f"system {self.name}: driver '{driver.name}'"
        if not choices:
            raise FlowError(f"{where}: no parameter '{driver.series}' exists to choose a series")
        if choices[0].start is not None:
            raise FlowError(
                f"{where}: the parameter '{driver.series}' chooses a series, so it must be a "
                f"number, not '{to_text(choices[0].start, 30)}'"
            )
        driver.check_series(item.value for item in choices)

    # making one ---------------------------------------------------------------------------------

    @classmethod
    def from_mapping(cls, model: Mapping[str, Any]) -> OdeSystem:
        """Return the system of a mapping, see `cubie_flow.systems.model_reader`.

        Raises
        ------
        FlowError
            For the first mistake, in one sentence that names it.

        Examples
        --------
        >>> from cubie_flow import OdeSystem
        >>> model = {"states": {"x": 1}, "parameters": {"k": 2}, "equations": {"x": "-k*x"}}
        >>> [state.name for state in OdeSystem.from_mapping(model).states]
        ['x']
        """
        return cls(**read_model(model))

    @classmethod
    def from_file(cls, path: str | Path, settings: Mapping[str, int] | None = None) -> OdeSystem:
        """Return the system of a model file; for YAML see `cubie_flow.systems.model_reader`.

        Parameters
        ----------
        path : str or Path
            Its ending gives the format: ``.yaml``, ``.yml``, or one of
            `cubie_flow.systems.importers`. A model without a name gets the name of the file.
        settings : mapping, optional
            Replacements of settings in the file, such as ``{"size": 400}``.

        Raises
        ------
        FlowError
            If the file cannot be read, the model has a mistake, or it has a feature that is not
            supported.

        Examples
        --------
        >>> from pathlib import Path
        >>> from cubie_flow import OdeSystem
        >>> text = "{states: {x: 1}, parameters: {k: 2}, equations: {x: -k*x}}"
        >>> _ = Path("decay.yaml").write_text(text)
        >>> OdeSystem.from_file("decay.yaml").name
        'decay'
        """
        from cubie_flow.systems.files import read_model_file

        if not isinstance(path, str | PathLike):
            raise FlowError(f"a model file is named by its path, not by {path!r:.60}")
        path = Path(path)
        model = read_model_file(path)
        own = model.get("settings") or {}
        for name in settings or {}:
            if name not in own:
                raise FlowError(f"'{path}' has no setting '{name}'{nearest(name, own)}")
        if settings:
            model["settings"] = {**own, **settings}
        return cls.from_mapping(model)

    @classmethod
    def from_equations(
        cls,
        text: str,
        states: Mapping[str, Any],
        parameters: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> OdeSystem:
        """Return the system of equations, one per line.

        Parameters
        ----------
        text : str
            Lines ``dx/dt = ...`` or ``x' = ...``, and ``name = ...`` for observables. ``#`` begins
            a comment.
        states, parameters : mapping
            Values by name, as in `from_mapping`.
        **more
            Other keys of the mapping: ``name``, ``time``, ``constants``, ``units``, ...

        Raises
        ------
        FlowError
            For the first mistake, in one sentence that names it.

        Examples
        --------
        >>> from cubie_flow import OdeSystem
        >>> decay = OdeSystem.from_equations("dx/dt = -k*x", {"x": 1.0}, {"k": 0.5})
        >>> [parameter.name for parameter in decay.parameters]
        ['k']
        """
        if not isinstance(text, str):
            raise FlowError(f"equations are lines of text, not {text!r:.60}")
        equations, observables = read_equations(text, f"system {more.get('name', 'model')}")
        return cls.from_mapping(
            {
                "states": states,
                "parameters": parameters,
                "equations": equations,
                "observables": observables,
                **more,
            }
        )

    @classmethod
    def from_function(
        cls,
        function: Callable[[Any, Any, Any], Any],
        states: Mapping[str, Any],
        parameters: Mapping[str, Any] | None = None,
        *,
        observables: Callable[[Any, Any, Any], Mapping[str, Any]] | None = None,
        units: Mapping[str, str] | None = None,
        **more: Any,
    ) -> OdeSystem:
        """Return the system of a Python function, called once with symbols.

        Parameters
        ----------
        function : callable
            ``f(t, y, p)`` with states ``y.x`` or ``y["x"]`` and parameters ``p.k``; returns the
            derivatives as a mapping by name, or in the order of the states. Use the functions
            of `cubie_flow.maths`, its ``where`` instead of ``if`` on a value, and its ``equal``
            instead of ``==``.
        states, parameters : mapping
            Initial values and values by name. A value is a number, a text such as ``"dose/V"``,
            or a function of ``(t, y, p)``. Every run computes texts and functions when it starts,
            with ``t`` the time of the start and ``y`` the initial values.
        observables : callable, optional
            ``g(t, y, p)`` that returns a mapping of further quantities.
        units : mapping, optional
            Units of states, parameters and observables by name.
        **more
            Other fields: ``name`` (by default the name of the function), ``title``, ``duration``,
            ``time_unit``, ``history`` (of delayed states by name: numbers, texts or functions), ...

        Raises
        ------
        FlowError
            If the function branches on values, uses functions of other modules, or does not
            return derivatives.

        Examples
        --------
        >>> from cubie_flow import OdeSystem
        >>> decay = OdeSystem.from_function(lambda t, y, p: [-p.k * y.x], {"x": 1.0}, {"k": 0.5})
        >>> decay.to_mapping()["equations"]
        {'x': '-k*x'}
        """
        default = getattr(function, "__name__", "model").strip("<>")
        name = str(more.pop("name", default))
        where = f"system {name}"
        units = units or {}
        free = parameters or {}
        before = more.pop("history", {})
        names = (
            [check_name(name, f"{where}: the state") for name in states],
            [check_name(name, f"{where}: the parameter") for name in free],
        )
        derivatives = trace(function, *names, where, names[0])
        extra = trace(observables, *names, where, None) if observables else {}
        for key in units:
            known = (*names[0], *names[1], *extra)
            if key not in known:
                raise FlowError(
                    f"{where}: 'units' names '{key}', which it does not have{nearest(key, known)}"
                )
        return cls(
            name=name,
            states=_quantities("state", states, names, units, where),
            parameters=_quantities("parameter", free, names, units, where),
            derivatives=tuple(derivatives.values()),
            observables=tuple(Observable(k, v, units.get(k, "")) for k, v in extra.items()),
            history=_histories(before, names, where),
            **more,
        )

    # using one ----------------------------------------------------------------------------------

    def with_values(
        self,
        parameters: Mapping[str, float] | None = None,
        states: Mapping[str, float] | None = None,
    ) -> OdeSystem:
        """Return the same model with other parameter values and initial values.

        A number may replace an expression. Values of other expressions are computed again.

        Parameters
        ----------
        parameters, states : mapping, optional
            Numbers by name.

        Raises
        ------
        FlowError
            If it has no such parameter or state, or a value is not a finite number.

        Examples
        --------
        >>> from cubie_flow import OdeSystem
        >>> decay = OdeSystem.from_equations("dx/dt = -k*x", {"x": 1.0}, {"k": 0.5})
        >>> decay.with_values(parameters={"k": 2.0}).parameters[0].value
        2.0
        """
        return evolve(
            self,
            parameters=self._replaced("parameter", self.parameters, parameters or {}),
            states=self._replaced("state", self.states, states or {}),
        )

    def with_given(self, names: Collection[str]) -> OdeSystem:
        """Return the model with numbers in place of the expressions of `names`."""
        if not any(item.start is not None and item.name in names for item in self.quantities):
            return self
        given = [
            tuple(evolve(item, start=None) if item.name in names else item for item in group)
            for group in (self.states, self.parameters)
        ]
        return evolve(self, states=given[0], parameters=given[1])

    def _replaced(
        self, kind: str, quantities: tuple[Quantity, ...], values: Mapping[str, float]
    ) -> tuple[Quantity, ...]:
        known = [quantity.name for quantity in quantities]
        if not isinstance(values, Mapping):
            raise FlowError(f"values of a {kind} are given by name, not as {values!r:.60}")
        for name, value in values.items():
            if name not in known:
                raise FlowError(
                    f"system {self.name} has no {kind} '{name}'{nearest(str(name), known)}"
                )
            finite(value, f"system {self.name}: {kind} '{name}'")
        return tuple(
            evolve(quantity, value=float(values[quantity.name]), start=None)
            if quantity.name in values
            else quantity
            for quantity in quantities
        )

    def refuse_unknown_outputs(self, names: Iterable[str]) -> None:
        """Refuse names that are not states or observables.

        Raises
        ------
        FlowError
            For the first name that is neither, with the nearest known name.
        """
        known = [item.name for item in (*self.states, *self.observables)]
        for name in names:
            if name not in known:
                raise FlowError(
                    f"'{name}' is not a state or observable of system '{self.name}'"
                    f"{nearest(name, known)}"
                )

    def with_drivers(self, drivers: Mapping[str, Any]) -> OdeSystem:
        """Return the same model with other series, or with series in place of parameters.

        Parameters
        ----------
        drivers : mapping
            Entries as in a model, see `cubie_flow.systems.drivers_reader`, by the name of a
            driver or of a parameter that becomes a driver. What an entry leaves out stays as it is.

        Raises
        ------
        FlowError
            If the system has no such driver or parameter, or an entry is wrong.
        """
        return self.from_mapping(replace_drivers(self.to_mapping(), drivers, f"system {self.name}"))

    def __reduce__(self) -> tuple[Any, ...]:
        # The other process interns its own nodes, so it builds the graph from the mapping.
        return OdeSystem.from_mapping, (self.to_mapping(),)

    def to_mapping(self) -> dict[str, Any]:
        """Return the model as plain values, from which `from_mapping` makes an equal model."""
        return write_model(self)

    def to_file(self, path: str | Path) -> None:
        """Write the model as YAML, from which `from_file` makes an equal model.

        Parameters
        ----------
        path : str or Path
            Ends in ``.yaml`` or ``.yml``; an existing file is never replaced.

        Raises
        ------
        FlowError
            If the file exists, has another ending, cannot be written, or would be too large.

        Examples
        --------
        >>> from cubie_flow import OdeSystem
        >>> decay = OdeSystem.from_equations("dx/dt = -k*x", {"x": 1.0}, {"k": 0.5})
        >>> decay.to_file("model.yaml")
        >>> OdeSystem.from_file("model.yaml").content_hash == decay.content_hash
        True
        """
        from cubie_flow.systems.files import write_yaml

        write_yaml(self.to_mapping(), Path(path))

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """The parameters and states."""
        return (*self.parameters, *self.states)

    @property
    def expressions(self) -> tuple[Node, ...]:
        """All expressions that are evaluated during a run."""
        observed = (item.expression for item in self.observables)
        events = (node for event in self.events for node in event.nodes)
        return (*self.derivatives, *observed, *events, *(node for _, node in self.history))

    @property
    def reaching(self) -> frozenset[str]:
        """Names of the states, and of the parameters that have an effect on a run."""
        starts = {item.name: item.start for item in self.quantities if item.start is not None}
        used = {state.name for state in self.states}
        used.update(free_symbols(self.expressions), (one.series for one in self.drivers))
        waiting = list(used)
        while waiting:
            start = starts.get(waiting.pop())
            new = {*free_symbols([start])} - used if start is not None else set()
            used |= new
            waiting += new
        return frozenset(used & {item.name for item in self.quantities})

    @property
    def content_hash(self) -> str:
        """SHA-256 digest of everything that affects results: equations, names and values."""
        outputs = [*self.derivatives, *(item.expression for item in self.observables)]
        # The number of an expression may differ between machines in its last digit.
        values = [
            [(item.name, float(item.value).hex() if item.start is None else "") for item in group]
            for group in (self.states, self.parameters)
        ]
        names = [item.name for item in self.observables]
        content = repr((content_hash(outputs), values, names))
        if self.drivers:
            content += repr([(one.name, one.series, one.content_hash) for one in self.drivers])
        if self.mass:
            content += repr([float(mass).hex() for mass in self.mass])
        if self.events:
            content += repr([event.content_hash for event in self.events])
        if self.history:
            nodes = [node for _, node in self.history]
            content += repr([name for name, _ in self.history]) + content_hash(nodes)
        starts = [item.start for item in self.quantities if item.start is not None]
        if starts:
            content += content_hash(starts)
        return hashlib.sha256(content.encode()).hexdigest()


def _quantities(
    kind: str,
    given: Mapping[str, Any],
    names: tuple[Sequence[str], Sequence[str]],
    units: Mapping[str, str],
    where: str,
) -> tuple[Quantity, ...]:
    """Return the quantities of a Python function, from numbers, texts or functions."""
    return tuple(
        with_start(Quantity(name, math.nan, units.get(name, "")), node)
        for name, node in _nodes(given, names, f"{where}: {kind}")
    )


def _histories(
    given: Mapping[str, Any], names: tuple[Sequence[str], Sequence[str]], where: str
) -> tuple[tuple[str, Node], ...]:
    """Return the histories of a Python function, from numbers, texts or functions."""
    if not isinstance(given, Mapping):
        raise FlowError(f"{where}: 'history' is given by the names of states, not as {given!r:.60}")
    return tuple(_nodes(given, names, f"{where}: history of"))


def _nodes(
    given: Mapping[str, Any], names: tuple[Sequence[str], Sequence[str]], label: str
) -> Iterator[tuple[str, Node]]:
    """Yield the graphs of numbers, texts or functions by name."""
    symbols = {name: graph.symbol(name) for name in ("t", *names[0], *names[1])}
    for name, value in given.items():
        place = f"{label} '{name}'"
        if isinstance(value, str):
            node = parse_expression(value, symbols, place)
        elif callable(value):
            traced = trace(lambda *args, f=value, n=name: {n: f(*args)}, *names, place, None)
            node = traced[name]
        else:
            node = graph.const(finite(value, place))
        yield name, node
