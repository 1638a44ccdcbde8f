"""Random cases: models that are well posed by construction, batches, methods and tolerances.

Every state is damped and everything that acts on it is bounded, so that trajectories stay bounded
and forget. Conditions are crossed and not touched: thresholds come from a trial integration of the
model without them. A comparison of a state never switches the rate of that state itself, so that no
run slides along a threshold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from attrs import define, evolve, field

from benchmarks.conformance.case import Case
from benchmarks.conformance.reference import NoReferenceError, Reference

#: Methods by family, drawn family by family.
FAMILIES: dict[str, tuple[str, ...]] = {
    "explicit": (
        "heun", "bogacki_shampine_32", "fehlberg_45", "cash_karp_54", "dormand_prince_54", "tsit5",
        "tsit5", "vern7", "vern7", "dormand_prince_853",
    ),
    "fixed": (
        "euler", "ralston", "midpoint", "rk4", "implicit_midpoint", "trapezoid", "gauss_legendre_4",
    ),
    "taylor": ("taylor_8", "taylor_12", "taylor_16", "taylor_20"),
    "rosenbrock": (
        "rosenbrock23", "ros3p", "ros34pw2", "rodas3", "rodas4", "rodas4p", "rodas5p", "rodas5p",
        "rodas5pe",
    ),
    "diagonal": (
        "backward_euler", "crank_nicolson", "trbdf2", "sdirk2", "kvaerno3", "kencarp4", "kvaerno5",
    ),
    "collocation": ("radau_iia_3", "radau_iia_5", "radau_iia_9"),
    "multistep": ("bdf",),
    "auto": ("auto",),
}  # fmt: skip
_SHARES = {
    "explicit": 0.34, "fixed": 0.06, "taylor": 0.1, "rosenbrock": 0.2, "diagonal": 0.11,
    "collocation": 0.07, "multistep": 0.1, "auto": 0.02,
}  # fmt: skip
#: Steps of a method with a fixed step over the duration, by its order.
FIXED_STEPS = {
    "euler": 4000, "ralston": 1500, "midpoint": 1500, "rk4": 400, "implicit_midpoint": 1500,
    "trapezoid": 1500, "gauss_legendre_4": 300,
}  # fmt: skip
ORDERS = {
    "euler": 1, "ralston": 2, "midpoint": 2, "rk4": 4, "implicit_midpoint": 2, "trapezoid": 2,
    "gauss_legendre_4": 4,
}  # fmt: skip
#: Methods of low order, which take too many steps at tight tolerances.
SLOW = ("heun", "backward_euler", "crank_nicolson", "trbdf2", "sdirk2", "rosenbrock23")
RUNS, JUDGED = 24, 2
#: How often a model has 1 to 8 states: small ones compile faster and show as much.
_SIZES = (0.28, 0.28, 0.18, 0.11, 0.06, 0.04, 0.03, 0.02)


@define
class _Model:
    """A model that grows piece by piece."""

    rng: np.random.Generator
    duration: float
    t_start: float
    parameters: dict[str, Any] = field(factory=dict)
    states: dict[str, Any] = field(factory=dict)
    terms: dict[str, list[str]] = field(factory=dict)
    definitions: dict[str, str] = field(factory=dict)
    observables: dict[str, str] = field(factory=dict)
    events: dict[str, Any] = field(factory=dict)
    doses: list[Any] = field(factory=list)
    drivers: dict[str, Any] = field(factory=dict)
    switches: list[dict[str, str]] = field(factory=list)
    features: set[str] = field(factory=set)
    #: Normalised text, damping and size of every state.
    unit: dict[str, str] = field(factory=dict)
    damping: dict[str, float] = field(factory=dict)
    size: dict[str, float] = field(factory=dict)
    offset: dict[str, float] = field(factory=dict)
    #: Parameters that the batch must leave alone, because drawing others would change the kind.
    kept: set[str] = field(factory=set)
    stiff: bool = False

    # small draws

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def one(self, choices: Sequence[Any]) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def number(self, low: float, high: float) -> float:
        return float(f"{self.rng.uniform(low, high):.4g}")

    def signed(self, low: float, high: float) -> float:
        return self.number(low, high) * float(self.one((-1.0, 1.0)))

    def whole(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def parameter(self, value: float, share: float = 0.6) -> str:
        """Return a number as text, or a new parameter of that value."""
        if not self.chance(share):
            return f"({value})" if value < 0 else str(value)
        name = f"p{len(self.parameters)}"
        self.parameters[name] = value
        return name

    def span(self, low: float, high: float) -> str:
        """Return a time within the run, after its start, as parts of the duration."""
        return self.parameter(
            float(f"{self.t_start + self.duration * self.rng.uniform(low, high):.5g}")
        )

    def width(self, low: float, high: float) -> str:
        """Return a length of time."""
        return self.parameter(float(f"{self.duration * self.rng.uniform(low, high):.4g}"))

    def level(self) -> str:
        """Return an amplitude."""
        return self.parameter(self.signed(0.4, 2.5))

    def mapping(self, name: str) -> dict[str, Any]:
        """Return the model as plain values."""
        found: dict[str, Any] = {
            "name": name,
            "time": {"duration": self.duration},
            "parameters": dict(self.parameters),
            "states": dict(self.states),
            "definitions": dict(self.definitions),
            "equations": {name: " + ".join(terms) for name, terms in self.terms.items()},
            "observables": dict(self.observables),
            "events": dict(self.events),
            "doses": list(self.doses),
            "drivers": dict(self.drivers),
        }
        for name in _unused(found):
            del found["parameters"][name]
        return {key: value for key, value in found.items() if value not in ({}, [])}


def _unused(model: dict[str, Any]) -> list[str]:
    """Return the parameters that nothing of a model uses."""
    text = str({key: value for key, value in model.items() if key != "parameters"})
    words = set(re.findall(r"\w+", text))
    left = dict(model["parameters"])
    while True:
        own = {w for name in left if name in words for w in re.findall(r"\w+", str(left[name]))}
        if own <= words:
            return [name for name in left if name not in words]
        words |= own


# terms that act on a state ----------------------------------------------------------------


def _smooth_term(m: _Model, u: str, v: str) -> str:
    """Return a bounded smooth expression of two normalised states."""
    k = m.parameter(m.number(0.5, 2.0), 0.3)
    power = m.parameter(m.number(-1.6, -0.3), 0.4)
    kinds = (
        lambda: f"{u}/(1 + {v}**2)",
        lambda: f"{u}**2/({k} + {u}**2)",
        lambda: f"{u}**3/(1 + {u}**2*abs({u}))" if m.chance(0.2) else f"{u}/({k} + {u}**2)",
        lambda: f"exp(-{u}**2)",
        lambda: f"1/(1 + exp(-{k}*{u}))",
        lambda: f"tanh({k}*{u})",
        lambda: f"sin({u} + {k}*{v})",
        lambda: f"cos({k}*{u})",
        lambda: f"atan({u})",
        lambda: f"(1 + {u}**2)**{power}",
        lambda: f"0.3*sqrt(1 + {u}**2)/(1 + 0.1*{u}**2)",
        lambda: f"log(1 + {u}**2)/(1 + {v}**2)/(1 + {u}**2)",
        lambda: f"log1p({u}**2)/(2 + {u}**2)",
        lambda: f"expm1(-{u}**2)",
        lambda: f"erf({u})",
        lambda: f"{u}*{v}/(1 + {u}**2 + {v}**2)",
        lambda: f"{u}/hypot(1, {u})",
        lambda: f"cbrt(1 + {u}**2)/(1 + {u}**2)",
        lambda: f"2**(-{u}**2)",
        lambda: f"exp2(-abs({k}))*cos({u})",
        lambda: f"log10(10 + {u}**2)/(1 + {u}**2)",
        lambda: f"log2(2 + sin({u}))",
        lambda: f"atan2({u}, 1 + {v}**2)",
        lambda: f"asinh({u})/(1 + 0.2*{u}**2)",
        lambda: f"1/cosh({u})",
        lambda: f"pow(1 + {u}**2, {power})",
        lambda: f"acos(0.5*sin({u}))",
        lambda: f"asin(0.5*cos({u}))",
        lambda: f"tan(0.5*sin({u}))",
        lambda: f"sinh(sin({u}))/2",
    )
    m.features.add("smooth")
    return m.one(kinds)()  # type: ignore[no-any-return]


def _kinked_term(m: _Model, u: str, v: str) -> str:
    """Return a bounded continuous expression with kinks where a state passes a value."""
    m.features.add("kinks of states")
    k = m.parameter(m.number(0.2, 0.8), 0.3)
    return m.one(  # type: ignore[no-any-return]
        (
            f"min(max({u}, -{k}), {k})",
            f"abs({u})/(1 + {u}**2)",
            f"max({u}, 0)/(1 + {v}**2)/(1 + abs({u}))",
            f"where({u} > 0, {u}, 0.5*{u})/(1 + {u}**2)",
        )
    )


def _time_terms(m: _Model) -> list[Callable[[], str]]:
    """Return what makes a term that switches at times, with its switches noted."""

    def at(*texts: str) -> None:
        m.switches.extend({"at": text} for text in texts)

    def every(start: str, period: str) -> None:
        m.switches.append({"start": start, "every": period})

    def pulse() -> str:
        a, w, u = m.span(0.05, 0.8), m.width(*m.one(((0.003, 0.03), (0.03, 0.2)))), m.level()
        at(a, f"{a} + {w}")
        low, high = m.one((">=", ">")), m.one(("<=", "<"))
        return f"where((t {low} {a}) and (t {high} {a} + {w}), {u}, 0)"

    def step() -> str:
        a, u, v = m.span(0.1, 0.9), m.level(), m.level()
        at(a)
        return m.one(  # type: ignore[no-any-return]
            (
                f"where(not (t < {a}), {u}, {v})",
                f"where(t > {a}, {u}, {v})",
                f"where({a} >= t, {u}, {v})",
                f"where(2*t - {a} > {a}, {u}, {v})",
                f"{u}*sign(t - {a})",
            )
        )

    def train() -> str:
        p, u = m.width(0.08, 0.35), m.level()
        d = f"({m.parameter(m.number(0.03, 0.6))}*{p})"
        every("0", p)
        every(d, p)
        phase = m.one((f"(t - {p}*floor(t/{p}))", f"mod(t, {p})", f"(t % {p})"))
        return f"where({phase} < {d}, {u}, 0)"

    def limited_train() -> str:
        a, p, u = m.span(0.05, 0.4), m.width(0.05, 0.2), m.level()
        d = f"{m.parameter(m.number(0.1, 0.5))}*{p}"
        every(a, p)
        every(f"{a} + {d}", p)
        return f"where((t >= {a}) and (t < {a} + 3*{p}) and (mod(t - {a}, {p}) < {d}), {u}, 0)"

    def staircase() -> str:
        p = m.width(0.1, 0.4)
        every("0", p)
        kind = m.one(("floor", "ceil"))
        return f"{m.level()}*{kind}(t/{p})/(1 + {kind}(t/{p})**2)"

    def distance() -> str:
        a, b = m.span(0.1, 0.9), m.width(0.05, 0.3)
        at(a, f"{a} - {b}", f"{a} + {b}")
        return f"{m.level()}*min(abs(t - {a}), {b})/{b}"

    def ramp() -> str:
        a, w = m.span(0.1, 0.7), m.width(0.01, 0.2)
        at(a, f"{a} + {w}")
        return f"{m.level()}*max(0, min(1, (t - {a})/{w}))"

    def sawtooth() -> str:
        p = m.width(0.1, 0.4)
        every("0", p)
        return f"{m.level()}*(t/{p} - floor(t/{p}))"

    def gate() -> str:
        w = m.parameter(m.number(4.0, 20.0) / m.duration)
        c = m.parameter(m.number(-0.8, 0.9), 0.3)
        every(f"asin({c})/{w}", f"2*pi/{w}")
        every(f"(pi - asin({c}))/{w}", f"2*pi/{w}")
        return f"where(sin({w}*t) > {c}, {m.level()}, 0)"

    def nested() -> str:
        a, w = m.span(0.1, 0.6), m.width(0.02, 0.2)
        at(a, f"{a} + {w}")
        u, v = m.level(), m.level()
        return f"where(t > {a}, where(t < {a} + {w}, {u}, 0.5*{v}), {v})"

    def curved() -> str:
        a = m.span(0.2, 0.8)
        at(a)
        return m.one(  # type: ignore[no-any-return]
            (
                f"where(t**2 > {a}**2, {m.level()}, 0)" if m.t_start >= 0 else "0.1",
                f"where(exp(0.1*t) > exp(0.1*{a}), {m.level()}, 0)",
                f"{m.level()}*max(t - {a}, 0)**2/(1 + (t - {a})**2)",
            )
        )

    def implicit() -> str:
        a = m.span(0.2, 0.8)
        m.switches.append({"root": f"t + 0.3*sin(2*t) - {a}"})
        return f"where(t + 0.3*sin(2*t) > {a}, {m.level()}, 0)"

    def narrow() -> str:
        m.features.add("smooth pulses")
        c, w = m.span(0.1, 0.9), m.width(0.002, 0.02)
        at(*(f"{c} + {k}*{w}" for k in (-6, -3, 0, 3, 6)))
        return f"{m.level()}*exp(-((t - {c})/{w})**2)"

    return [
        pulse, pulse, step, train, limited_train, staircase, distance, ramp, sawtooth, gate, nested,
        curved, implicit, narrow,
    ]  # fmt: skip


# the model --------------------------------------------------------------------------------


def _states(m: _Model, count: int) -> None:
    for i in range(count):
        name = f"x{i}"
        m.size[name], m.offset[name] = 1.0, 0.0
        if m.chance(0.2):
            m.size[name] = m.one((1e-6, 1e-3, 1e3, 1e6))
            m.features.add("scales")
        elif m.chance(0.1):
            m.offset[name] = m.one((37.0, -80.0, 300.0))
            m.features.add("offsets")
        size, offset = m.size[name], m.offset[name]
        text = (
            name
            if not offset
            else f"({name} - {offset:g})"
            if offset > 0
            else f"({name} + {-offset:g})"
        )
        m.unit[name] = text if size == 1.0 else f"({text}/{size:g})"
        m.states[name] = float(f"{offset + size * m.rng.uniform(-1, 1):.5g}")
        m.damping[name] = m.number(0.2, 2.0)
        m.terms[name] = []


def _oscillator(m: _Model, a: str, b: str) -> None:
    """Make two states swing."""
    m.features.add("oscillators")
    w = m.parameter(m.number(6.0, 30.0) / m.duration)
    c = m.number(0.01, 0.15)
    ratio = m.size[a] / m.size[b]
    m.terms[a] += [f"{w}*{ratio:g}*{_local(m, b)}" if ratio != 1 else f"{w}*{_local(m, b)}"]
    m.terms[b] += [f"-{w}*{1 / ratio:g}*{_local(m, a)}" if ratio != 1 else f"-{w}*{_local(m, a)}"]
    m.damping[a] = m.damping[b] = c
    m.states[a] = float(f"{m.offset[a] + m.size[a] * m.rng.uniform(0.5, 1.0):.5g}")


def _local(m: _Model, name: str) -> str:
    """Return a state without its offset, in its own units."""
    offset = m.offset[name]
    return (
        name
        if not offset
        else f"({name} - {offset:g})"
        if offset > 0
        else f"({name} + {-offset:g})"
    )


def _act(m: _Model, name: str, text: str) -> None:
    """Add a term of normalised size to the rate of a state."""
    size = m.size[name]
    m.terms[name].append(text if size == 1.0 else f"{size:g}*({text})")


def _equations(m: _Model) -> None:
    names = list(m.states)
    if len(names) >= 2 and m.chance(0.4):
        _oscillator(m, names[0], names[1])
    if m.chance(0.15):
        m.stiff = True
        m.features.add("stiff")
        fast = m.one(names[-2:]) if len(names) > 2 else names[-1]
        m.damping[fast] = float(f"{10 ** m.rng.uniform(1.8, 4.0):.3g}")
    for name in names:
        damping = m.damping[name]
        rate = m.parameter(damping, 0.4)
        m.terms[name].insert(0, f"-{rate}*{_local(m, name)}")
        if m.chance(0.15):
            _act(m, name, f"-{m.number(0.05, 0.5)}*{m.unit[name]}**3")
        for _ in range(m.one((0, 0, 1, 1, 1, 2, 3))):
            u, v = (m.unit[m.one(names)] for _ in range(2))
            make = _kinked_term if m.chance(0.12) else _smooth_term
            text = make(m, u, v)
            if m.chance(0.15):
                key = f"d{len(m.definitions)}"
                m.definitions[key] = text
                text = key
            _act(m, name, f"{_strength(m, name)}*{text}")
        if m.chance(0.15):
            w = m.parameter(m.number(2.0, 15.0) / m.duration)
            _act(m, name, f"{_strength(m, name)}*sin({w}*t)")


def _strength(m: _Model, name: str) -> str:
    """Return the size of a term: that of the damping where that is fast."""
    factor = max(1.0, m.damping[name])
    return m.parameter(m.signed(0.2, 1.2) * (1.0 if factor < 3 else float(f"{factor:.3g}")), 0.5)


def _add_time_switches(m: _Model) -> None:
    for _ in range(m.whole(1, 3)):
        m.features.add("switches in time")
        name = m.one(list(m.states))
        text = m.one(_time_terms(m))()
        if m.chance(0.2):
            key = f"d{len(m.definitions)}"
            m.definitions[key] = text
            text = key
        if m.chance(0.2):
            text = f"({text})*{_smooth_term(m, m.unit[m.one(list(m.states))], '1')}"
        _act(m, name, f"{text}" if m.damping[name] < 3 else f"{m.damping[name]:g}*({text})")


def _add_drivers(m: _Model) -> None:
    for i in range(m.whole(1, 2)):
        name = f"u{i}"
        m.features.add("drivers")
        interpolation = m.one(("step", "linear", "cubic"))
        outside = m.one(("hold", "zero", "periodic"))
        count = m.whole(3, 7)
        low = m.t_start + m.duration * m.rng.uniform(-0.2, 0.2)
        high = m.t_start + m.duration * m.rng.uniform(0.5, 1.2)
        times = np.sort(m.rng.uniform(low, high, count))
        while np.diff(times).min() < 0.01 * m.duration:
            times = np.sort(m.rng.uniform(low, high, count))
        several = m.chance(0.3)
        rows = []
        for _ in range(m.whole(2, 3) if several else 1):
            row = [m.number(-1.5, 1.5) for _ in range(count)]
            if outside == "periodic":
                row[-1] = row[0]
            rows.append(row)
        m.drivers[name] = {
            "times": [float(f"{time:.6g}") for time in times],
            "values": rows if several else rows[0],
            "interpolation": interpolation,
            "outside": outside,
        }
        if several:
            m.parameters[f"{name}_series"] = float(m.whole(0, len(rows) - 1))
            m.drivers[name]["series"] = f"{name}_series"
            m.kept.add(f"{name}_series")
        target = m.one(list(m.states))
        text = f"{_strength(m, target)}*{name}"
        if m.chance(0.3):
            text += f"/(1 + {m.unit[m.one(list(m.states))]}**2)"
        _act(m, target, text)


def _add_doses(m: _Model) -> None:
    for _ in range(m.whole(1, 2)):
        into = m.one(list(m.states))
        amount = m.parameter(float(f"{m.size[into] * m.rng.uniform(0.3, 2):.4g}"))
        dose: dict[str, Any] = {"name": f"dose{len(m.doses)}", "into": into}
        if m.chance(0.5):
            dose["at"] = sorted(_moment(m) for _ in range(m.whole(1, 3)))
            dose["at"] = [dose["at"][0]] if len(set(dose["at"])) < len(dose["at"]) else dose["at"]
        else:
            dose |= {"start": m.span(0.02, 0.4), "every": m.width(0.08, 0.4)}
            if m.chance(0.7):
                dose["count"] = m.whole(1, 4)
        m.features.add("doses")
        if m.chance(0.45):
            m.features.add("infusions")
            span = m.width(0.005, 0.15)
            kind = m.whole(0, 2)
            dose |= ({"amount": amount, "duration": span}, {"rate": amount, "duration": span},
                     {"amount": amount, "rate": f"{amount}/{span}"})[kind]  # fmt: skip
        else:
            dose["amount"] = amount
        m.doses.append({k: _number(v) for k, v in dose.items()})


def _moment(m: _Model) -> float:
    return float(f"{m.t_start + m.duration * m.rng.uniform(0.02, 0.95):.5g}")


def _number(text: Any) -> Any:
    """Return a text that is a number as a number."""
    if isinstance(text, str):
        try:
            return float(text)
        except ValueError:
            return text
    return text


def _trial(m: _Model, name: str) -> dict[str, Any] | None:
    """Return a trajectory at the default values by state, None if there is none."""
    times = np.linspace(0, m.duration, 200).tolist()
    case = Case(
        name, m.mapping(name), {}, m.duration, m.t_start, times, stiff=m.stiff,
        switches=m.switches,
    )  # fmt: skip
    try:
        run = Reference(case, 1e-6).run(0)
    except NoReferenceError:
        return None
    return dict(zip(m.states, run.saved, strict=False))


def _threshold(m: _Model, row: Any) -> float | None:
    """Return a value that a trajectory passes with some speed."""
    low, high = float(np.nanmin(row)), float(np.nanmax(row))
    if not high - low > 1e-3 * max(1e-12, abs(low), abs(high)):
        return None
    return float(f"{low + (high - low) * m.rng.uniform(0.25, 0.75):.6g}")


def _add_state_switches(m: _Model, trial: dict[str, Any]) -> None:
    names = list(m.states)
    for _ in range(m.whole(1, 2)):
        watched = m.one(names)
        level = _threshold(m, trial[watched])
        targets = [name for name in names if name != watched]
        if level is None or not targets:
            continue
        target = m.one(targets)
        c = m.parameter(level, 0.5)
        u, v = m.level(), m.level()
        sign = m.one((">", ">=", "<", "<="))
        text = f"where({watched} {sign} {c}, {u}, {v})"
        if m.chance(0.2):
            a = m.span(0.1, 0.7)
            m.switches.append({"at": a})
            text = f"where(({watched} {sign} {c}) and (t > {a}), {u}, {v})"
        m.features.add("switches in states")
        _act(m, target, text if m.damping[target] < 3 else f"{m.damping[target]:g}*({text})")


def _add_events(m: _Model, trial: dict[str, Any]) -> None:
    for i in range(m.whole(1, 3)):
        name = f"e{i}"
        makers = (_watched, _watched, _watched, _scheduled, _scheduled, _timed)
        event = m.one(makers)(m, trial)
        if event is None:
            continue
        if m.chance(0.75):
            event["set"] = _resets(m)
        if m.chance(0.08):
            event["stop"] = True
            m.features.add("stops")
        if m.chance(0.25):
            event["priority"] = m.one((1, 2, -1, f"{m.parameter(1.5)}"))
        if m.chance(0.1):
            event["record"] = False
        if m.chance(0.15) and event.get("set"):
            event["values"] = "trigger"
        m.events[name] = event
        if "at" in event and m.chance(0.2) and i < 2:
            # Another one at the same times, so that the order matters.
            other = {"at": event["at"], "set": _resets(m), "priority": m.one((0, 1, 3, -2))}
            m.events[f"{name}_twin"] = other
            m.features.add("events at one time")


def _watched(m: _Model, trial: dict[str, Any]) -> dict[str, Any] | None:
    """Return an event of a state."""
    name = m.one(list(m.states))
    level = _threshold(m, trial[name])
    if level is None:
        return None
    c = m.parameter(level, 0.5)
    if m.chance(0.5):
        m.features.add("events by root")
        direction = m.one(("rising", "falling", "both"))
        root = m.one((f"{name} - {c}", f"{name} - {c}", f"({name} - {c})*(1 + {m.unit[name]}**2)"))
        event: dict[str, Any] = {"root": root}
        if direction != "rising" or m.chance(0.5):
            event["direction"] = direction
        return event
    m.features.add("events by condition")
    sign = m.one((">", "<", ">=", "<="))
    text = f"{name} {sign} {c}"
    if m.chance(0.3):
        a = m.span(0.05, 0.6)
        m.switches.append({"at": a})
        text = m.one((f"{text} and t > {a}", f"t >= {a} and {text}", f"{text} or t > {a}"))
    event = {"when": text}
    if m.chance(0.2):
        event["initially"] = m.one((True, False))
    if m.chance(0.2):
        event["persistent"] = False
    return event


def _scheduled(m: _Model, trial: dict[str, Any]) -> dict[str, Any]:
    """Return an event at given times."""
    m.features.add("events by schedule")
    kind = m.whole(0, 2)
    if kind == 0:
        return {"at": _number(m.span(0.05, 0.9))}
    if kind == 1:
        times = sorted({_moment(m) for _ in range(m.whole(1, 4))})
        return {"at": times}
    at: dict[str, Any] = {"start": _number(m.span(0.0, 0.4)), "every": _number(m.width(0.08, 0.4))}
    if m.chance(0.6):
        at["count"] = m.whole(1, 5)
    return {"at": at}


def _timed(m: _Model, trial: dict[str, Any]) -> dict[str, Any]:
    """Return an event of a condition in time alone."""
    m.features.add("events by time")
    kind = m.whole(0, 4)
    if kind == 0:
        a = m.span(0.05, 0.9)
        m.switches.append({"at": a})
        return {"when": f"t {m.one(('>', '>='))} {a}"}
    if kind == 1:
        w, c = m.parameter(m.number(6.0, 40.0) / m.duration), m.number(-0.7, 0.8)
        m.switches.append({"start": f"asin({c})/{w}", "every": f"2*pi/{w}"})
        return {"when": f"sin({w}*t) > {c}"}
    if kind == 2:
        p = m.width(0.06, 0.3)
        d = f"{m.number(0.05, 0.5)}*{p}"
        m.switches += [{"start": "0", "every": p}, {"start": d, "every": p}]
        return {"when": f"mod(t, {p}) < {d}"}
    if kind == 3:
        a = m.span(0.05, 0.9)
        m.switches.append({"at": a})
        return {"root": f"t - {a}", "direction": m.one(("rising", "both"))}
    w = m.parameter(m.number(6.0, 40.0) / m.duration)
    m.switches.append({"start": "0", "every": f"pi/{w}"})
    return {"root": f"sin({w}*t)", "direction": m.one(("rising", "falling", "both"))}


def _resets(m: _Model) -> dict[str, str]:
    """Return what an event sets."""
    found = {}
    for _ in range(m.whole(1, 2)):
        name = m.one(list(m.states))
        size, local = m.size[name], _local(m, name)
        offset = m.offset[name]
        kick = float(f"{size * m.rng.uniform(0.2, 0.8) * m.one((-1, 1)):.4g}")
        base = "" if not offset else f"{offset:g} + "
        found[name] = m.one(
            (
                f"{name} + {m.parameter(kick)}",
                f"{base}{m.number(-0.8, 0.8)}*{local}",
                f"{base}{m.number(0.1, 0.8)}*{local}",
                str(float(f"{offset + size * m.rng.uniform(-1, 1):.4g}")),
            )
        )
    if m.chance(0.2):
        names = [n for n in m.parameters if n not in m.kept and isinstance(m.parameters[n], float)]
        if names:
            name = m.one(names)
            m.features.add("parameters set")
            m.kept.add(name)
            found[name] = f"{m.number(0.4, 0.9)}*{name} + {0.3 * m.parameters[name]:.4g}"
    return found


def _keep_schedules(m: _Model) -> None:
    """Let no event set a parameter of a schedule: its times are not defined then."""
    texts = str([[event.get("at") for event in m.events.values()], m.doses])
    scheduled = {*re.findall(r"\w+", texts)} & m.parameters.keys()
    for event in m.events.values():
        if "set" in event:
            event["set"] = {k: v for k, v in event["set"].items() if k not in scheduled}


def _add_starts(m: _Model) -> None:
    """Let start values depend on parameters, other starts and time."""
    m.features.add("start values")
    names = list(m.states)
    numbers = [n for n, v in m.parameters.items() if isinstance(v, float) and n not in m.kept]
    for name in m.rng.permutation(names)[: m.whole(1, 2)]:
        name = str(name)
        size, offset = m.size[name], m.offset[name]
        p = m.one(numbers) if numbers else "0.7"
        scale = max(1e-12, abs(m.parameters[p])) if numbers else 1.0
        inner = m.one(
            (
                f"0.5*{p}/{scale:.4g}",
                f"exp(-abs({p})/{scale:.4g})",
                f"{p}/(abs({p}) + {scale:.4g})",
                f"0.4*{p}/{scale:.4g} + 0.1*cos(t)",
            )
        )
        text = f"{offset:g} + {size:g}*({inner})" if offset or size != 1 else inner
        others = [n for n in names if n != name and isinstance(m.states[n], float)]
        if others and m.chance(0.3):
            other = m.one(others)
            text = f"{text} + {0.1 * size:g}*{m.unit[other]}"
        m.states[name] = text
    if numbers and m.chance(0.3):
        p = m.one(numbers)
        value = m.parameters[p]
        others = [n for n in numbers if n != p and n not in str(m.states.values())]
        if others:
            other = m.one(others)
            m.parameters[p] = f"{value}*(0.8 + 0.2*{other}/({m.parameters[other]}))"


def _add_observables(m: _Model) -> None:
    m.features.add("observables")
    names = list(m.states)
    for i in range(m.whole(1, 2)):
        u, v = (m.unit[m.one(names)] for _ in range(2))
        texts = [
            f"{u}*{v}",
            f"{u}**2 + {v}",
            _smooth_term(m, u, v),
            f"abs({u}) + t",
            f"max({u}, {v})",
        ]
        if m.drivers:
            name = m.one(list(m.drivers))
            if m.drivers[name]["interpolation"] != "step" and m.drivers[name]["outside"] != "zero":
                texts.append(f"{name} + {u}")
        m.observables[f"o{i}"] = m.one(texts)


def draw(seed: int, number: int) -> Case | None:
    """Return case `number` of a seed; None where the draw has no trajectory worth a test."""
    rng = np.random.default_rng([seed, number])
    m = _Model(rng, float(f"{10 ** rng.uniform(0.0, 1.3):.4g}"), 0.0)
    if m.chance(0.15):
        m.t_start = m.one((1.5, -2.0, 10.0))
        m.features.add("t_start")
    _states(m, int(rng.choice(np.arange(1, 9), p=_SIZES)))
    _equations(m)
    if m.chance(0.4):
        _add_time_switches(m)
    if m.chance(0.2):
        _add_drivers(m)
    if m.chance(0.25):
        _add_doses(m)
    eventful, switching = m.chance(0.5), m.chance(0.22)
    name = f"m{seed}_{number}"
    if eventful or switching:
        trial = _trial(m, name)
        if trial is None:
            return None
        if switching:
            _add_state_switches(m, trial)
        if eventful:
            m.features.add("events")
            _add_events(m, trial)
    _keep_schedules(m)
    if m.chance(0.25):
        _add_starts(m)
    if m.chance(0.4):
        _add_observables(m)
    return _with_method(m, _case(m, name))


def _case(m: _Model, name: str) -> Case:
    """Return the case of a model: its batch and its saved times."""
    rng, columns, model = m.rng, {}, m.mapping(name)
    free = [n for n in model.get("parameters", {}) if n not in m.kept]
    if free:
        chosen = rng.permutation(free)[: m.whole(1, min(6, len(free)))]
        for parameter in sorted(map(str, chosen)):
            value = m.parameters[parameter]
            if isinstance(value, str):
                if not m.chance(0.3):
                    continue
                value = float(value.split("*")[0])
            columns[parameter] = [float(f"{value * f:.6g}") for f in rng.uniform(0.8, 1.2, RUNS)]
    for state, value in m.states.items():
        if m.chance(0.3) and (isinstance(value, float) or m.chance(0.3)):
            drawn = m.offset[state] + m.size[state] * rng.uniform(-1, 1, RUNS)
            if isinstance(value, str) and {*re.findall(r"\w+", value)} & columns.keys():
                # A parameter that varies and reaches nothing else would be refused.
                continue
            columns[state] = [float(f"{one:.6g}") for one in drawn]
    for driver in m.drivers.values():
        if "series" in driver and m.chance(0.7):
            columns[driver["series"]] = [
                float(i) for i in rng.integers(0, len(driver["values"]), RUNS)
            ]
    if m.chance(0.1) or not columns:
        m.features.add("durations")
        columns["duration"] = [float(f"{m.duration * f:.6g}") for f in rng.uniform(0.6, 1.0, RUNS)]
    times: list[float] = []
    if m.chance(0.8):
        drawn = np.unique(np.round(rng.uniform(0, 1, m.whole(2, 12)) * m.duration, 3))
        times = [float(f"{one:.6g}") for one in drawn if one <= m.duration]
        if m.chance(0.5):
            times = [0.0, *(one for one in times if one > 0)]
        if m.chance(0.3) and times[-1] < m.duration:
            times.append(m.duration)
    if "duration" in columns:
        times = [one for one in times if one <= max(columns["duration"])]
    if times:
        m.features.add("saved times")
    summaries = [m.one([*m.states, *m.observables])] if m.chance(0.15) else []
    return Case(
        name, model, columns, m.duration, m.t_start, times, summaries=summaries,
        switches=list(m.switches), stiff=m.stiff, features=sorted(m.features),
        atol={state: 1e-9 * m.size[state] for state in m.states},
    )  # fmt: skip


def _with_method(m: _Model, case: Case) -> Case:
    """Return a case with a method that suits it."""
    shares = dict(_SHARES)
    fastest = max(m.damping.values())
    if fastest > 100:
        for family in ("explicit", "fixed", "taylor"):
            shares[family] = 0.0
    names = list(shares)
    weights = np.array(list(shares.values()))
    family = str(m.rng.choice(names, p=weights / weights.sum()))
    algorithm = m.one(FAMILIES[family])
    changes: dict[str, Any] = {"algorithm": algorithm}
    if family in ("rosenbrock", "diagonal", "collocation", "multistep") and m.chance(0.3):
        changes["linear_solver"] = m.one(("sparse", "pivoted", "bicgstab"))
    rtol = 1e-6
    if family != "taylor" and m.chance(0.2):
        changes["precision"] = "float32"
        rtol = 1e-4
    if family == "fixed":
        finest = 0.3 / max(1.0, fastest)
        changes["dt"] = float(f"{min(finest, case.duration / FIXED_STEPS[algorithm]):.4g}")
    if algorithm in SLOW:
        changes["max_steps"] = 300_000
    lanes = m.one((2, 2, 4, 4, 4, 4, 4, 4, 4, None))
    return evolve(case.at_tolerance(rtol), **changes, lanes=lanes)
