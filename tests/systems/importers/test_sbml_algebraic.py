"""Algebraic rules of SBML, and ``algebraic`` in YAML, against closed forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from markup_text import (
    compartment,
    event,
    listed,
    math,
    parameter,
    reaction,
    rule,
    sbml,
    species,
)  # fmt: skip

from cubie_flow import OdeSystem, solve
from cubie_flow.errors import FlowError
from cubie_flow.expressions.evaluate import evaluate
from cubie_flow.expressions.graph import symbol, where
from cubie_flow.systems.importers.elimination import polynomial_parts, solve_equations
from cubie_flow.systems.importers.markup import Markup
from cubie_flow.systems.importers.sbml import SbmlModel, read_sbml

pytest.importorskip("libsbml")


def zero(text: str) -> str:
    return f"<algebraicRule>{math(text)}</algebraicRule>"


def read(*parts: str) -> SbmlModel:
    return read_sbml("m", Markup.check(sbml(*parts).encode(), "m.xml"), "m.xml")


def free(*names: str) -> str:
    return "".join(parameter(name, None, False) for name in names)


def test_linear_rules_become_expressions() -> None:
    """Two unknowns of two rules, one through an assignment, and one of a species and a size."""
    model = read(
        listed("Compartments", compartment("c", 2.0), compartment("v", None, False)),
        listed(
            "Species",
            species("S", "c", 'initialConcentration="3"'),
            species("T", "c", 'initialAmount="1"'),
            species("W", "v", 'initialAmount="8"'),
        ),
        listed("Parameters", parameter("x", 5, False), parameter("k", 3), free("a", "b", "h")),
        listed(
            "Rules",
            rule("rate", "x", "1"),
            rule("assignment", "h", "2*b"),
            zero("a + b - 10"),
            zero("a - h - x"),
            zero("piecewise(k*T, x > 4, T) - S - a"),
            zero("v - k - 1"),
        ),
        listed("Reactions", reaction("r", "S", "S")),
    )
    system = model.system
    assert system.mass == ()
    assert [state.name for state in system.states] == ["x", "S"]
    x, s = np.array([5.0, 3.5]), np.array([3.0, 1.0])
    wanted = [model.values[name] for name in ("a", "b", "T", "W")]
    values = {item.name: item.value for item in system.parameters} | {"x": x, "S": s, "t": 0.0}
    a, b, t, w = evaluate(wanted, values)
    assert a == pytest.approx((20 + x) / 3)
    assert b == pytest.approx(10 - (20 + x) / 3)
    assert t == pytest.approx((s + a) / np.where(x > 4, 3, 1))
    assert w == pytest.approx(8 / 4)
    assert {item.name for item in system.observables} >= {"a", "b", "T", "v"}


def test_other_rules_become_algebraic_states(tmp_path: Path) -> None:
    """0 = y**3 + y - x has one root. What is written as YAML gives the same bits."""
    model = read(
        listed("Parameters", parameter("x", 2, False), parameter("y", 0.9, False), free("z")),
        listed("Rules", rule("rate", "x", "1"), zero("y*y*y + y - x"), zero("z - 2*y")),
    )
    system = model.system
    assert system.mass == (1.0, 0.0)
    data = solve(system, duration=8.0, save_every=2.0, algorithm="rodas5p", rtol=1e-9)
    x = 2.0 + data.time.values
    root = [np.roots([1, 0, 1, -one]) for one in x]
    real = [one[np.abs(one.imag) < 1e-9].real[0] for one in root]
    assert np.abs(data.y.values[0] - real).max() < 1e-8
    assert int(data.status[0]) == 0
    system.to_file(tmp_path / "m.yaml")
    again = OdeSystem.from_file(tmp_path / "m.yaml")
    assert again.content_hash == system.content_hash
    other = solve(again, duration=8.0, save_every=2.0, algorithm="rodas5p", rtol=1e-9)
    assert other.y.values.tobytes() == data.y.values.tobytes()
    with pytest.raises(FlowError, match=r"tsit5.*algebraic equation of 'y'.*use .*rodas5p"):
        solve(system, algorithm="tsit5")


TWO = listed("Parameters", parameter("x", 2, False), parameter("y", 1, False), free("z"))
RATE = rule("rate", "x", "1")
BOUNDARY = 'boundaryCondition="true"'


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ((TWO, listed("Rules", RATE, zero("x - 3"))), "line 5, algebraicRule 1: .*nothing.*index"),
        (
            (TWO, listed("Rules", RATE, zero("y - x"), zero("y - 3"))),
            "algebraicRule 2: it determines nothing",
        ),
        ((TWO, listed("Rules", RATE, zero("exp(z) - x"))), "parameter 'z': .*needs a value near"),
        (
            (
                listed("Compartments", compartment("v", 1.0, False)),
                listed("Species", species("S", "v", 'initialAmount="1"', BOUNDARY)),
                listed("Parameters", parameter("x", 2, False)),
                # The rate of its concentration needs that of the size.
                listed("Rules", RATE, zero("exp(v) - x"), rule("rate", "S", "1")),
            ),
            "'v': its rate is used, but it follows from an algebraic rule",
        ),
        (
            (
                TWO,
                listed("Rules", RATE, zero("y - x")),
                listed("Events", event("e", "x > 3", y="1")),
            ),
            "'e': it sets 'y', which a rule computes",
        ),
    ],
)
def test_refusals(parts: tuple[str, ...], reason: str) -> None:
    with pytest.raises(FlowError, match=reason) as error:
        read(*parts)
    assert "\n" not in str(error.value)


def test_coefficients() -> None:
    x, a = symbol("x"), symbol("a")
    for node in (2 * x - a, (x + 1) / a, a * (3 - x) + x, where(a > 0, x, 2 * x + 1)):
        rest, slope = polynomial_parts(node, x, 1)
        for given in (-2.0, 0.7):
            values = {"x": 1.5, "a": given}
            whole, m, b = evaluate([node, slope, rest], values)
            assert m * 1.5 + b == pytest.approx(whole)
    c, b, q = polynomial_parts((x - 3) * (a - x), x, 2)
    assert evaluate([c, b, q], {"a": 2.0}) == [-6.0, 5.0, -1.0]
    for node in (x * x, a / x, abs(x), where(x > 0, x + 1, x - 1), 2**x):
        assert polynomial_parts(node, x, 1) is None


def test_pivots_stay_away_from_what_changes() -> None:
    """Of two unknowns, the one with a constant factor is eliminated first."""
    a, b, y = map(symbol, "aby")
    solution = solve_equations([y * a - b, a - 3.0], ["a", "b"], {"y"})
    assert evaluate([solution.solved[name] for name in "ab"], {"y": 0.0}) == [3.0, 0.0]


def test_algebraic_equations_in_yaml() -> None:
    model = {"states": {"x": 1.0, "z": 0.5}, "equations": {"x": "-z"}}
    short = OdeSystem.from_mapping({**model, "algebraic": {"z": "z**3 + z - x"}})
    long = {**model, "equations": {"x": "-z", "z": "z**3 + z - x"}, "mass": {"z": 0}}
    assert short.content_hash == OdeSystem.from_mapping(long).content_hash
    for more, reason in (
        ({"equations": {"x": "-z", "z": "1"}}, "equation of z: there is also an equation for 'z'"),
        ({"mass": {"z": 2}}, "equation of z: there is also a mass for 'z'"),
        ({"algebraic": {"w": "1"}}, "there is an equation for 'w', which is not a state"),
        ({"algebraic": {"z": "x - 1"}}, "equation of 'z' determines no state .*index is above 1"),
    ):
        with pytest.raises(FlowError, match=reason):
            OdeSystem.from_mapping({**model, "algebraic": {"z": "z - x"}, **more})


def test_pivots_that_are_zero_at_the_start_come_last() -> None:
    k, q, p = map(symbol, "kqp")
    given = {"k": 2.0, "q": 0.0, "p": 1.0}
    assert list(solve_equations([(k + 1) * q - p], ["k", "q"], (), given).solved) == ["q"]
    assert list(solve_equations([(k + 1) * q - p], ["k", "q"], ()).solved) == ["k"]
