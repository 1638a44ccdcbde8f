"""What is swept is sorted into jobs and runs."""

from collections.abc import Sequence
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from cubie_flow.errors import FlowError
from cubie_flow.multirun.axes import Axes, read_axes

RHO, SIGMA = "system.parameters.rho", "system.parameters.sigma"


def read(words: Sequence[str], zipped: Any = None, as_jobs: Any = None) -> Axes:
    return read_axes(OverridesParser.create().parse_overrides(list(words)), zipped, as_jobs)


def test_a_long_range_is_one_axis_and_never_a_list() -> None:
    axes = read([f"{RHO}=range(0,21,0.001)", "algorithm=tsit5,rk4", "duration=3"])
    assert axes.common == ("duration=3", "batch.sweep=[{rho:{arange:[0,21,0.001]}}]")
    assert axes.jobs == [("algorithm=tsit5",), ("algorithm=rk4",)]
    assert [axis.size for axis in axes.axes] == [21_000, 2]
    huge = read([f"{RHO}=range(0,1000000000)"])
    assert huge.axes[0].size == 1_000_000_000


@pytest.mark.parametrize(
    ("word", "spec"),
    [
        (f"{RHO}=1,2.5", "{rho:[1,2.5]}"),
        (f"{RHO}=choice(3,1)", "{rho:[3,1]}"),
        (f"{RHO}=sort(3,1,2)", "{rho:[1,2,3]}"),
        (f"{RHO}=sort(range(3),reverse=true)", "{rho:{arange:[2,-1,-1]}}"),
        (f"{RHO}=tag(a,b,choice(1,2))", "{rho:[1,2]}"),
        (f"{RHO}=interval(0,2)", "{rho:{uniform:[0.0,2.0]}}"),
        ("+system.states.x=1,2", "{x:[1,2]}"),
        ("batch.values.rho=1,2", "{rho:[1,2]}"),
        ("duration=range(1,3)", "{duration:{arange:[1,3,1]}}"),
        ("batch.seed=1,2", "{batch.seed:[1,2]}"),
        (f"{RHO}='1',\"2\"", "{rho:[1.0,2.0]}"),
        (f"{RHO}='1e-3',1e3,-2", "{rho:[0.001,1000.0,-2]}"),
        (f"{RHO}=1/4,2*3", "{rho:[0.25,6.0]}"),
        (f"{RHO}=str(1,2)", "{rho:[1.0,2.0]}"),
        (f"{RHO}=${{oc.env:K}},2", "{rho:[1.5,2]}"),
        (f"{RHO}.value=1,2", "{rho:[1,2]}"),
        ("batch.values.rho='1',2", "{rho:[1.0,2]}"),
    ],
)
def test_quantities_make_runs(word: str, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K", "1.5")
    axes = read([word])
    assert axes.common == (f"batch.sweep=[{spec}]",)
    assert axes.jobs == [()]


def test_shuffled_values_are_the_same_values() -> None:
    (axis,) = read([f"{RHO}=shuffle(range(0,50))"]).axes
    assert axis.runs["rho"] != list(range(50))
    assert sorted(axis.runs["rho"]) == list(range(50))


@pytest.mark.parametrize(
    ("word", "jobs"),
    [
        ("algorithm=tsit5,rk4", ["algorithm=tsit5", "algorithm=rk4"]),
        ("controller.rtol=1e-3,1e-6", ["controller.rtol=0.001", "controller.rtol=1e-06"]),
        (f"{RHO}=1,'2*sigma'", [f"{RHO}=1", f"{RHO}='2*sigma'"]),
        ("batch.values.rho=[1,2],[3,4]", ["batch.values.rho=[1,2]", "batch.values.rho=[3,4]"]),
        ("+buffers.state=local,shared", ["+buffers.state=local", "+buffers.state=shared"]),
        ("target.lanes=range(1,3)", ["target.lanes=1", "target.lanes=2"]),
        ("duration=null,3", ["duration=null", "duration=3"]),
    ],
)
def test_everything_else_makes_jobs(word: str, jobs: list[str]) -> None:
    assert [own for (own,) in read([word]).jobs] == jobs


def test_the_last_axis_varies_fastest() -> None:
    jobs = read(["a=1,2", "b=3,4"]).jobs
    assert jobs == [("a=1", "b=3"), ("a=1", "b=4"), ("a=2", "b=3"), ("a=2", "b=4")]


def test_zipped_keys_advance_together() -> None:
    axes = read(["a=1,2", "b=5,6", "c=3,4"], [["a", "c"]])
    assert axes.jobs[0] == ("a=1", "c=3", "b=5")
    assert len(axes.jobs) == 4
    runs = read([f"{RHO}=1,2", f"{SIGMA}=3,4"], [[RHO, SIGMA]])
    assert runs.common == ("batch.sweep=[{rho:[1,2],sigma:[3,4]}]",)
    mixed = read([f"{RHO}=1,2", "algorithm=tsit5,rk4"], [[RHO, "algorithm"]])
    assert mixed.jobs == [(f"{RHO}=1", "algorithm=tsit5"), (f"{RHO}=2", "algorithm=rk4")]
    assert "advances with algorithm" in mixed.lines()[0]


def test_a_quantity_makes_jobs_where_it_is_told_to() -> None:
    axes = read([f"{RHO}=range(0,3)"], as_jobs=[RHO])
    assert axes.jobs == [(f"{RHO}=0",), (f"{RHO}=1",), (f"{RHO}=2",)]


@pytest.mark.parametrize(
    ("words", "zipped", "apart"),
    [
        ([f"{RHO}=1,'2*sigma'"], None, "[{rho:null}]"),
        ([f"{RHO}=${{system.parameters.sigma}},2"], None, "[{rho:null}]"),
        (["duration=null,3"], None, "[{duration:null}]"),
        (
            [f"{RHO}=1,2", "algorithm=tsit5,rk4", f"{SIGMA}=3,4"],
            [[RHO, "algorithm"]],
            "[{sigma:[3,4]},{rho:null}]",
        ),
    ],
)
def test_the_batch_of_a_job_leaves_what_the_job_sets_alone(
    words: list[str], zipped: Any, apart: str
) -> None:
    assert read(words, zipped).common == (f"batch.sweep={apart}",)


@pytest.mark.parametrize(
    ("words", "zipped", "as_jobs", "said"),
    [
        ([f"{RHO}=null,1"], None, None, f"{RHO} is swept over null, which is not a number"),
        ([f"{RHO}=1,true"], None, None, "swept over true, which is not a number"),
        ([f"{RHO}=inf,1"], None, None, "swept over inf, which is not a finite number"),
        ([f"{RHO}=1,-nan"], None, None, "swept over nan, which is not a finite"),
        ([f"{RHO}=range(0,inf)"], None, None, "swept over inf"),
        ([f"{RHO}=interval(0,inf)"], None, None, "swept over inf"),
        (["batch.seed=true,2"], None, None, "batch.seed is swept over true"),
        ([f"{RHO}=null,1", "algorithm=a,b"], [[RHO, "algorithm"]], None, "over null"),
        ([f"{RHO}=1,2", f"{RHO}=3"], None, None, "twice, .*=1,2 and .*=3; leave one"),
        ([f"{RHO}=1,2", f"{RHO}=3,4"], None, None, "leave one"),
        (["algorithm=rk4", "algorithm=tsit5,rk4"], None, None, "'algorithm' is swept, but"),
        ([f"{RHO}=1,2", "system.parameters={rho: 3}"], None, None, "leave one"),
        (["a=1,2", "b=3,4,5"], [["a", "b"]], None, "a has 2, b has 3"),
        ([f"{RHO}=1,2", f"{SIGMA}=3,4,5"], [[RHO, SIGMA]], None, "rho has 2.*sigma has 3"),
        (["a=1,2", "b=3,4"], [["a", "bb"]], None, "'bb', which is not swept"),
        (["alpha=1,2", "b=3,4"], [["alhpa", "b"]], None, "did you mean 'alpha'"),
        (["a=1,2", "b=3"], [["a", "b"]], None, "'b', which is not swept"),
        (["a=1,2", "b=3,4"], ["a", "b"], None, r"must be a list of groups"),
        (["a=1,2", "b=3,4"], "a", None, r"must be a list of groups"),
        (["a=1,2", "b=3,4"], [["a"]], None, "at least two keys"),
        (["a=1,2", "b=3,4"], [["a", "a"]], None, "'a' twice"),
        (["a=1,2", "b=3,4", "c=1,2"], [["a", "b"], ["b", "c"]], None, "'b' twice"),
        ([f"{RHO}=interval(0,1)", f"{SIGMA}=1,2"], [[RHO, SIGMA]], None, "an interval"),
        (["controller.rtol=interval(0,1)"], None, None, "rtol=.*is an interval"),
        (["a=range(3,1)"], None, None, "has no value"),
        ([f"{RHO}=range(0,0)"], None, None, "has no value"),
        ([f"{RHO}=1,2", "batch.values.rho=[3]"], None, None, "leave one"),
        ([f"{RHO}=1,2", "+batch.values={rho: [3]}"], None, None, "leave one"),
        ([f"{RHO}=range(0,1,0.3),5"], None, None, r"has range\(...\) among listed values"),
        (["a=interval(0,1),5"], None, None, r"has interval\(...\) among listed values"),
        ([f"{RHO}=1,2,1.0"], None, None, "rho is swept over 1.0 twice"),
        (["a=x,y,x"], None, None, "a is swept over x twice"),
        (["a=1,2"], None, ["b"], "hydra.sweeper.jobs names 'b'"),
        (["a=1,2"], None, "a", "must be a list of swept keys"),
    ],
)
def test_a_mistake_is_one_sentence(words: list[str], zipped: Any, as_jobs: Any, said: str) -> None:
    with pytest.raises(FlowError, match=said) as caught:
        read(words, zipped, as_jobs)
    assert "\n" not in str(caught.value)
