"""Designs: the runs they make, their identity, and what they refuse."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cubie_flow import batches
from cubie_flow.batches import make_design
from cubie_flow.batches.subjects import Subjects
from cubie_flow.errors import FlowError

quick = settings(derandomize=True, deadline=None, max_examples=40)

DISTRIBUTIONS = {
    "a": {"uniform": [-1, 2]},
    "b": {"loguniform": [1e-3, 10]},
    "c": {"normal": [5, 2]},
    "d": {"lognormal": [3, 0.5]},
    "fixed": 7,
}


@st.composite
def designs(draw: st.DrawFn) -> Any:
    kind = draw(st.sampled_from(["grid", "zip", "sobol", "latin_hypercube"]))
    count = draw(st.integers(1, 7))
    if kind in ("sobol", "latin_hypercube"):
        return make_design(kind, DISTRIBUTIONS, size=draw(st.integers(1, 90)), seed=count)
    other = draw(st.integers(1, 5)) if kind == "grid" else count
    return make_design(
        kind,
        {
            "x": {"linspace": [0, 1, count]},
            "y": {"logspace": [1e-3, 1e3, other]},
            "z": list(range(other)),
            "w": {"arange": [0, count if kind == "zip" else other, 1]},
            "s": 3,
        },
    )


@quick
@given(design=designs(), data=st.data())
def test_any_slice_equals_the_slice_of_the_whole(design: Any, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, design.size))
    stop = data.draw(st.integers(start, design.size))
    whole, part = design.columns(0, design.size), design.columns(start, stop)
    assert tuple(part) == design.names == tuple(whole)
    for name in design.names:
        assert part[name].dtype == np.float64
        assert part[name].shape == (stop - start,)
        np.testing.assert_array_equal(part[name], whole[name][start:stop])


@quick
@given(design=designs())
def test_a_description_makes_the_same_design_again(design: Any) -> None:
    told = json.loads(json.dumps(design.describe()))
    again = make_design(told["kind"], told["values"], told["size"], told.get("seed", 0))
    assert again.content_hash == design.content_hash
    for name, column in design.columns(0, design.size).items():
        np.testing.assert_array_equal(column, again.columns(0, again.size)[name])


def test_a_grid_unfolds_to_its_axes_with_the_last_name_fastest() -> None:
    design = make_design("grid", {"rho": [1, 2, 3], "sigma": {"linspace": [0, 1, 5]}})
    assert design.shape == {"rho": 3, "sigma": 5}
    assert design.size == 15
    columns = design.columns(0, 15)
    mesh = np.meshgrid(*design.axis_values.values(), indexing="ij")
    for name, expected in zip(design.names, mesh, strict=True):
        np.testing.assert_array_equal(columns[name].reshape(tuple(design.shape.values())), expected)
    assert columns["sigma"][1] != columns["sigma"][0]


def test_value_lists_are_numpys_own() -> None:
    design = make_design(
        "zip",
        {"lin": {"linspace": [-1, 0.7, 9]}, "log": {"logspace": [1e-4, 5.0, 9]}, "one": 2},
    )
    columns = design.columns(0, 9)
    np.testing.assert_array_equal(columns["lin"], np.linspace(-1, 0.7, 9))
    np.testing.assert_allclose(columns["log"], np.geomspace(1e-4, 5.0, 9), rtol=1e-14)
    assert columns["log"][0] == 1e-4
    assert columns["log"][-1] == 5.0
    assert set(columns["one"]) == {2.0}


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        ([0, 10, 1], 10), ([1, 1.3, 0.1], 3), ([0, 1, 0.3], 4), ([5, 0, -2], 3),
        ([0, 3_600_000.7, 0.1], 36_000_007), ([0, 1, 1 / 3], 3), ([1e6, 1_000_000.3, 0.1], 3),
    ],
)  # fmt: skip
def test_arange_leaves_its_end_out_whatever_the_rounding(spec: list[float], count: int) -> None:
    design = make_design("grid", {"x": {"arange": spec}})
    assert design.size == count


def test_ten_million_runs_cost_only_the_slice_asked_for() -> None:
    many = 10**7
    for design in (
        make_design("grid", {"x": {"linspace": [0, 1, many]}, "y": [1, 2]}),
        make_design("zip", {"x": {"linspace": [0, 1, many]}}),
        make_design("sobol", {"x": {"uniform": [0, 1]}}, size=many),
        make_design("latin_hypercube", {"x": {"uniform": [0, 1]}}, size=many),
    ):
        assert design.size >= many
        assert len(design.columns(many - 3, many)["x"]) == 3


def test_sobol_is_scipys_and_a_longer_one_begins_the_same() -> None:
    from scipy.stats import qmc

    values = {"a": {"uniform": [0, 1]}, "b": {"uniform": [0, 1]}}
    short = make_design("sobol", values, size=64, seed=3)
    longer = make_design("sobol", values, size=1000, seed=3)
    for name, column in short.columns(0, 64).items():
        np.testing.assert_array_equal(column, longer.columns(0, 1000)[name][:64])
    reference = qmc.Sobol(2, rng=np.random.default_rng(3)).random(64)
    np.testing.assert_allclose(short.columns(0, 64)["a"], reference[:, 0], atol=1e-9)
    assert short.extendable
    assert longer.extends(json.loads(json.dumps(short.describe())))
    assert not short.extends(longer.describe())
    assert not make_design("sobol", values, size=1000, seed=4).extends(short.describe())


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1000, 1025])
def test_a_latin_hypercube_puts_one_run_in_every_stratum(size: int) -> None:
    values = {"a": {"uniform": [0, 1]}, "b": {"uniform": [0, 1]}}
    columns = make_design("latin_hypercube", values, size=size, seed=1).columns(0, size)
    for column in columns.values():
        np.testing.assert_array_equal(np.sort(np.floor(column * size)), np.arange(size))
    if size >= 1000:
        assert abs(np.corrcoef(columns["a"], columns["b"])[0, 1]) < 0.1
        assert abs(np.corrcoef(columns["a"][1:], columns["a"][:-1])[0, 1]) < 0.1
        assert abs(np.mean(columns["a"] * size % 1) - 0.5) < 0.05


@pytest.mark.parametrize("kind", ["sobol", "latin_hypercube"])
def test_samples_follow_their_distributions(kind: str) -> None:
    design = make_design(kind, DISTRIBUTIONS, size=4096)
    columns = design.columns(0, 4096)
    assert all(np.isfinite(column).all() for column in columns.values())
    assert -1 < columns["a"].min() < -0.99
    assert 1.99 < columns["a"].max() < 2
    assert np.median(columns["b"]) == pytest.approx(0.1, rel=0.02)
    assert columns["c"].mean() == pytest.approx(5, abs=0.01)
    assert columns["c"].std() == pytest.approx(2, rel=0.01)
    assert np.median(columns["d"]) == pytest.approx(3, rel=0.01)
    assert np.log(columns["d"]).std() == pytest.approx(0.5, rel=0.01)
    assert set(columns["fixed"]) == {7.0}


@pytest.mark.parametrize("kind", ["sobol", "latin_hypercube"])
def test_the_seed_decides_the_sample(kind: str) -> None:
    one, same, other = (make_design(kind, DISTRIBUTIONS, size=32, seed=s) for s in (1, 1, 2))
    assert one.content_hash == same.content_hash != other.content_hash
    np.testing.assert_array_equal(one.columns(0, 32)["c"], same.columns(0, 32)["c"])
    assert (one.columns(0, 32)["c"] != other.columns(0, 32)["c"]).all()


def test_nothing_varied_is_a_single_run() -> None:
    design = make_design("grid", {})
    assert (design.kind, design.size, design.names) == ("single", 1, ())
    assert design.columns(0, 1) == {}
    assert make_design("single", None).content_hash == design.content_hash


def test_the_order_of_names_is_part_of_the_identity() -> None:
    one = make_design("grid", {"a": [1, 2], "b": [1, 2]})
    assert one.content_hash != make_design("grid", {"b": [1, 2], "a": [1, 2]}).content_hash
    assert one.extends(one.describe())
    assert not one.extendable


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gird", {"a": 1}), "did you mean 'grid'"),
        (("zip", {"a": [1, 2], "b": [1, 2, 3]}), "a has 2, b has 3"),
        (("grid", {"a": []}), "batch.values.a is an empty list"),
        (("grid", {"a": [1, float("nan")]}), r"batch.values.a\[1\] must be finite"),
        (("grid", {"a": float("inf")}), "batch.values.a must be finite"),
        (("grid", {"a": [1, "two"]}), "text 'two', not a number"),
        (("grid", {"a": True}), "must be a number, not True"),
        (("grid", {"a": None}), "must be a number, not None"),
        (("grid", {"a": {"linspce": [0, 1, 3]}}), "did you mean 'linspace'"),
        (("grid", {"a": {"linspace": [0, 1]}}), r"needs \[start, stop, count\]"),
        (("grid", {"a": {"linspace": [0, 1, -3]}}), "whole count of at least 1, not -3"),
        (("grid", {"a": {"linspace": [0, 1, 2.5]}}), "whole count of at least 1, not 2.5"),
        (("grid", {"a": {"logspace": [0, 1, 3]}}), "positive endpoints"),
        (("grid", {"a": {"arange": [0, 1, -1]}}), "has no values"),
        (("grid", {"a": {"linspace": [0, 1, 3], "arange": [0, 1, 1]}}), "exactly one of"),
        (("grid", {"a": {}}), "it has none"),
        (("grid", {"a": {"uniform": [0, 1]}}), "distribution 'uniform', which batch.kind 'grid'"),
        (("zip", {"a": {"normal": [0, 1]}}), "batch.kind 'zip' cannot use"),
        (("sobol", {"a": [1, 2]}, 8), "lists its values, but batch.kind 'sobol' draws them"),
        (("latin_hypercube", {"a": {"linspace": [0, 1, 3]}}, 8), "allowed: a number, uniform"),
        (("sobol", {"a": 1}, 8), "at least one distribution"),
        (("sobol", {"a": {"uniform": [0, 1]}}), "needs batch.size"),
        (("sobol", {"a": {"uniform": [0, 1]}}, 2**31), "beyond the"),
        (("sobol", {"a": {"uniform": [1, 0]}}, 8), "lower < upper, not 1 and 0"),
        (("sobol", {"a": {"loguniform": [0, 1]}}, 8), "positive bounds, not 0"),
        (("sobol", {"a": {"normal": [0, 0]}}, 8), "positive standard deviation, not 0"),
        (("sobol", {"a": {"lognormal": [-1, 1]}}, 8), "positive median, not -1"),
        (("sobol", {"a": {"uniform": [0, 1]}}, 0), "batch.size must be a whole number"),
        (("sobol", {"a": {"uniform": [0, 1]}}, 8, -1), "batch.seed must be a whole number"),
        (("grid", {"a": [1, 2]}, 3), "make 2 runs"),
        (("grid", {}, 5), "nothing is varied"),
        (("single", {"a": 1}), "varies nothing, but batch.values names a"),
        (
            ("grid", {"a": {"linspace": [0, 1, 2**40]}, "b": {"linspace": [0, 1, 2**30]}}),
            "2.70.0 runs",
        ),
        (("sobol", {f"q{i}": {"uniform": [0, 1]} for i in range(21202)}, 8), "21,202 quantities"),
        (("latin_hypercube", {"a": {"uniform": [0, 1]}}, 2**64), "beyond the 4611686018427387904"),
        (("table", {}), "needs batch.path"),
        (("grid", {"a": 1}, None, 0, "x.csv"), "only for batch.kind 'table'"),
    ],
)
def test_every_mistake_is_one_sentence(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(FlowError, match=message) as caught:
        make_design(*arguments)
    assert "\n" not in str(caught.value)


def test_a_slice_outside_the_batch_is_refused() -> None:
    with pytest.raises(FlowError, match="runs 1 to 3 are not within the 2"):
        make_design("grid", {"a": [1, 2]}).columns(1, 3)


def test_planning_a_grid_needs_no_scipy_or_pandas() -> None:
    import subprocess

    code = (
        "import sys; from cubie_flow.batches import make_design;"
        "make_design('grid', {'a': {'linspace': [0, 1, 5]}}).columns(0, 5);"
        "assert not {'scipy', 'pandas', 'pyarrow', 'xarray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_kind_of_a_design_is_allowed() -> None:
    classes = (item for item in vars(batches.designs).values() if isinstance(item, type))
    concrete = (one for one in classes if issubclass(one, batches.Design) and "kind" in vars(one))
    kinds = {one.kind for one in concrete} | {Subjects.kind}
    assert kinds == set(batches.designs.DESIGNS)
