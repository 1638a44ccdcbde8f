"""Systems from mappings, files, text and functions, and what is said of mistakes."""

from __future__ import annotations

import copy
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from cubie_flow import maths
from cubie_flow.errors import FlowError
from cubie_flow.expressions import graph as g
from cubie_flow.expressions.bit_operations import to_float, to_int
from cubie_flow.expressions.evaluate import evaluate
from cubie_flow.expressions.traversal import free_symbols
from cubie_flow.systems import Observable, OdeSystem, Quantity, model_reader
from cubie_flow.systems.model_items import KEYS

DECAY: dict[str, Any] = {
    "name": "decay",
    "time": {"unit": "s", "duration": "2*5"},
    "constants": {"g": 9.81, "weight": "m*g", "m": 2},
    "parameters": {"sigma": "8/3", "rho": {"value": 28, "unit": "K", "long_name": "heat"}},
    "states": {"x": 1, "y": {"value": "-pi", "unit": "m"}},
    "definitions": {"gap": "y - x", "wide": "gap > 1"},
    "equations": {"x": "sigma*gap", "y": "where(wide, rho, 0) - weight*y + t"},
    "observables": {"energy": {"expression": "power*2", "unit": "J"}, "power": "x**2 + gap"},
    "suggested": {"rho": {"uniform": [0, 50]}},
}
CHAIN: dict[str, Any] = {
    "name": "chain",
    "settings": {"size": 4},
    "indices": {"i": {"size": "size", "boundary": "periodic"}},
    "parameters": {"k": 1.0, "a[i]": [1, "1/2", 3, 4]},
    "states": {"u[i]": "i**2"},
    "equations": {"u[i]": "k*(u[i-1] - u[i])*a[i]"},
    "observables": {"mean": "sum(u[i], i)/size"},
}


def changed(model: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a copy; ``section__name`` replaces or adds an item, None takes it away."""
    result = copy.deepcopy(model)
    for path, value in changes.items():
        place, _, name = path.partition("__")
        target = result.setdefault(place, {}) if name else result
        if value is None:
            del target[name or place]
        else:
            target[name or place] = value
    return result


def derivatives(system: OdeSystem, **values: Any) -> list[float]:
    known = {item.name: item.value for item in (*system.parameters, *system.states)}
    return [float(v) for v in evaluate(system.derivatives, {"t": 0.0, **known, **values})]


# mappings ---------------------------------------------------------------------------------------


def test_a_mapping_becomes_a_system() -> None:
    system = OdeSystem.from_mapping(DECAY)
    assert system.states == (Quantity("x", 1.0), Quantity("y", -math.pi, "m"))
    assert system.parameters == (Quantity("sigma", 8 / 3), Quantity("rho", 28.0, "K", "heat"))
    assert system.duration == 10.0
    assert system.time_unit == "s"
    assert system.suggested == {"rho": {"uniform": [0, 50]}}
    assert set(free_symbols(system.derivatives)) == {"x", "y", "sigma", "rho", "t"}
    assert derivatives(system, x=1.0, y=3.0, t=0.5) == pytest.approx(
        [16 / 3, 28 - 2 * 9.81 * 3 + 0.5]
    )
    energy, power = system.observables
    assert (energy.name, energy.unit) == ("energy", "J")
    assert energy.expression is power.expression * 2


def test_equations_may_use_observables() -> None:
    system = OdeSystem.from_mapping(changed(DECAY, equations__x="power*sigma"))
    x, y, sigma = map(g.symbol, ("x", "y", "sigma"))
    assert system.derivatives[0] is (x * x + (y - x)) * sigma


def test_a_family_is_written_out() -> None:
    system = OdeSystem.from_mapping(CHAIN)
    assert [(s.name, s.value) for s in system.states] == [
        ("u_0", 0.0), ("u_1", 1.0), ("u_2", 4.0), ("u_3", 9.0),
    ]  # fmt: skip
    assert [p.value for p in system.parameters] == [1.0, 1.0, 0.5, 3.0, 4.0]
    u, a, k = (
        [g.symbol(f"{name}_{i}") for i in range(4)] if name != "k" else [g.symbol("k")]
        for name in ("u", "a", "k")
    )
    assert system.derivatives[0] is k[0] * (u[3] - u[0]) * a[0]
    assert system.derivatives[2] is k[0] * (u[1] - u[2]) * a[2]
    assert system.observables[0].expression is (u[0] + u[1] + u[2] + u[3]) / 4


def test_boundaries() -> None:
    def first_and_last(boundary: str, equation: str) -> list[str]:
        model = changed(CHAIN, indices={"i": {"size": 3, "boundary": boundary}})
        model = changed(model, equations={"u[i]": equation}, parameters=None, settings=None)
        model = changed(model, observables=None)
        nodes = OdeSystem.from_mapping(model).derivatives
        return [repr(nodes[0]), repr(nodes[2])]

    assert first_and_last("periodic", "u[i-1] + u[i+4]") == ["u_2 + u_1", "u_1 + u_0"]
    assert first_and_last("clamp", "u[i-1] + u[i+4]") == ["u_0 + u_2", "u_1 + u_2"]
    assert first_and_last("none", "where(i == 0, 7, u[max(i-1, 0)])") == ["7.0", "u_1"]
    assert first_and_last("none", "u[i-1] if i > 0 else 7") == ["7.0", "u_1"]
    with pytest.raises(FlowError, match=r"asks for element -1 of 'u', which has 0 to 2; give"):
        first_and_last("none", "u[i-1]")


def test_two_indices() -> None:
    system = OdeSystem.from_mapping(
        {
            "name": "sheet",
            "indices": {"i": 2, "j": {"size": 3, "boundary": "clamp"}},
            "states": {"u[i, j]": "10*i + j"},
            "equations": {"u[i, j]": "u[1 - i, j + 1]"},
            "observables": {"row[i]": "sum(u[i, j], j)"},
        }
    )
    assert [repr(item.expression) for item in system.observables] == [
        "u_0_0 + u_0_1 + u_0_2",
        "u_1_0 + u_1_1 + u_1_2",
    ]
    assert [s.name for s in system.states] == ["u_0_0", "u_0_1", "u_0_2", "u_1_0", "u_1_1", "u_1_2"]
    assert [s.value for s in system.states] == [0, 1, 2, 10, 11, 12]
    assert [repr(node) for node in system.derivatives[:3]] == ["u_1_1", "u_1_2", "u_1_2"]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (changed(DECAY, equations__x="sigm*x"),
         "system decay, equation of x: 'sigm' is not defined; did you mean 'sigma'?"),
        (changed(DECAY, equations__z="x"),
         "system decay: there is an equation for 'z', which is not a state"),
        (changed(DECAY, equations__sigma="x"), "which is a parameter, not a state"),
        (changed(DECAY, equations__y=None), "system decay: state 'y' has no equation"),
        (changed(DECAY, states__sigma=1.0),
         "system decay: 'sigma' names both a parameter and a state; rename one"),
        (changed(DECAY, states__t=1.0), "the state 't' has a reserved name: it means the time"),
        (changed(DECAY, states__status=1.0), "it means an array of the results"),
        (changed(DECAY, parameters__exp=1.0), "it means a function"),
        (changed(DECAY, states={"2x": 1}), "the state '2x' is not a usable name"),
        (changed(DECAY, states={"lambda": 1}), "'lambda' is not a usable name"),
        (changed(DECAY, states={"b)": None}), "put quotes around a formula with a comma"),
        (changed(DECAY, states={"": 1}), "the state '' is not a usable name"),
        (changed(DECAY, states={"a" * 65: 1}), "has 65 characters, but only 64 are allowed"),
        (changed(DECAY, states__x=math.inf), "initial value of x is inf, which is not finite"),
        (changed(DECAY, states__x="1/0"), "initial value of x: '1/0' is not a finite number"),
        (changed(DECAY, states__x="1e400"), "'1e400' is too large"),
        (changed(DECAY, states__x=10**400), "which is not finite"),
        (changed(DECAY, states__x=True), "initial value of x is True, which is not a number"),
        (changed(DECAY, states__x=None, states={"x": None, "y": 1}),
         "initial value of x is None, which is not a number"),
        (changed(DECAY, states__x=[1, 2]), "a list of values is only for"),
        (changed(DECAY, constants__m="sigma"),
         "'sigma' is a parameter; a value may use numbers, settings and constants only"),
        (changed(DECAY, states__x="one"), "initial value of x: 'one' is not defined"),
        (changed(DECAY, states__x={"valu": 1}),
         "unknown key 'valu' (known: value, unit, long_name); did you mean 'value'?"),
        (changed(DECAY, states__x={"unit": "m"}), "initial value of x: 'value' is missing"),
        (changed(DECAY, states__y={"value": 1, "unit": "m"}, units={"y": "m"}),
         "its unit is also given under 'units'"),
        (changed(DECAY, equatons={"x": "y"}),
         "system decay: unknown key 'equatons'"),
        (changed(DECAY, states={}), "system decay"),
        (changed(DECAY, observables__power="energy"),
         "system decay: observables use each other in a circle: energy -> power -> energy"),
        (changed(DECAY, definitions__gap="gap + 1"), "in a circle: gap -> gap"),
        (changed(DECAY, constants__m="weight"), "constants use each other in a circle"),
        (changed(DECAY, parameters__rhoo=3),
         "parameter 'rhoo' is used nowhere (if that is intended, list it under 'unused'); "
         "did you mean 'rho'?"),
        (changed(DECAY, constants__unused=3), "constant 'unused' is used nowhere"),
        (changed(DECAY, unused=["roh"]), "'unused' names 'roh', which does not exist"),
        (changed(DECAY, equations__x="gap > 0"), "equation of x: 'gap > 0' is true or false"),
        (changed(DECAY, equations__x="x + wide"), "'wide' is true or false, not a number"),
        (changed(DECAY, equations__x={"expression": "y"}), "which is not a number"),
        (changed(DECAY, observables__power="gap < 1"), "is true or false, not a number"),
        (changed(DECAY, time={"duraton": 1}), "time: unknown key 'duraton'"),
        (changed(DECAY, time={"duration": 0}), "duration is 0.0; it must be positive"),
        (changed(DECAY, time=3), "'time' must be a mapping, not 3"),
        (changed(DECAY, units={"z": "m"}), "system decay, units: unknown key 'z'"),
        (changed(DECAY, suggested={"rhoo": [1, 2]}),
         "'suggested' names 'rhoo', which is not a state, parameter or duration; did you mean"),
        (changed(DECAY, title=["a"]), "system decay, title must be text, not ['a']"),
        (changed(DECAY, name="a/b"), "the system name 'a/b' must be"),
        ("x' = 1", "a model is a mapping with states and equations, not"),
        (changed(CHAIN, indices__i={"size": 0}), "index i: size is 0; it must be 1 to 100000"),
        (changed(CHAIN, indices__i={"size": 10**9}), "it must be 1 to 100000"),
        (changed(CHAIN, settings__size=2.5), "setting size is 2.5, which is not a whole number"),
        (changed(CHAIN, indices__i={"size": "n"}), "index i, size: 'n' is not defined"),
        (changed(CHAIN, indices__i={"size": 4, "boundary": "periodical"}),
         "boundary is 'periodical'; it must be one of none, periodic, clamp; did you mean"),
        (changed(CHAIN, settings__sise=3), "setting 'sise' is used nowhere"),
        (changed(CHAIN, states={"u[k]": 0}), "'k' is not an index"),
        (changed(CHAIN, states={"u[i, i]": 0}), "the index 'i' occurs twice"),
        (changed(CHAIN, states={"u": 0}), "the state is 'u', but there is an equation for 'u[i]'"),
        (changed(CHAIN, states={"u[i]": 0, "u": 0}), "state 'u' is given twice"),
        (changed(CHAIN, states={"u[i]": 0, "u_1": 0}), "'u_1' names two states; rename one"),
        (changed(CHAIN, parameters__k="u"), "'u' is an indexed family; write u[i]"),
        (changed(CHAIN, observables__mean="u[i]"), "'i' is an index that has no value here"),
        (changed(CHAIN, observables__mean="u[0.5]"), "it must be a whole number"),
        (changed(CHAIN, observables__mean="u[k]"), "it must be a whole number"),
        (changed(CHAIN, observables__mean="u[1, 2]"), "has 2 indices, but 'u' has 1"),
        (changed(CHAIN, observables__mean="v[1]"), "'v' is not defined"),
        (changed(CHAIN, observables__mean="sum(u[i])"), "must be sum(expression, index)"),
        (changed(CHAIN, equations={"u[i]": "sum(u[i], i)"}), "already has a value here"),
        (changed(CHAIN, parameters={"k": 1, "a[i]": [1, 2]}),
         "parameter a[i]: it has 2 values, but index 'i' has size 4"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_sentence(model: Any, said: str) -> None:
    with pytest.raises(FlowError) as caught:
        OdeSystem.from_mapping(model)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_work_is_bounded() -> None:
    nested = "u[0]"
    for letter in "abcd":
        nested = f"sum({nested}, {letter})"
    model = changed(
        CHAIN,
        indices={"i": 4} | dict.fromkeys("abcd", 1000),
        parameters=None,
        settings=None,
        observables=None,
        equations={"u[i]": nested},
    )
    with pytest.raises(FlowError, match=r"the model is too large: .* it has more than"):
        OdeSystem.from_mapping(model)
    model = changed(CHAIN, indices={"i": 1000, "j": 1000}, states={"u[i, j]": 0})
    with pytest.raises(FlowError, match="more than 100000 quantities, elements of families"):
        OdeSystem.from_mapping(model)


# round trips ------------------------------------------------------------------------------------


def travels(system: OdeSystem) -> bool:
    again = OdeSystem.from_mapping(json.loads(json.dumps(system.to_mapping())))
    return again == system and again.content_hash == system.content_hash


def test_a_system_travels_as_a_mapping() -> None:
    assert travels(OdeSystem.from_mapping(DECAY))
    assert travels(OdeSystem.from_mapping(CHAIN))
    assert travels(OdeSystem.from_mapping(changed(DECAY, parameters__extra=1, unused=["extra"])))


def test_shared_and_deep_graphs_travel_as_short_text() -> None:
    def tangled(t: Any, y: Any, p: Any) -> list[Any]:
        a = y.part_0
        for _ in range(40):  # written out as text: 2**40 pieces
            a = maths.sin(a) * a + p.k
        b = y.v
        for _ in range(500):  # and this one 1000 levels deep
            b = maths.cos(b)
        return [a, b]

    system = OdeSystem.from_function(tangled, {"part_0": 1.0, "v": 2.0}, {"k": 3.0})
    assert len(json.dumps(system.to_mapping())) < 20_000
    assert travels(system)


def test_the_hash_follows_what_decides_the_numbers() -> None:
    system = OdeSystem.from_mapping(DECAY)
    same = OdeSystem.from_mapping(changed(DECAY, title="Other words", units={"x": "kg"}))
    assert same.content_hash == system.content_hash
    others = [
        system.with_values({"rho": 1.0}),
        system.with_values(states={"x": 2.0}),
        OdeSystem.from_mapping(changed(DECAY, equations__x="sigma*gap + 1")),
        OdeSystem.from_mapping(changed(DECAY, observables__power="x")),
    ]
    assert len({system.content_hash, *(other.content_hash for other in others)}) == 5


def test_with_values() -> None:
    system = OdeSystem.from_mapping(DECAY)
    other = system.with_values(parameters={"rho": np.float32(3)}, states={"y": 4})
    assert [p.value for p in other.parameters] == [8 / 3, 3.0]
    assert [s.value for s in other.states] == [1.0, 4.0]
    assert other.states[1].unit == "m"
    with pytest.raises(FlowError, match="decay has no parameter 'roh'; did you mean 'rho'"):
        system.with_values({"roh": 1.0})
    with pytest.raises(FlowError, match="decay has no state 'rho'"):
        system.with_values(states={"rho": 1.0})
    with pytest.raises(FlowError, match="parameter 'rho' is nan, which is not finite"):
        system.with_values({"rho": math.nan})


# files ------------------------------------------------------------------------------------------

FILE = """
time: {duration: 1e1}
states: {x: 1e-3, on: -5}
equations:
  x: -x
  on: 'no*on'
parameters: {no: 010}
suggested: {no: [1, 2.5, true]}
"""


def test_a_file_is_read_as_yaml_of_today(tmp_path: Path) -> None:
    path = tmp_path / "decay.yaml"
    path.write_text(FILE)
    system = OdeSystem.from_file(path)
    assert system.name == "decay"
    assert [(s.name, s.value) for s in system.states] == [("x", 0.001), ("on", -5.0)]
    assert [(p.name, p.value) for p in system.parameters] == [("no", 10.0)]
    assert system.suggested == {"no": [1, 2.5, True]}
    assert OdeSystem.from_file(str(path)) == system


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("states: {x: 1}\nequations: {x: 1}\nstates: {y: 2}", "line 3: the key 'states' is given"),
        ("states: {x: 1, x: 2}", "line 1: the key 'x' is given twice"),
        ("a: &a [1]\nb: *a", "line 1: anchors and aliases are not allowed"),
        ("a: !!python/object/apply:os.getcwd []", "line 1: the tag"),
        ("? [a]\n: 1", "line 1: a key must be a name"),
        ("a: [1", "is not YAML: "),
        ("- 1", "must hold a mapping with states and equations"),
        ("", "must hold a mapping with states and equations"),
        ("[" * 5000, "nested too deeply"),
        ("a: \x01", "is not YAML: "),
        (b"\xff\xfe\xfd", "is not UTF-8 text"),
        ("# " + "x" * 2_000_000, "has more than 2000000 bytes"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, content: str | bytes, said: str) -> None:
    path = tmp_path / "model.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(FlowError) as caught:
        OdeSystem.from_file(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_other_formats(tmp_path: Path) -> None:
    with pytest.raises(FlowError, match="cannot be read: No such file"):
        OdeSystem.from_file(tmp_path / "none.yaml")
    with pytest.raises(FlowError, match=r"must end in one of \.yaml, \.yml, .*\.xml"):
        OdeSystem.from_file(tmp_path / "model.m")
    path = tmp_path / "chain.yml"
    path.write_text(json.dumps(CHAIN))
    assert len(OdeSystem.from_file(path, settings={"size": 4}).states) == 4
    with pytest.raises(FlowError, match="has no setting 'sise'; did you mean 'size'"):
        OdeSystem.from_file(path, settings={"sise": 4})


# text -------------------------------------------------------------------------------------------


def test_equations_line_by_line() -> None:
    system = OdeSystem.from_equations(
        """
        # a comment
        dx/dt = -k*x   # decay
        v' = x if x >= 0 else -x
        energy = x**2
        """,
        states={"x": 1.0, "v": "1/2"},
        parameters={"k": 0.5},
        name="pair",
        units={"x": "m"},
    )
    assert system.name == "pair"
    assert derivatives(system) == [-0.5, 1.0]
    assert [(o.name, repr(o.expression)) for o in system.observables] == [("energy", "x*x")]
    assert system.states[0].unit == "m"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dx/dt -k", "system model, line 1: 'dx/dt -k' is not an equation"),
        ("dx/dt = ", "line 1: 'dx/dt =' is not an equation"),
        ("dx/dt = 1\nx' = 2\nx' = 3", 'line 2: "x\'" is given twice'),
        ("dx/dt = 1\ndz/dt = 1", "an equation for 'z', which is not a state"),
        ("dx/dt = 1\nd2x/dt2 = 1", "is not a usable name"),
    ],
)
def test_lines_that_are_no_equations(text: str, said: str) -> None:
    with pytest.raises(FlowError) as caught:
        OdeSystem.from_equations(text, {"x": 1.0})
    assert said in str(caught.value)


# functions --------------------------------------------------------------------------------------


def lorenz(t: Any, y: Any, p: Any) -> dict[str, Any]:
    return {"z": y.x * y.y - p.beta * y.z, "x": p["sigma"] * (y["y"] - y[0]),
            "y": y.x * (p.rho - y.z) - y.y}  # fmt: skip


STATES = {"x": 1.0, "y": 0.0, "z": 0.0}
PARAMETERS = {"sigma": 10.0, "rho": 28.0, "beta": 8 / 3}


def test_a_function_gives_the_graph_of_its_equations() -> None:
    traced = OdeSystem.from_function(
        lorenz, STATES, PARAMETERS,
        observables=lambda t, y, p: {"r": maths.hypot(y.x, y.y), "one": 1},
        units={"r": "m"}, duration=25.0,
    )  # fmt: skip
    written = OdeSystem.from_equations(
        "x' = sigma*(y - x)\ny' = x*(rho - z) - y\nz' = x*y - beta*z", STATES, PARAMETERS
    )
    assert traced.derivatives == written.derivatives
    assert (traced.name, traced.duration) == ("lorenz", 25.0)
    assert traced.observables == (
        Observable("r", g.call("hypot", g.symbol("x"), g.symbol("y")), "m"),
        Observable("one", g.ONE),
    )
    assert travels(traced)


def test_a_function_may_return_a_sequence_and_use_numpy_arrays() -> None:
    def f(t: Any, y: Any, p: Any) -> Any:
        x, v = y
        return np.array([[0.0, 1.0], [-1.0, -0.1]]) @ np.array([x, v]) + np.array([0, t])

    system = OdeSystem.from_function(f, {"x": 1.0, "v": 3.0})
    assert derivatives(system, t=2.0) == pytest.approx([3.0, -1.0 - 0.3 + 2.0])
    anonymous = OdeSystem.from_function(lambda t, y, p: [np.float32(0.5)], {"x": 1.0})
    assert anonymous.name == "lambda"
    assert derivatives(anonymous) == [0.5]


@pytest.mark.parametrize(
    ("f", "said"),
    [
        (lambda t, y, p: [y.x, y.z], "system m: the function: there is no state 'z'"),
        (lambda t, y, p: [y.x, p.rh], "there is no parameter 'rh'; did you mean 'rho'?"),
        (lambda t, y, p: [y.x if y.x > 0 else 0, 1], "use where(condition, a, b) instead of if"),
        (lambda t, y, p: [math.exp(y.x), 1], "use the functions of cubie_flow.maths"),
        (lambda t, y, p: [np.spacing(y.x), 1], "use the functions of cubie_flow.maths"),
        (lambda t, y, p: [y.x], "the function returns 1 derivatives for 2 states"),
        (lambda t, y, p: y.x, "must return a mapping or a sequence of derivatives, not Node"),
        (lambda t, y, p: None, "must return a mapping or a sequence of derivatives, not NoneType"),
        (lambda t, y, p: {"x": 1}, "returns no derivative of 'v'"),
        (lambda t, y, p: {"x": 1, "v": 2, "w": 3}, "returns 'w', which is not a state"),
        (lambda t, y, p: [y.x, "v"], "system m: v is str, not a number or expression"),
        (lambda t, y, p: [y.x, y.x > 0], "equation of v: it is true or false, not a number"),
        (lambda t, y, p: [1, (y.x > 0) * 2], "a comparison is used as a number"),
        (lambda t, y, p: [1, math.inf], "equation of v: 'inf' is not a finite number"),
        (lambda t, y, p: [1, g.symbol("w")], "equation of v: 'w' is not defined"),
        (lambda t, y, p: [1, to_float(to_int(y.x))], "'to_int' is not for equations"),
    ],
)
def test_functions_that_are_no_models(f: Any, said: str) -> None:
    with pytest.raises(FlowError) as caught:
        OdeSystem.from_function(f, {"x": 1.0, "v": 0.0}, {"rho": 1.0}, name="m")
    assert said in str(caught.value)


def test_units_of_a_function_must_belong_to_something() -> None:
    with pytest.raises(FlowError, match="'units' names 'w', which it does not have"):
        OdeSystem.from_function(lambda t, y, p: [1], {"x": 1.0}, units={"w": "m"})


# systems made by hand ---------------------------------------------------------------------------


def test_a_system_checks_itself() -> None:
    x = g.symbol("x")
    system = OdeSystem("m", (Quantity("x", 1.0),), (-x,))
    with pytest.raises(FlowError, match="it has no states"):
        OdeSystem("m", (), ())
    with pytest.raises(FlowError, match="it has 1 states, but 2 derivatives"):
        attrs.evolve(system, derivatives=(x, x))
    with pytest.raises(FlowError, match="'y' is not defined"):
        attrs.evolve(system, derivatives=(g.symbol("y"),))
    with pytest.raises(FlowError, match="both a state and a parameter"):
        attrs.evolve(system, parameters=(Quantity("x", 1.0),))
    with pytest.raises(FlowError, match="state 'x' is nan"):
        attrs.evolve(system, states=(Quantity("x", math.nan),))
    assert hash(system) == hash(OdeSystem("m", (Quantity("x", 1.0),), (-x,)))


# maths ------------------------------------------------------------------------------------------


def test_maths_works_on_expressions_numbers_and_arrays() -> None:
    x = g.symbol("x")
    assert maths.exp(x) is g.call("exp", x)
    assert maths.minimum(x, 1) is g.minimum(x, 1)
    assert maths.where(x > 0, x, 0) is g.where(x > 0, x, 0)
    assert maths.where(True, x, 0) is x
    assert maths.where(maths.logical_not(maths.equal(x, 1)), 1, 0) is g.where(
        g.logical_not(g.compare("==", x, 1)), 1, 0
    )
    assert maths.exp(1.0) == pytest.approx(math.e)
    assert math.isinf(maths.exp(1000.0))
    assert math.isnan(maths.log(-1.0))
    assert maths.where(2 > 1, 3, 4) == 3
    assert bool(maths.logical_and(True, 2 > 1)) is True
    assert bool(maths.logical_or(False, maths.not_equal(1, 1))) is False
    np.testing.assert_allclose(maths.sin(np.array([0.0, 1.0])), np.sin([0.0, 1.0]))
    np.testing.assert_allclose(maths.where(np.array([True, False]), 1, np.array([5, 6])), [1, 6])
    for name, arity in g.FUNCTIONS.items():
        own = {"abs": "sign", "min": "minimum", "max": "maximum", "pow": "power"}.get(name, name)
        assert not np.isnan(getattr(maths, own)(*[1.0, 0.5][:arity]))


@pytest.mark.parametrize("key", KEYS)
def test_every_key_of_a_model_is_described(key: str) -> None:
    assert re.search(rf"\b{key}\b", str(model_reader.__doc__))


def test_reading_a_model_needs_no_numpy() -> None:
    code = (
        "import sys, cubie_flow.systems as s, cubie_flow.maths;"
        "s.OdeSystem.from_equations('dx/dt = -x', {'x': 1.0}).to_mapping();"
        "sys.exit(any(name in sys.modules for name in ('numpy', 'numba', 'yaml')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_model_is_called_after_its_file_whatever_that_is_called(tmp_path: Path) -> None:
    path = tmp_path / "my größe (2).yaml"
    path.write_text("states: {x: 1.0}\nequations: {x: -x}\n")
    assert OdeSystem.from_file(path).name == "my_gr_e_2_"
