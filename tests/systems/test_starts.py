"""Start values that are expressions: what they may use, their numbers, and that they travel."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cubie_flow import maths
from cubie_flow.errors import FlowError
from cubie_flow.expressions import graph as g
from cubie_flow.expressions.traversal import free_symbols
from cubie_flow.systems import OdeSystem, Quantity

DOSED: dict[str, Any] = {
    "name": "dosed",
    "constants": {"half": 0.5},
    "parameters": {"dose": 100, "BW": 70, "f": 0.05, "V": "BW*f", "k": 0.1},
    "states": {"C": "dose/V", "B": {"value": "half*C + shift", "unit": "mg"}, "A": "2*half"},
    "definitions": {"shift": "t + 1"},
    "equations": {"C": "-k*C", "B": "-V*B", "A": "-A"},
}


def values(system: OdeSystem) -> dict[str, float]:
    return {item.name: item.value for item in (*system.parameters, *system.states)}


def changed(**sections: Any) -> dict[str, Any]:
    model = copy.deepcopy(DOSED)
    for section, entries in sections.items():
        model[section] = {**model.get(section, {}), **entries}
    return model


def test_a_value_may_be_an_expression() -> None:
    system = OdeSystem.from_mapping(DOSED)
    found = {item.name: item.start for item in (*system.parameters, *system.states)}
    assert {name: repr(node) for name, node in found.items() if node is not None} == {
        "V": "BW*f",
        "C": "dose/V",
        "B": "0.5*C + (t + 1.0)",
    }
    assert values(system) == pytest.approx(
        {"dose": 100, "BW": 70, "f": 0.05, "V": 3.5, "k": 0.1}
        | {"C": 100 / 3.5, "B": 50 / 3.5 + 1, "A": 1}
    )


def test_a_given_value_replaces_an_expression_and_others_follow() -> None:
    system = OdeSystem.from_mapping(DOSED)
    heavy = system.with_values({"BW": 80})
    assert values(heavy)["C"] == 25.0
    assert heavy.content_hash != system.content_hash
    wide = system.with_values({"V": 10}, {"B": 3})
    assert values(wide) == {**values(system), "V": 10.0, "C": 10.0, "B": 3.0}
    assert [item.name for item in wide.states if item.start is not None] == ["C"]


def test_it_travels() -> None:
    system = OdeSystem.from_mapping(DOSED)
    written = json.loads(json.dumps(system.to_mapping()))
    assert written["parameters"]["V"] == "BW*f"
    assert "unused" not in written
    for other in (OdeSystem.from_mapping(written), pickle.loads(pickle.dumps(system))):
        assert other == system
        assert other.content_hash == system.content_hash


def test_families_equations_and_functions_have_them_too() -> None:
    chain = OdeSystem.from_mapping(
        {
            "indices": {"i": 3},
            "parameters": {"top": 8.0, "a[i]": [1, "top/2", "a[1]/2"]},
            "states": {"u[i]": "where(i == 0, top, u[i-1]/2) + a[i]"},
            "equations": {"u[i]": "-a[i]*u[i]"},
        }
    )
    assert [item.value for item in chain.parameters] == [8, 1, 4, 2]
    assert [item.value for item in chain.states] == [9, 8.5, 6.25]
    given = {"dose": 10.0, "V": 4.0, "k": 1.0}
    text = OdeSystem.from_equations("C' = -k*C", {"C": "dose/V"}, given)
    assert text.states[0].value == 2.5

    traced = OdeSystem.from_function(
        lambda t, y, p: [-p.k * y.C, -p.k * y.D],
        states={"C": "dose/V", "D": lambda t, y, p: maths.exp(y.C) + t},
        parameters={"dose": 10.0, "V": lambda t, y, p: 4 * p.k, "k": 1.0},
    )
    assert traced.states[0] == text.states[0]
    assert repr(traced.states[1].start) == "exp(C) + t"
    assert repr(traced.parameters[1].start) == "4.0*k"


def test_a_driver_counts_with_its_value_at_the_start() -> None:
    system = OdeSystem.from_mapping(changed(states={"A": "3*k"}))
    entry = {"times": [-1, 1, 3], "values": [2, 6, 2], "outside": "periodic"}
    assert values(system.with_drivers({"k": entry}))["A"] == 12.0
    shifted = {**entry, "times": [3, 5, 7]}
    assert values(system.with_drivers({"k": shifted}))["A"] == 12.0
    # What only the expression of a parameter used that is a driver now is no mistake.
    driven = OdeSystem.from_mapping(DOSED).with_drivers({"V": entry})
    assert values(driven)["C"] == 25.0
    with pytest.raises(FlowError, match="'k_series' chooses a series, so it must be a number, not"):
        OdeSystem.from_mapping(
            {
                "drivers": {"k": {"times": [0, 1], "values": [[1, 1], [2, 2]]}},
                "parameters": {"a": 0, "k_series": "a"},
                "states": {"x": 1},
                "equations": {"x": "k"},
            }
        )


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (changed(parameters={"f": "k*C"}),
         "system dosed: start values use each other in a circle: C -> V -> f -> C"),
        (changed(states={"C": "dose - C"}), "start values use each other in a circle: C -> C"),
        (changed(states={"C": "dose/W"}), "initial value of C: 'W' is not defined"),
        (changed(states={"C": "dose > 1"}), "'dose > 1' is true or false, not a number"),
        (changed(states={"C": "dose/(BW - 70)"}),
         "system dosed: the start value of 'C' is inf, which is not finite"),
        (changed(states={"C": "0*(1/0)"}), "'1/0' is not a finite number"),
        (changed(constants={"half": "k"}), "'k' is a parameter; a value may use"),
        (changed(time={"duration": "k"}), "duration: 'k' is a parameter; a value may use"),
    ],
)  # fmt: skip
def test_mistakes(model: dict[str, Any], said: str) -> None:
    with pytest.raises(FlowError) as caught:
        OdeSystem.from_mapping(model)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_system_made_by_hand_checks_them() -> None:
    x = g.symbol("x")
    with pytest.raises(FlowError, match="start value of x: 'y' is not defined"):
        OdeSystem("m", (Quantity("x", 0.0, start=g.symbol("y")),), (-x,))
    system = OdeSystem("m", (Quantity("x", 0.0, start=g.symbol("t") + 2.0),), (-x,))
    assert system.states[0].value == 2.0
    plain = OdeSystem("m", (Quantity("x", 2.0),), (-x,))
    assert system != plain
    assert system.content_hash != plain.content_hash


NAMES = ("a", "b", "c", "x", "y")


@st.composite
def starts(draw: st.DrawFn) -> list[g.Node | None]:
    """Return an expression for each of `NAMES`, or none, using those before it."""
    found: list[g.Node | None] = []
    for number in range(len(NAMES)):
        leaves = [g.symbol(name) for name in ("t", *NAMES[:number])]
        base = st.sampled_from(leaves) | st.floats(0.5, 4.0).map(g.const)
        nodes = st.recursive(
            base,
            lambda inner: st.one_of(
                st.tuples(inner, inner).map(lambda pair: pair[0] + pair[1]),
                st.tuples(inner, inner).map(lambda pair: pair[0] * g.call("sin", pair[1])),
                st.tuples(inner, inner).map(lambda pair: g.where(pair[0] > pair[1], *pair)),
            ),
            max_leaves=60,
        )
        node = draw(st.none() | nodes)
        found.append(node if node is not None and free_symbols([node]) else None)
    return found


@settings(max_examples=60, deadline=None)
@given(starts())
def test_any_expression_travels(found: list[g.Node | None]) -> None:
    items = [Quantity(n, 1.0, start=node) for n, node in zip(NAMES, found, strict=True)]
    used = g.symbol("a") + g.symbol("b") + g.symbol("c")
    system = OdeSystem("m", tuple(items[3:]), (used, used), tuple(items[:3]))
    other = OdeSystem.from_mapping(json.loads(json.dumps(system.to_mapping())))
    assert other == system
    assert other.content_hash == system.content_hash
