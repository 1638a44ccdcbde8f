"""Fast reactions of SBML: amounts in equilibrium as expressions of totals, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from markup_text import (
    compartment,
    event,
    initial,
    listed,
    parameter,
    reaction,
    sbml,
    species,
)  # fmt: skip

from cubie_flow.errors import FlowError
from cubie_flow.expressions.evaluate import evaluate
from cubie_flow.systems.importers.markup import Markup
from cubie_flow.systems.importers.sbml import SbmlModel, read_sbml

pytest.importorskip("libsbml")

FAST, SLOW = 'fast="true"', 'fast="false"'
SIZES = listed("Compartments", compartment("c", 2.0))


def read(*parts: str, attributes: str = "") -> SbmlModel:
    text = sbml(*parts, version=1, attributes=attributes)
    return read_sbml("m", Markup.check(text.encode(), "m.xml"), "m.xml")


def amounts(**given: float) -> str:
    return listed(
        "Species", *(species(name, "c", f'initialAmount="{x}"') for name, x in given.items())
    )


def at_start(model: SbmlModel, names: str, **changed: float) -> tuple[list[float], list[float]]:
    """Return amounts of species and derivatives of states at the start."""
    system = model.system
    values = {item.name: item.value for item in (*system.states, *system.parameters)} | changed
    nodes = [*(model.amounts[name] for name in names), *system.derivatives]
    with np.errstate(all="ignore"):
        found = [float(x) for x in evaluate(nodes, values | {"t": 0.0})]
    return found[: len(names)], found[len(names) :]


def test_a_slow_reaction_from_an_equilibrium() -> None:
    """A and B are 2:1; B leaves with rate 3B, so that the total leaves with its own size."""
    model = read(
        SIZES,
        amounts(A=4, B=2, C=0),
        listed("Parameters", parameter("p", None, False)),
        listed("InitialAssignments", initial("p", "A")),
        listed(
            "Reactions",
            reaction("f", "c*(A - 2*B)", "A", "B", more=FAST),
            reaction("s", "c*3*B", "B", "C", more=SLOW),
        ),
        listed("Events", event("e", "time > 1", B="5")),
    )
    system = model.system
    assert [state.name for state in system.states] == ["C", "B_total"]
    found, (_, total) = at_start(model, "ABC")
    assert found == pytest.approx([4.0, 2.0, 0.0])
    assert total == pytest.approx(-6.0)
    # Initial assignments see the concentration before the reaction, and start values may vary.
    assert {item.name: item.value for item in system.parameters} == {
        "c": 2.0, "p": 2.0, "A_start": 4.0, "B_start": 2.0,
    }  # fmt: skip
    # The event sets the concentration 5, an amount of 10 in place of 2.
    ((_, node),) = system.events[0].resets
    values = {item.name: item.value for item in (*system.states, *system.parameters)}
    assert evaluate([node], values | {"t": 1.0})[0] == pytest.approx(6.0 - 2.0 + 10.0)


@pytest.mark.parametrize(
    ("law", "expected"),
    [
        # 2A <-> B with A**2 = B in concentrations: a/2 + b is kept.
        ("c*(A*A - B)", None),
        # It runs until one side is used up, in either direction.
        ("c*A*B", [0.0, 4.0]),
        ("-c*A*B", [8.0, 0.0]),
    ],
)
def test_quadratic_equilibria(law: str, expected: list[float] | None) -> None:
    model = read(
        SIZES, amounts(A=6, B=1), listed("Reactions", reaction("f", law, "2*A", "B", more=FAST))
    )
    (a, b), _ = at_start(model, "AB")
    assert a / 2 + b == pytest.approx(4.0)
    if expected is None:
        assert (a / 2) ** 2 == pytest.approx(b / 2)
        assert 0 < a < 8
    else:
        assert [a, b] == pytest.approx(expected, abs=1e-12)


def test_a_reaction_at_rest_stays_there() -> None:
    model = read(
        SIZES, amounts(A=6, B=0), listed("Reactions", reaction("f", "A*B", "A", "B", more=FAST))
    )
    assert at_start(model, "AB")[0] == [6.0, 0.0]


def test_several_fast_reactions_and_factors() -> None:
    """A chain with 1:2:6, and a cycle of which each reaction runs in equilibrium."""
    chain = [
        reaction("f", "2*A - B", "A", "B", more=FAST),
        reaction("g", "3*B - C", "B", "C", more=FAST),
    ]
    model = read(SIZES, amounts(A=9, B=0, C=0), listed("Reactions", *chain))
    assert at_start(model, "ABC")[0] == pytest.approx([1.0, 2.0, 6.0])
    cycle = [
        reaction("f", "A", "A", "B", more=FAST),
        reaction("g", "2*B", "B", "C", more=FAST),
        reaction("h", "3*C", "C", "A", more=FAST),
    ]
    model = read(SIZES, amounts(A=11, B=0, C=0), listed("Reactions", *cycle))
    assert at_start(model, "ABC")[0] == pytest.approx([6.0, 3.0, 2.0])
    # With a factor of 5 for all species, a molecule of reaction gives five.
    model = read(
        SIZES,
        amounts(A=9, B=0),
        listed("Parameters", parameter("five", 5)),
        listed(
            "Reactions",
            reaction("f", "2*A - B", "A", "B", more=FAST),
            reaction("s", "1", "", "A", more=SLOW),
        ),
        attributes='conversionFactor="five"',
    )
    found, slopes = at_start(model, "AB")
    assert found == pytest.approx([3.0, 6.0])
    assert np.abs(slopes).max() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (
            (listed("Reactions", reaction("f", "exp(A) - B", "A", "B", more=FAST)),),
            "line 6, reaction 'f': the equilibrium of this fast reaction gives no formula of 'A'",
        ),
        (
            (
                listed("Parameters", parameter("k", 0, False)),
                listed("Reactions", reaction("f", "k*A", "A", "B", more=FAST)),
                listed("Events", event("e", "time > 1", k="1")),
            ),
            "reaction 'f': an event sets 'k', which may stop this fast reaction",
        ),
    ],
)
def test_refusals(parts: tuple[str, ...], reason: str) -> None:
    with pytest.raises(FlowError, match=reason):
        read(SIZES, amounts(A=1, B=1), *parts)


def test_an_unknown_equilibrium_is_not_a_number() -> None:
    """Without its rate constant a fast reaction does not run, which is not an equilibrium."""
    model = read(
        SIZES,
        amounts(A=1, B=1),
        listed("Parameters", parameter("k", 2)),
        listed("Reactions", reaction("f", "k*A", "A", "B", more=FAST)),
    )
    assert at_start(model, "AB")[0] == [0.0, 2.0]
    assert np.isnan(at_start(model, "AB", k=0.0)[0]).all()
