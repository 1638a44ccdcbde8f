"""Species of SBML in compartments of changing size, each against a closed form.

One model holds every cell: a species X in a compartment of size V,

- named in formulas by its amount A or by its concentration C = A/V,
- changed by a reaction, a rate rule or an assignment rule, or by nothing: constant, or a boundary,
- where V is constant, follows a rate rule, is computed by an assignment rule, or is set by events.

What is expected follows "SBML Level 3 Version 2 Core": a reaction changes the amount (4.11), a rule
gives the quantity that the identifier names (4.9), its concentration or amount (4.6.5), and a new
size of a compartment changes concentrations and no amounts. So a rate rule C' = g gives
A' = V*g + C*V', and where V jumps A does not.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from markup_text import (
    compartment,
    event,
    listed,
    parameter,
    reaction,
    rule,
    sbml,
    species,
)  # fmt: skip

from cubie_flow import solve
from cubie_flow.expressions.evaluate import evaluate
from cubie_flow.systems.importers.markup import Markup
from cubie_flow.systems.importers.sbml import SbmlModel, read_sbml

pytest.importorskip("libsbml")

Array = np.ndarray
CHANGES = ("reaction", "rate", "assigned", "constant", "boundary")
QUANTITIES = ("amount", "concentration")
#: Size of every kind of compartment at the times t; JUMP is the time of the event.
JUMP, NEW, K, G = 1.0, 5.0, 0.7, 0.4
SIZES: dict[str, Callable[[Array], Array]] = {
    "fixed": lambda t: np.full_like(t, 2.0),
    "growing": lambda t: 2.0 + 0.5 * t,
    "computed": lambda t: 2.0 + 0.25 * t**2,
    "resized": lambda t: np.where(t < JUMP, 2.0, NEW),
    # Computed from a parameter that an event sets.
    "derived": lambda t: np.where(t < JUMP, 2.0, NEW) * (1 + t),
    "both": lambda t: np.where(t < JUMP, 2.0 + 0.5 * t, NEW + 0.5 * (t - JUMP)),
}
TIMES = np.array([0.0, 0.25, 0.75, 1.25, 2.0, 3.0])
#: Given in the other quantity in each second cell, so that both are converted at the start.
START = 3.0
CELLS = list(product(CHANGES, QUANTITIES, SIZES))


def name(change: str, quantity: str, size: str) -> str:
    return f"{change}_{quantity}_{size}"


def one_species(change: str, quantity: str, size: str) -> str:
    given = "Amount" if _by_amount(change, quantity, size) else "Concentration"
    more = f'hasOnlySubstanceUnits="{str(quantity == "amount").lower()}"'
    fixed = change == "constant"
    more += f' constant="{str(fixed).lower()}"'
    more += f' boundaryCondition="{str(change != "reaction").lower()}"'
    return species(name(change, quantity, size), size, f'initial{given}="{START}"', more)


def _by_amount(change: str, quantity: str, size: str) -> bool:
    swapped = (CHANGES.index(change) + list(SIZES).index(size)) % 2
    return (quantity == "amount") != bool(swapped)


def _rules() -> list[str]:
    found = []
    for change, quantity, size in CELLS:
        own = name(change, quantity, size)
        if change == "rate":
            found.append(rule("rate", own, f"{G} - {K}*{own}"))
        elif change == "assigned":
            found.append(rule("assignment", own, "1 + 2*time"))
    return found


def _reactions() -> list[str]:
    found = []
    for change, quantity, size in CELLS:
        own = name(change, quantity, size)
        # In substance per time; a boundary is consumed as well, which leaves it as it is.
        if change in ("reaction", "boundary"):
            law = f"{K}*{own}" + (f"*{size}" if quantity == "concentration" else "")
            found.append(reaction(f"of_{own}", law, own))
    return found


MODEL = sbml(
    listed(
        "Compartments",
        *(compartment(size, 2.0, size == "fixed") for size in SIZES),
    ),
    listed("Species", *(one_species(*cell) for cell in CELLS)),
    listed("Parameters", parameter("width", 2.0, False)),
    listed(
        "Rules",
        rule("rate", "growing", "0.5"),
        rule("rate", "both", "0.5"),
        rule("assignment", "computed", "2 + 0.25*time**2"),
        rule("assignment", "derived", "width*(1 + time)"),
        *_rules(),
    ),
    listed("Reactions", *_reactions()),
    listed(
        "Events",
        event("jump", f"time >= {JUMP}", resized=str(NEW), both=str(NEW), width=str(NEW)),
    ),
)


def read(text: str) -> SbmlModel:
    return read_sbml("m", Markup.check(text.encode(), "m.xml"), "m.xml")


def values_of(model: SbmlModel, times: Array) -> dict[str, Array]:
    """Return states, parameters and the time of a run, by the names of their symbols."""
    data = solve(
        model.system, duration=float(times[-1]), times=list(times), algorithm="tsit5", rtol=1e-10,
        atol=1e-12, target="cpu",
    )  # fmt: skip
    assert data.status.item() == 0
    found = {item.name: np.full_like(times, item.value) for item in model.system.parameters}
    found |= {item.name: data[item.name].values[0] for item in model.system.states}
    return {**found, "t": times}


@pytest.fixture(scope="module")
def run() -> tuple[SbmlModel, dict[str, Array]]:
    model = read(MODEL)
    return model, values_of(model, TIMES)


def relaxed(x: float | Array, t: Array) -> Array:
    """Return the solution of x' = G - K*x after a time t."""
    return G / K + (x - G / K) * np.exp(-K * t)


def expected_amount(change: str, quantity: str, size: str) -> Array:
    t = TIMES
    volume = SIZES[size]
    v, v0 = volume(t), volume(np.zeros(1))[0]
    as_amount = quantity == "amount"
    start = START if _by_amount(change, quantity, size) else START * v0
    if change == "reaction":
        return start * np.exp(-K * t)
    if change in ("constant", "boundary"):
        return np.full_like(t, start)
    if change == "assigned":
        return (1 + 2 * t) * (1 if as_amount else v)
    if as_amount:
        return relaxed(start, t)
    before = relaxed(start / v0, t)
    # At the jump the amount stays: the concentration is that before it by the ratio of the sizes.
    ratio = volume(np.array([JUMP - 1e-12])) / volume(np.array([JUMP]))
    after = relaxed(relaxed(start / v0, np.array([JUMP])) * ratio, t - JUMP)
    return np.where(t < JUMP, before, after) * v


@pytest.mark.parametrize(("change", "quantity", "size"), CELLS)
def test_amount_and_concentration(
    change: str, quantity: str, size: str, run: tuple[SbmlModel, dict[str, Array]]
) -> None:
    model, values = run
    own = name(change, quantity, size)
    nodes = [model.amounts[own], model.concentrations[own], model.values[own]]
    amount, concentration, value = (
        np.broadcast_to(x, TIMES.shape) for x in evaluate(nodes, values)
    )
    expected = expected_amount(change, quantity, size)
    np.testing.assert_allclose(amount, expected, rtol=1e-7)
    np.testing.assert_allclose(concentration, expected / SIZES[size](TIMES), rtol=1e-7)
    np.testing.assert_array_equal(value, amount if quantity == "amount" else concentration)


@pytest.mark.parametrize(
    ("sets", "concentration"),
    [
        ({"S": "0.2"}, 0.2),
        ({"c": "0.2"}, (0.2 + 0.4 * 0.5) * 0.6 / 0.2),
        # Of the moment before, so that its amount is 0.2*0.6, and then diluted by the new size.
        ({"S": "0.2", "c": "0.2"}, 0.2 * 0.6 / 0.2),
    ],
)
def test_an_event_sets_a_concentration_with_a_rate_and_its_place(
    sets: dict[str, str], concentration: float
) -> None:
    model = read(
        sbml(
            listed("Compartments", compartment("c", 0.5, False)),
            listed("Species", species("S", "c", 'initialConcentration="0.2"')),
            listed("Rules", rule("rate", "S", "0.4"), rule("rate", "c", "0.2")),
            listed("Events", event("e", "time >= 0.5", **sets)),
        )
    )
    values = values_of(model, np.array([0.25, 0.5, 1.0]))
    found = evaluate([model.concentrations["S"]], values)[0]
    np.testing.assert_allclose(found, [0.3, concentration, concentration + 0.2], rtol=1e-9)
