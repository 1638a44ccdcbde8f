"""The benchmarks: equations of peers, what is chosen, records that are continued."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu, running
from benchmarks.bars import ratio
from benchmarks.cases import (
    SETS,
    Case,
    adaptive,
    bars,
    chosen,
    everything,
    fixed,
    saves,
    sizes,
)
from benchmarks.fields import bound, field, scalar_field
from benchmarks.machine import machine
from benchmarks.measure import Effort
from benchmarks.operations import flops, operations
from benchmarks.peers import Unsupported, steps_a_save
from benchmarks.peers.kernel import make_kernel
from benchmarks.problems import PROBLEMS, Problem
from benchmarks.record import read, write
from benchmarks.report import markdown, pictures
from cubie_flow.errors import FlowError
from cubie_flow.expressions.evaluate import evaluate
from cubie_flow.kernels.targets.detect import toolkit_installed

Array = Any


class Pointer:
    """Numbers behind a bare pointer: what is read or written outside of them is a mistake."""

    def __init__(self, values: Array) -> None:
        self.values = values

    def __getitem__(self, i: int) -> float:
        assert 0 <= i < len(self.values)
        return float(self.values[i])

    def __setitem__(self, i: int, value: float) -> None:
        assert 0 <= i < len(self.values)
        self.values[i] = value


def expected(about: Problem, u: Array, p: float) -> Array:
    names = [state.name for state in about.system.states]
    values = dict(zip(names, u, strict=True)) | {about.varied: p, "t": 0.5}
    return np.asarray(evaluate(bound(about), values), np.float64)


@pytest.mark.parametrize("name", [n for n, p in PROBLEMS.items() if not p.large])
def test_peers_integrate_the_equations_of_the_graph(name: str) -> None:
    about = PROBLEMS[name]
    random = np.random.default_rng(1)
    u = about.start * (1.0 + 0.1 * random.random(len(about.start))) + 1e-3
    p = float(about.probed[1])
    right = expected(about, u, p)
    du = np.full(len(u), np.nan)
    scalar_field(about)(0.5, Pointer(u), Pointer(du), Pointer(np.asarray([p])))
    np.testing.assert_allclose(du, right, rtol=1e-12, atol=1e-12 * np.abs(right).max())
    many = np.repeat(u[:, None], 3, axis=1)
    found = field(about, np)(0.5, many, np.full(3, p))
    found = np.stack([np.broadcast_to(one, 3) for one in found])
    np.testing.assert_allclose(found[:, 2], right, rtol=1e-12, atol=1e-12 * np.abs(right).max())


def test_only_means_a_whole_name_or_all_that_hold_the_part() -> None:
    names = ["lorenz_f64_1024", "lorenz_f64_1024_100saves", "scaling"]
    assert chosen(names, "lorenz_f64_1024") == {"lorenz_f64_1024"}
    assert chosen(names, "f64, scal") == set(names)
    assert chosen(names, "") == set(names)
    with pytest.raises(FlowError, match=r"is 'lorens_f64_1024', which no case has in its name"):
        chosen(names, "lorens_f64_1024")


def test_every_set_is_among_all_and_names_are_unique() -> None:
    known = [case.name for case in everything()]
    assert len(known) == len(set(known))
    for made in SETS.values():
        names = [case.name for case in made()]
        assert len(names) == len(set(names))
    assert {case.name for made in (bars, sizes, saves) for case in made()} <= set(known)
    # Each first entry is ours at the nominal setting: its error is the goal.
    assert all(case.entries[0].peer == "kernel" for case in everything())


def test_fixed_steps_end_at_the_saved_times() -> None:
    case = fixed(64, saves=100)
    assert steps_a_save(case, case.entries[0]) == (10, 1e-3)
    assert len(case.times()) == 100
    assert case.times()[-1] == case.problem.duration
    with pytest.raises(Unsupported, match="do not end at the saved times"):
        steps_a_save(fixed(64, saves=99), case.entries[0])
    with pytest.raises(Unsupported, match="RK4"):
        steps_a_save(case, adaptive("lorenz", 64).entries[0])


def test_a_record_is_continued_and_only_where_it_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def measured(case: Case, effort: Effort, say: Any) -> dict[str, Any]:
        done.append(case.name)
        return {**case.as_dict(), "rows": [{"entry": "kernel", "peer": "kernel", "missing": "x"}]}

    def figure() -> dict[str, float]:
        done.append("scaling")
        if done.count("scaling") == 1:
            raise ValueError("busy")
        return {"speed_of_all_relative_to_one": 1.95}

    monkeypatch.setattr(running, "measure", measured)
    monkeypatch.setattr(running, "FIGURES", {"scaling": figure})
    out = tmp_path / "record.json"

    def again(only: str, peers: str = "") -> None:
        running.run("bars", only, peers, Effort(), out)

    again("scaling")
    again("hires")
    again("")
    assert done.count("scaling") == 2, "what failed is tried again"
    assert done.count("hires_f64_1000") == 1
    assert set(done) == {"scaling", *(case.name for case in bars())}
    before = len(done)
    again("")
    assert len(done) == before
    assert "| two threads compared with one | 1.9 x | 1.95 x | yes |" in markdown(read(out))

    with pytest.raises(FlowError, match="--peers is 'nobody', none of which is in"):
        running.run("bars", "hires", "nobody", Effort(), tmp_path / "other.json")
    record = read(out)
    record["machine"]["commit"] = "another"
    write(record, out)
    with pytest.raises(FlowError, match="a record with another commit"):
        again("")


def row(peer: str, us: float, error: float, **more: Any) -> dict[str, Any]:
    return {
        "entry": f"{peer} {more.get('rtol', 1e-8):.0e}", "peer": peer, "method": "tsit5",
        "rtol": 1e-8, "dt": None, "runs": 1024, "us": us, "us_spread": [us, us], "core_us": us,
        "error": error, "compile_s": None, "first_result_s": 1.0, "peak_bytes": 0, "rounds": 3,
    } | more  # fmt: skip


def test_the_table_of_losses_compares_at_equal_error() -> None:
    rows = [
        row("kernel", 1.0, 1e-8), row("heyoka", 0.5, 1e-8), row("diffrax", 0.2, 1e-5),
        row("diffrax", 0.8, 1e-9, rtol=1e-10), row("scipy", 3.0, 1e-9),
    ]  # fmt: skip
    case = {**adaptive("lorenz", 1024).as_dict(), "rows": rows}
    record = {"machine": machine(), "set": "all", "cases": [case], "figures": {}}
    said = markdown(record).split("## Where we lose")[1].split("##")[0]
    assert "heyoka" in said
    assert "diffrax 1e-10 | 0.800" in said, "the fast row misses the error and does not count"
    assert "diffrax 1e-08" not in said
    assert "scipy" not in said


def test_pictures_of_a_record_are_small(tmp_path: Path) -> None:
    cases = []
    for runs in (64, 1024):
        rows = [
            row(peer, us, error, method=method, runs=runs)
            for peer, method, us, error in (
                ("kernel", "tsit5", 1.0, 1e-8), ("kernel", "taylor_12", 0.5, 1e-10),
                ("heyoka", "taylor", 2.0, 1e-9), ("solve", "tsit5", 3.0, 1e-8),
            )
        ]  # fmt: skip
        cases.append({**adaptive("lorenz", runs).as_dict(), "rows": rows})
    cases.append({**fixed(64).as_dict(), "rows": [{"entry": "x", "peer": "x", "missing": "x"}]})
    record = {"machine": machine(), "set": "all", "cases": cases, "figures": {}}
    drawn = pictures(record, tmp_path)
    assert [path.name for path in drawn] == ["error.png", "runs.png"]
    assert all(2_000 < path.stat().st_size < 40_000 for path in drawn)
    assert "](runs.png)" in markdown(record, drawn)


@pytest.mark.skipif(not toolkit_installed(), reason="compiles for CUDA")
def test_the_gpu_parts_run_dry_and_are_resumed(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "gpu.json"
    parts = ("refill", "overlap")
    gpu.command(parts, out, dry=True, in_all=0.0)
    assert capsys.readouterr().out.count("run it again to continue") == len(parts)
    for _ in range(2):
        gpu.command(parts, out, dry=True)
    assert capsys.readouterr().out.count("registers") == len(parts), "none is done twice"
    done = read(out)["parts"]
    assert all(done[part]["compile"]["registers"] > 16 for part in parts), done
    with pytest.raises(FlowError, match="no part 'refil'; did you mean 'refill'"):
        gpu.command(["refil"], out, dry=True)


@pytest.mark.parametrize("method", ["rk4", "taylor_8"])
def test_the_simulator_stands_in_for_a_gpu(method: str) -> None:
    row = gpu.compared(method, "float64", "simulator", 2)
    assert row["identical"]
    assert row["same_steps"]
    assert row["failed"] == 0
    assert any(name == f"{method} float64" for name, _ in gpu.correctness(dry=True))


def test_taylor_is_timed_on_a_gpu_beside_our_other_methods() -> None:
    case = gpu.timing_case("taylor_12", "float64", 1024)
    assert case.entries[0].method == "taylor_12"
    assert {"tsit5", "vern7", "taylor_16"} <= {each.method for each in case.entries}
    assert [each.peer for each in case.entries].count("cuda_solve") == 1
    assert sum(name.startswith("taylor") for name, _ in gpu.roofline(dry=True)) == 2


def test_a_fast_peer_that_misses_the_error_is_not_the_best() -> None:
    rows = [row("kernel", 1.0, 1e-8), row("diffrax", 2.0, 1e-1), row("numbalsoda", 9.0, 1e-8)]
    assert ratio({"rows": rows}) == (9.0, "numbalsoda 1e-08 (1e-08)")
    missed = [row("kernel", 1.0, 1e-8), row("diffrax", 2.0, 1e-1), row("numbalsoda", 9.0, 2e-8)]
    assert ratio({"rows": missed})[0] == 9.0
    assert math.isnan(ratio({"rows": rows[:1]})[0])


def test_operations_are_those_of_one_step() -> None:
    # RK4 of Lorenz: at least 4 right-hand sides of 8 operations and 15 multiply-adds; fixed steps
    # are taken several in a pass.
    rk4, tsit5 = fixed(64), adaptive("lorenz", 64)
    assert 62 <= flops(operations(make_kernel(rk4, rk4.entries[0]))) < 110
    assert 240 < flops(operations(make_kernel(tsit5, tsit5.entries[0]))) < 330
