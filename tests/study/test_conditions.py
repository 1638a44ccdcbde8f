"""Conditions on runs: read safely, and true where Python says so."""

from __future__ import annotations

import math
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cubie_flow.errors import FlowError
from cubie_flow.study.conditions import Column, read_condition

FLAGS = {"success": 0, "step_limit": 1, "not_written": 255}
KNOWN = {
    "rho": Column(),
    "z_max": Column(),
    "steps": Column(),
    "status": Column(FLAGS),
    "z": Column(problem="which has a value at every time"),
}
COLUMNS = {
    "rho": np.array([0.0, 1.5, -2.0, np.nan, 24.0, 1e300]),
    "z_max": np.array([0.1, 1.5, -2.0, 3.0, np.inf, 0.0], np.float32),
    "steps": np.array([0, 1, 2, 2_000_000_000, 4, 5], np.int32),
    "status": np.array([0, 0, 1, 1, 255, 0], np.uint8),
}

numbers = st.recursive(
    st.sampled_from(["rho", "z_max", "steps"])
    | st.floats(-100, 100).map(lambda x: repr(round(x, 3))),
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from("+-*"), inner)
        | st.builds("abs({})".format, inner)
        | st.builds("(-{})".format, inner)
    ),
    max_leaves=4,
)
comparisons = (
    st.builds(
        "({} {} {})".format, numbers, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), numbers
    )
    | st.builds("({} < {} <= {})".format, numbers, numbers, numbers)
    | st.builds("({} in [1, 2, 24])".format, numbers)
    | st.builds(
        "(status {} {})".format,
        st.sampled_from(["==", "!="]),
        st.sampled_from([*sorted(FLAGS), *map(repr, sorted(FLAGS))]),
    )
)
conditions = st.recursive(
    comparisons,
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from(["and", "or"]), inner)
        | st.builds("(not {})".format, inner)
    ),
    max_leaves=4,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(conditions)
def test_a_condition_is_true_where_python_says_so(text: str) -> None:
    if not any(name in text for name in COLUMNS):
        return
    found = read_condition(text, KNOWN)(COLUMNS)
    words = {value: word for word, value in FLAGS.items()}
    for i, answer in enumerate(np.broadcast_to(found, 6)):
        row: dict[str, object] = {name: float(values[i]) for name, values in COLUMNS.items()}
        row["status"] = words[int(COLUMNS["status"][i])]
        row |= {word: word for word in FLAGS}
        assert answer == eval(text, {"abs": abs}, row), (text, i)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(max_size=40))
def test_any_text_is_a_condition_or_one_sentence(text: str) -> None:
    with suppress(FlowError):
        assert read_condition(text, KNOWN).names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "condition is a text"),
        ("rho >", "cannot be read"),
        ("rho", "neither true nor false"),
        ("rh > 2", "did you mean 'rho'"),
        ("z > 2", "which has a value at every time"),
        ("status == 'sucess'", "did you mean 'success'"),
        ("status in [success, sucess]", "did you mean 'success'"),
        ("rho == 'high'", "compared with a number"),
        ("status < 'success'", "with == or != only"),
        ("1 < 2", "names no quantity"),
        ("rho > 1 & status == 0", "brackets around"),
        ("rho is 3", "use =="),
        ("mini(rho) > 3", "not a function of a condition"),
        ("min(rho) > 3", "takes 2 values"),
        ("abs(rho, 2) > 3", "takes 1 value"),
        ("rho > True", "is not a number"),
        ("rho in 3", "must be a list"),
        ("rho > 1" + " and rho > 1" * 4000, "too long"),
        ("-" * 9000 + "rho > 1", "nested too deeply"),
    ],
)
def test_what_is_no_condition_is_refused_in_one_sentence(text: str, message: str) -> None:
    with pytest.raises(FlowError, match=message) as caught:
        read_condition(text, KNOWN)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true') == 0",
        "rho.__class__ == 1",
        "[x for x in rho] == 1",
        "(lambda: 1)() == rho",
        "rho[0] > 1",
        "f'{rho}' == 1",
        "(rho := 3) > 1",
        "exec('1') > rho",
    ],
)
def test_nothing_in_a_condition_is_executed(text: str) -> None:
    with pytest.raises(FlowError):
        read_condition(text, KNOWN)


def test_numbers_are_doubles() -> None:
    small = {"z_max": np.array([0.1], np.float32), "steps": np.array([2_000_000_000], np.int32)}
    assert not read_condition("z_max == 0.1", KNOWN)(small)[0]  # float32 has no 0.1
    assert read_condition("steps * 4 > 4e9", KNOWN)(small)[0]  # int32 would overflow
    assert not read_condition("steps > 10 ** 10 ** 10", KNOWN)(small)[
        0
    ]  # nor is it computed in integers
    assert math.isinf(10.0**308 * 10)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("status == success and rho < 1", [True, False, False, False, False, False]),
        ("status in ('step_limit', not_written)", [False, False, True, True, True, False]),
        ("status >= step_limit", [False, False, True, True, True, False]),
        ("max(rho, 1, 2) == 24", [False, False, False, False, True, False]),
        (
            "where(steps > 1, 1, 0) == 1 and sin(rho) < 0",
            [False, False, True, False, True, True],
        ),
        ("(rho if rho < 2 else e) > 2 and isfinite(rho)", [False, False, False, False, True, True]),
        ("rho > 1 or rho <= 1", [True, True, True, False, True, True]),
    ],
)
def test_both_spellings_of_a_word_and_the_functions_of_equations(
    text: str, expected: list[bool]
) -> None:
    assert read_condition(text, KNOWN)(COLUMNS).tolist() == expected


def test_a_word_that_is_also_a_quantity_needs_quotes() -> None:
    known = {**KNOWN, "success": Column()}
    with pytest.raises(FlowError, match="in quotes"):
        read_condition("status == success", known)
    assert read_condition("status == 'success'", known).names == ("status",)
    assert read_condition("success > 1", known).names == ("success",)


def test_what_a_condition_needs_is_only_what_it_names() -> None:
    predicate = read_condition("rho > 1 or isnan(rho) or sqrt(rho) < 0", KNOWN)
    assert predicate.names == ("rho",)
    assert predicate({"rho": COLUMNS["rho"]}).tolist() == [False, True, False, True, True, True]
