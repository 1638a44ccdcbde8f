"""A batch inside a sweep is what one batch after another would be."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cubie_flow.batches import SEED, SEED_LABEL, Design, make_design, swept_design
from cubie_flow.batches.designs import Grid, Zip
from cubie_flow.errors import FlowError

SOBOL = {"k": {"uniform": [1, 2]}, "m": {"loguniform": [1, 10]}}


def swept(sweep: list[dict[str, Any]], kind: str, values: Any, size: int | None = None) -> Design:
    return swept_design(sweep, 0, lambda seed: make_design(kind, values, size, seed))


def test_a_grid_in_a_sweep_is_a_grid() -> None:
    design = swept([{"a": [1, 2]}, {"b": [3, 4, 5]}], "grid", {"c": {"linspace": [0, 1, 4]}})
    assert isinstance(design, Grid)
    assert design.shape == {"a": 2, "b": 3, "c": 4}


def test_lists_that_advance_together_are_a_zip() -> None:
    design = swept([{"a": [1, 2], "b": {"arange": [0, 2, 1]}}], "single", {})
    assert isinstance(design, Zip)
    assert design.columns(0, 2)["b"].tolist() == [0, 1]


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 40),
    st.integers(0, 240),
    st.integers(1, 240),
    st.sampled_from(["sobol", "latin_hypercube"]),
)
def test_any_slice_is_the_slice_of_all_batches_in_a_row(
    size: int, start: int, length: int, kind: str
) -> None:
    sweep = [{"a": [1.0, 2.0], "b": [5.0, 6.0]}, {SEED: [7, 3]}, {"c": [8.0, 9.0, 10.0]}]
    design = swept(sweep, kind, SOBOL, size)
    rows = []
    for (a, b), seed, c in itertools.product([(1, 5), (2, 6)], [7, 3], [8, 9, 10]):
        batch = make_design(kind, SOBOL, size, seed).columns(0, size)
        rows += [(a, b, c, k, m, seed) for k, m in zip(batch["k"], batch["m"], strict=True)]
    assert design.size == len(rows)
    assert design.names == ("a", "b", "c", "k", "m")
    assert design.labels == (SEED_LABEL,)
    start = min(start, design.size)
    stop = min(start + length, design.size)
    columns = design.columns(start, stop)
    assert list(columns) == [*design.names, *design.labels]
    np.testing.assert_array_equal(
        np.column_stack(list(columns.values())), np.array(rows).reshape(-1, 6)[start:stop]
    )


def test_the_description_tells_sweeps_apart() -> None:
    one = swept([{"a": [1, 2], "b": [1, 2]}], "sobol", SOBOL, 8)
    same = swept([{"a": [1, 2], "b": [1, 2]}], "sobol", SOBOL, 8)
    other = swept([{"a": [1, 2], "b": [1, 3]}], "sobol", SOBOL, 8)
    assert one.content_hash == same.content_hash != other.content_hash
    assert one.extends(same.describe())
    assert not one.extends(other.describe())


@pytest.mark.parametrize(
    ("sweep", "kind", "values", "words"),
    [
        ([{"a": [1, 2], "b": [1]}], "single", {}, "a has 2, b has 1"),
        ([{"a": [1, 2]}], "grid", {"a": [3]}, "'a' is swept"),
        ([{"a": [1, 2]}, {"a": [1]}], "single", {}, "'a' is swept"),
        ([{SEED: [1, 2]}], "grid", {"k": [3]}, "draws nothing"),
        ([{SEED: [1, 1]}], "sobol", SOBOL, "same seed twice"),
        ([{"a": {"normal": [0, 1]}}], "single", {}, "distribution"),
        ([{}], "single", {}, "none is given"),
    ],
)
def test_what_cannot_be_is_refused(
    sweep: list[dict[str, Any]], kind: str, values: Any, words: str
) -> None:
    with pytest.raises(FlowError, match=words):
        swept(sweep, kind, values, 8 if kind == "sobol" else None)
