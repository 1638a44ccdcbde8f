"""Tables of doses and observations, against superposition of closed forms."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from attrs import evolve

from cubie_flow import ControllerChoice, OdeSystem, solve
from cubie_flow.analysis import accessor  # noqa: F401
from cubie_flow.api import OutputChoice, Study, TargetChoice, plan_study, run_study
from cubie_flow.batches.described import described_design
from cubie_flow.batches.subjects import subjects_design
from cubie_flow.errors import FlowError
from cubie_flow.study.kernel import build_kernel
from cubie_flow.study.subjects import bind_subjects

KA, CL, V, Q, V2 = 1.1, 4.0, 20.0, 3.0, 35.0
MODEL = {
    "name": "two_compartments",
    "states": {"gut": 0.0, "central": 0.0, "peripheral": 0.0},
    "parameters": {"ka": KA, "CL": CL, "V": V, "Q": Q, "V2": V2, "a": 0.3},
    "equations": {
        "gut": "-ka*gut",
        "central": "ka*gut - (CL + Q)/V*central + Q/V2*peripheral",
        "peripheral": "Q/V*central - Q/V2*peripheral",
    },
    "observables": {"c": "central/V"},
    "unused": ["a"],
}
A = np.array([[-KA, 0, 0], [KA, -(CL + Q) / V, Q / V2], [0, Q / V, -Q / V2]])
COLUMNS = ("ID", "TIME", "EVID", "AMT", "RATE", "II", "ADDL", "SS", "CMT", "DV")
FINE: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-11, "target": "cpu"}


RATES, VECTORS = np.linalg.eig(A)
INVERSE = np.linalg.inv(VECTORS)


def response(state: int, amount: float, rate: float, since: np.ndarray) -> np.ndarray:
    """Return the central amount at times after one dose each, summed: the exact solution."""
    parts = VECTORS[1] * INVERSE[:, state]
    s = np.maximum(since, 0.0)[:, None]
    if rate == 0:
        each = amount * np.exp(RATES * s)
    else:
        during = np.minimum(s, amount / rate)
        each = rate * np.exp(RATES * (s - during)) * np.expm1(RATES * during) / RATES
    return float((each[since >= 0] @ parts).sum())


def wanted(rows: list[dict[str, float]]) -> list[float]:
    """Return the concentration at every observation: a sum over all doses since the last reset."""
    found = []
    doses: list[tuple[np.ndarray, int, float, float]] = []
    constant: list[tuple[float, int, float]] = []
    for row in rows:
        now = row["TIME"]
        if row["EVID"] in (3, 4) or row["SS"] == 1:
            doses, constant = [], []
        if row["EVID"] in (1, 4):
            state, amount, rate = int(row["CMT"]) - 1, row["AMT"], row["RATE"]
            if row["SS"] and amount == 0:
                constant.append((now, state, rate))
                continue
            first = -2000 if row["SS"] else 0
            times = now + np.arange(first, row["ADDL"] + 1) * row["II"]
            doses.append((times, state, amount, rate))
        if row["EVID"] == 0:
            # A dose at the time of an observation counts if its row is above.
            total = sum(response(*one, now - times) for times, *one in doses)
            for t, state, rate in constant:
                parts = VECTORS[1] * INVERSE[:, state]
                total += float((-rate / RATES * np.exp(RATES * (now - t))) @ parts)
            found.append(total / V)
    return found


def line(time: float, evid: int, **more: float) -> dict[str, float]:
    return {**dict.fromkeys(COLUMNS, 0.0), "TIME": time, "EVID": evid, "CMT": 1, **more}


def observed(*times: float) -> list[dict[str, float]]:
    return [line(time, 0, DV=1.0) for time in times]


def subjects() -> Iterator[list[dict[str, float]]]:
    """Yield the rows of subjects with every combination of the kinds of doses."""
    for evid, cmt, rate, steady, addl in itertools.product(
        (1, 4), (1, 2, 3), (0.0, 10.0, 80.0), (0, 1, 2), (0, 3)
    ):
        # At 10 per hour an infusion of 100 is longer than the interval of 8.
        dose = line(3.0, evid, AMT=100.0, RATE=rate, II=8.0, ADDL=addl, SS=steady, CMT=cmt)
        first = line(0.0, 1, AMT=60.0, RATE=15.0, CMT=2)
        later = observed(3.0, 3.5, 7.0, 11.0, 12.25, 20.0, 40.0)
        yield [first, *observed(0.0, 1.0, 3.0), dose, *later]
    yield [line(0.0, 1, RATE=12.0, SS=1, CMT=2), *observed(0.0, 1.0, 9.0)]
    yield [
        line(2.0, 1, AMT=50.0), line(4.0, 1, RATE=12.0, SS=2, CMT=2), *observed(4.0, 5.0, 9.0),
    ]  # fmt: skip
    # A reset ends an infusion and what was still to come.
    yield [
        line(1.0, 1, AMT=90.0, RATE=9.0, II=4.0, ADDL=5, CMT=2), *observed(6.0), line(7.0, 3),
        *observed(7.0, 8.0), line(9.0, 1, AMT=20.0), *observed(9.5, 30.0),
    ]  # fmt: skip
    yield [line(0.0, 1, AMT=100.0, SS=1, II=12.0)]
    yield [*observed(0.0), line(0.0, 1, AMT=100.0, SS=1, II=12.0, CMT=2), *observed(0.0)]
    yield observed(5.0)


def table(lists: list[list[dict[str, float]]]) -> dict[str, list[float]]:
    rows = [{**row, "ID": number + 1} for number, one in enumerate(lists) for row in one]
    return {name: [row[name] for row in rows] for name in COLUMNS}


@pytest.fixture(scope="module")
def every() -> Any:
    lists = list(subjects())
    system = OdeSystem.from_mapping(MODEL)
    return lists, solve(system, batch=subjects_design(table(lists)), **FINE)


def test_every_combination_of_doses_is_the_sum_of_closed_forms(every: Any) -> None:
    lists, data = every
    assert (data.status.values == 0).all()
    for number, rows in enumerate(lists):
        values = np.array(wanted(rows))
        found = data.c.values[number]
        np.testing.assert_allclose(
            found[: len(values)], values, rtol=2e-8, atol=1e-9, err_msg=str(rows)
        )
        assert np.isnan(found[len(values) :]).all()


def test_lanes_targets_shards_and_order_give_the_same_bits(every: Any, tmp_path: Path) -> None:
    lists, data = every
    # Every effect, and few steps for the simulator: doses, a reset, both steady states.
    some = [lists[i] for i in (3, 4, 56, -5, -4, -2, -1)]
    short = [[row for row in one if row["TIME"] <= 12] for one in some]
    system = OdeSystem.from_mapping(MODEL)
    options: dict[str, Any] = {"rtol": 0.05, "atol": 1.0, "error": {"additive": "a"}}
    design = subjects_design(table(short))
    shared = dict.fromkeys(("record_clock", "repeated_state", "kept_state"), "shared")
    results = [
        solve(system, batch=design, target="cpu", **options),
        solve(system, batch=design, target="simulator", locations=shared, **options),
    ]
    assert set(np.unique(results[0].status)) == {0}
    backwards = subjects_design(table(short[::-1]))
    turned = solve(system, batch=backwards, target=TargetChoice("cpu", lanes=4), **options)
    results.append(turned.isel(run=slice(None, None, -1)))
    study = Study(
        system, design, controller=ControllerChoice(rtol=0.05, atol=1.0), precision="float64",
        output=OutputChoice(error={"additive": "a"}), shard_runs=2, target=TargetChoice("cpu"),
    )  # fmt: skip

    def stop(seconds: float) -> None:
        if seconds:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(study, tmp_path / "results.zarr", between_shards=stop)
    report = run_study(study, tmp_path / "results.zarr", start="resume")
    assert 0 < report.solved < len(some)
    results.append(xarray.open_zarr(tmp_path / "results.zarr", chunks=None))
    for result in results[1:]:
        for name in ("c", "c_sse", "loglik", "central_final", "steps", "DV", "observation_time"):
            wanted_values = results[0][name].values
            np.testing.assert_array_equal(result[name].values, wanted_values, err_msg=name)
    memory = xarray.open_zarr(tmp_path / "results.zarr", group="memory", chunks=None)
    assert {"record_clock", "repeated_state", "kept_state"} <= {*memory.buffer.values.tolist()}
    text = plan_study(study, compiling=False).text()
    assert f"{memory.attrs['record_table_bytes'] / 1e3:.1f} kB of doses and observations" in text
    again = results[0].flow.rerun([2, 0])
    np.testing.assert_array_equal(again.loglik.values, results[0].loglik.values[[2, 0]])
    again = data.flow.rerun([3, 70])
    np.testing.assert_array_equal(again.c.values, data.c.values[[3, 70]])
    kernel = build_kernel(evolve(study, target=TargetChoice("cuda")))
    assert kernel.compile_cuda("sm_90").figures.registers > 0


def test_residual_errors_are_those_of_their_definitions() -> None:
    rows = {
        "ID": ["eve", "eve", "eve", "eve", "bob", "bob"], "TIME": [0, 1, 2, 2, 5, 6],
        "AMT": [100, 0, 0, 0, 50, 0], "CMT": [2, 2, 2, 3, 2, 2],
        "DV": [None, 4.0, 3.0, 2.5, None, 2.2],
    }  # fmt: skip
    system = OdeSystem.from_mapping(MODEL)
    observed = {"2": "c", "3": "peripheral"}
    error = {"c": {"additive": "a", "proportional": 0.2}, "peripheral": {"lognormal": 0.3}}
    a = [0.1, 0.3]
    data = solve(
        system, subjects=rows, observed=observed, parameters={"a": a}, error=error, batch="grid",
        **FINE,
    )  # fmt: skip
    assert data.ID.attrs["flag_meanings"] == "bob eve"
    assert data.ID.values.tolist() == [1.0, 0.0, 1.0, 0.0]
    assert data.c_observations.values.tolist() == [2, 1, 2, 1]
    found = data.c.values[0], data.peripheral.values[0]
    variance = np.array(a)[:, None] ** 2 + (0.2 * found[0][:2]) ** 2
    squares = (found[0][:2] - [4.0, 3.0]) ** 2
    total = -0.5 * (squares / variance + np.log(2 * np.pi * variance)).sum(axis=1)
    log = np.log(found[1][2] / 2.5)
    total -= 0.5 * (log**2 / 0.09 + np.log(2 * np.pi * 0.09)) + np.log(2.5)
    np.testing.assert_allclose(data.loglik.values[[0, 2]], total, rtol=1e-9)
    np.testing.assert_allclose(data.c_sse.values[0], squares.sum(), rtol=1e-9)
    np.testing.assert_allclose(data.peripheral_sse.values[0], log**2, rtol=1e-9)
    whole = data.flow.population()
    np.testing.assert_allclose(whole.loglik, data.loglik.values.reshape(2, 2).sum(axis=1))
    assert whole.a.values.tolist() == a
    assert whole.subjects.values.tolist() == [2, 2]


COVERED = OdeSystem.from_mapping(
    {
        "name": "covered",
        "parameters": {"WT": 70.0, "k": "0.1*WT/70"},
        "states": {"x": 0.0},
        "equations": {"x": "-k*x"},
        "observables": {"y": "x/WT"},
    }
)


def test_covariates_change_at_their_row_or_after_the_row_before() -> None:
    rows = {
        "ID": [1] * 6, "TIME": [0, 0, 2, 3, 6, 6], "AMT": [100, 0, 0, 0, 0, 10],
        "WT": [70, None, 140, None, 35, 35], "DV": [None, 1, 1, 1, 1, None],
        "SEX": [1] * 6, "VISIT": [0, 1, 2, 3, 4, 4],
    }  # fmt: skip
    k = 0.1
    x = [100.0, 100 * np.exp(-2 * k)]
    x += [x[1] * np.exp(-2 * k), x[1] * np.exp(-2 * k * 4)]
    weights = [70.0, 140.0, 140.0, 35.0]
    design = subjects_design(rows, known=["WT"])
    data = solve(COVERED, batch=design, **FINE)
    np.testing.assert_allclose(data.y.values[0], x / np.array(weights))
    assert data.SEX.values.tolist() == [1.0]
    assert data.VISIT.values.tolist() == [[1.0, 2.0, 3.0, 4.0]]
    with pytest.raises(FlowError, match="cannot be used with covariates that change, such as 'WT'"):
        solve(COVERED, batch=design, sensitivities=["k"])
    options = {"covariates": "backward"}
    data = solve(COVERED, batch=subjects_design(rows, options=options, known=["WT"]), **FINE)
    x = [100.0, 100 * np.exp(-2 * k * 2)]
    x += [x[1] * np.exp(-2 * k), x[1] * np.exp(-2 * k - 0.5 * k * 3)]
    np.testing.assert_allclose(data.y.values[0], x / np.array(weights))


def test_a_steady_state_of_nonlinear_equations_is_that_of_many_doses() -> None:
    model = {
        "name": "saturated",
        "parameters": {"vmax": 12.0, "km": 3.0, "base": 2.0},
        "states": {"x": 0.0, "r": "base"},
        "equations": {"x": "-vmax*x/(km + x)", "r": "0.3*base - 0.3*r*(1 + x/(5 + x))"},
        "unused": [],
    }
    dose = {"AMT": 100.0, "II": 12.0, "CMT": 1}
    many = [line(0.0, 1, **dose, ADDL=150), *observed(1800.0, 1805.0)]
    steady = [line(0.0, 1, **dose, SS=1), *observed(0.0, 5.0)]
    # More than can be eliminated has no steady state.
    never = [line(0.0, 1, **{**dose, "AMT": 150.0}, SS=1), *observed(0.0, 5.0)]
    rows = table([many, steady, never])
    options: dict[str, Any] = {"observed": "x", "variables": ["x", "r"]}
    data = solve(OdeSystem.from_mapping(model), subjects=rows, target="cpu", rtol=1e-8, **options)
    meanings = data.status.attrs["flag_meanings"].split()
    assert [meanings[i] for i in data.status.values] == ["success", "success", "no_steady_state"]
    np.testing.assert_allclose(data.x.values[1], data.x.values[0], rtol=1e-7)
    np.testing.assert_allclose(data.r.values[1], data.r.values[0], rtol=1e-7)
    assert np.isnan(data.x_sse.values[2])


def test_theophylline_has_its_published_likelihood() -> None:
    """The first-order likelihood of NONMEM, at its published estimates, and fits by R.

    Data: Boeckmann, Sheiner and Beal, NONMEM Users Guide, Part V, 1994. The minimum 104.561 and the
    estimates are those of the example ``control3`` of that guide; the least squares of subjects 1
    and 4 those of ``example(SSfol)`` and ``example(Theoph)`` of R.
    """
    theta = np.array([2.77, 0.0781, 0.0363])
    omega = np.array(
        [[5.55, 0.00524, -0.128], [0.00524, 2.4e-4, 0.00911], [-0.128, 0.00911, 0.515]]
    )
    points = np.exp([np.log(theta), [0.5752, -2.9196, -3.9159], [0.1583, -2.4365, -3.2861]])
    system = OdeSystem.from_mapping(
        {
            "name": "theophylline",
            "parameters": {"ka": 1.0, "k": 0.1, "cl": 0.04},
            "states": {"gut": 0.0, "central": 0.0},
            "equations": {"gut": "-ka*gut", "central": "ka*gut - k*central"},
            "observables": {"c": "central*k/cl"},
        }
    )
    swept = dict(zip(("ka", "k", "cl"), points.T, strict=True))
    names = ["c", "dcentral_dka", "dcentral_dk"]
    path = Path(__file__).parent / "data" / "theophylline.csv"
    data = solve(
        system, subjects=path, parameters=swept, variables=names, sensitivities=["ka", "k"], **FINE
    )
    (_, k, cl), total = theta, 0.0
    for i, weight in enumerate(data.WT.values[:12]):
        c, by_ka, by_k = (data[name].values[i] for name in names)
        # The effect on clearance is per subject, that of the parameter per kg.
        slopes = np.column_stack([by_ka * k / cl, by_k * k / cl + c / k, -c / cl / weight])
        covariance = slopes @ omega @ slopes.T + 0.388 * np.eye(11)
        residual = data.DV.values[i] - c
        total += np.linalg.slogdet(covariance)[1]
        total += residual @ np.linalg.solve(covariance, residual)
    assert total == pytest.approx(104.561, abs=2e-3)
    squares = data.c_sse.values.reshape(3, 12)
    assert np.sqrt(squares[1, 0] / 8) == pytest.approx(0.732, abs=5e-4)
    assert np.sqrt(squares[2, 3] / 8) == pytest.approx(0.8465, abs=5e-5)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"RATE": [-2, 0, 0]}, "data row 1, column RATE: -2 asks for a rate .* not supported"),
        ({"SS": [3, 0, 0]}, "row 1, column SS: 3 is not supported; it must be 0, 1 or 2"),
        ({"SS": [1, 0, 0]}, "row 1, column II: 0, but a steady state needs"),
        ({"ADDL": [2, 0, 0]}, "row 1, column II: 0, but additional doses need"),
        ({"EVID": [1, 7, 0]}, "row 2, column EVID: 7 is not one of 0, 1, 2, 3 and 4"),
        ({"AMT": [5, 5, 0]}, "row 2, column AMT: 5 belongs to a dose, but EVID is not 1 or 4"),
        ({"AMT": [-5, 0, 0]}, "row 1, column AMT: -5 is negative"),
        ({"TIME": [0, 3, 1]}, "row 3, column TIME: 1 is before the time of the row above"),
        ({"TIME": [0, None, 1]}, "row 2: TIME is missing"),
        ({"TIME": [0, "8:30", 9]}, "column 'TIME' .* holds '8:30' in data row 2, which is not a"),
        ({"CMT": [9, 0, 0]}, "row 1, column CMT: 9 is not the number or the name of a state"),
        ({"MDV": [1, 1, 0], "DV": [0, 0, None]}, "row 3, column DV: it is missing, but MDV is 0"),
        ({"CENS": [0, 0, 1]}, "row 3, column CENS: 1 is not supported"),
        ({"DATE": [1, 2, 3]}, "has the column 'DATE'; dates are not read"),
        ({"ID": [1, 2, 1]}, "row 3, column ID: 1 had rows before those of another subject"),
        ({"ka": [1, "x", 2]}, "row 2, column ka: 'x' is not a number"),
        ({"ka": [None, 1, 2]}, "row 1, column ka: the first value of a subject is missing"),
        ({"id": [1, 1, 1]}, "has the columns 'ID' and 'id'"),
        ({"duration": [1, 1, 1]}, "'duration' is the time from the first to the last row"),
        ({"ADDL": [1e300, 0, 0], "II": [1e-6, 0, 0]}, "row 1, column ADDL: 1e.300 makes more than"),
        (
            {"SS": [1, 0, 0], "RATE": [1, 0, 0], "II": [1e-7, 0, 0]},
            "row 1, column RATE: 1 makes more than 1,000,000 infusions",
        ),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_row_and_column(
    change: dict[str, list[Any]], text: str
) -> None:
    rows = {
        "ID": [1, 1, 1], "TIME": [0, 1, 2], "AMT": [5, 0, 0], "EVID": [1, 0, 0],
        "DV": [None, 1, 2], **change,
    }  # fmt: skip
    with pytest.raises(FlowError, match=text):
        solve(OdeSystem.from_mapping(MODEL), subjects=rows)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"observed": "d"}, "batch.observed is 'd', which is not a state or observable"),
        ({"observed": {"1": "c"}}, "row 2, column CMT: 0 is not in batch.observed"),
        ({"error": {"d": {"additive": 1}}}, "output.error names 'd', which is not observed"),
        ({"error": {"additive": 0}}, "output.error.c.additive is 0; it must be a positive number"),
        ({"error": {"adds": 1}}, "output.error names 'adds', which is not observed"),
        ({"error": {"c": {"lognormal": 1, "additive": 1}}}, "lognormal excludes the other kinds"),
        ({"duration": 3.0}, "duration is given, but each run of batch.kind 'subjects' has its"),
        ({"save_every": 1.0}, "output.save_every is given, but each run"),
    ],
)
def test_what_contradicts_the_table_is_refused(options: dict[str, Any], text: str) -> None:
    rows = {"ID": [1, 1], "TIME": [0, 1], "AMT": [5, 0], "DV": [None, 1]}
    with pytest.raises(FlowError, match=text):
        solve(OdeSystem.from_mapping(MODEL), subjects=rows, **options)


def test_columns_name_states_and_observed_quantities() -> None:
    rows = {
        "id": [1, 1, 1, 1], "time": [0, 1, 2, 3], "amt": [5, 0, 6, 0], "evid": [1, 0, 1, 0],
        "cmt": ["peripheral", ".", 7, "."], "dv": [None, 1, None, 2], "dvid": [0, 1, 0, 2],
    }  # fmt: skip
    options = {"compartments": {7: "gut"}, "observed": {1: "c", 2: "gut"}}
    design = subjects_design(rows, {"V": 30.0}, options=options)
    bound = bind_subjects(design, OdeSystem.from_mapping(MODEL), {})
    assert [name for _, name in bound.records.effects] == ["gut", "peripheral"]
    assert bound.records.rows[:2, 2].tolist() == [5.0, 6.0]
    assert bound.observed == ("c", "gut")
    values, numbers = bound.measured(np.array([0]))
    assert (values.tolist(), numbers.tolist()) == ([[1.0, 2.0]], [[0.0, 1.0]])
    assert design.columns(0, 1)["V"].tolist() == [30.0]
    again = described_design(json.loads(json.dumps(design.describe())))
    assert again.describe() == design.describe()
    with pytest.raises(FlowError, match=r"names the column 'W', which .* does not have"):
        subjects_design(rows, {"V": "W"})
    with pytest.raises(FlowError, match="has the column 'ka', as the model has a quantity"):
        bind_subjects(subjects_design({**rows, "ka": [1] * 4}), OdeSystem.from_mapping(MODEL), {})
