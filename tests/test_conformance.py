"""The harness: its reference against closed forms, and faults put in on purpose, which it finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import evolve

from benchmarks.conformance import campaign, command, public
from benchmarks.conformance.case import Case, read_case, write_case
from benchmarks.conformance.examination import examine
from benchmarks.conformance.generator import draw
from benchmarks.conformance.metamorphic import CHECKS
from benchmarks.conformance.reference import Disturbance, NoReferenceError, Reference
from cubie_flow import OdeSystem
from cubie_flow.integrators.switches import SwitchFinder
from cubie_flow.kernels import launch
from cubie_flow.study import kernel

Array = Any

#: A pulse in time, a start value from a parameter, an event, and terms that may be left out.
SMALL = Case(
    "small",
    {
        "name": "small",
        "parameters": {"a": 0.7, "k": 0.8, "s": 1.4},
        "states": {"x": "2*a", "y": 0.5},
        "equations": {
            "x": "-k*x + where((t > s) and (t < s + 0.3), 2, 0)",
            "y": "-0.5*y + 0.3*x",
        },
        "observables": {"total": "x + y"},
        "events": {"low": {"when": "x < 0.6", "set": {"y": "y + 0.2"}}},
    },
    {"a": [0.7, 0.8, 0.65, 0.72], "s": [1.4, 1.3, 1.5, 2.0]},
    4.0,
    times=[0.0, 1.0, 2.5, 4.0],
    switches=[{"at": "s"}, {"at": "s + 0.3"}],
    atol=1e-9,
    lanes=2,
    features=["switches in time", "events"],
)
#: Without the event, whose counts a pulse that is not seen would change; the pulse is narrow.
CALM = evolve(
    SMALL,
    model={
        **{key: value for key, value in SMALL.model.items() if key != "events"},
        "equations": {
            "x": "-k*x + where((t > s) and (t < s + 0.01), 60, 0)",
            "y": "-0.5*y + 0.3*x",
        },
    },
    switches=[{"at": "s"}, {"at": "s + 0.01"}],
)


def reference(model: dict[str, Any], duration: float, **more: Any) -> Any:
    case = Case("one", model, {}, duration, **more)
    return Reference(case).run(0)


# the reference -------------------------------------------------------------------------------


def test_the_reference_knows_the_impacts_of_a_ball() -> None:
    ball = {
        "states": {"h": 10.0, "v": 0.0},
        "equations": {"h": "v", "v": "-9.81"},
        "events": {"hit": {"root": "h", "direction": "falling", "set": {"v": "-0.9*v"}}},
    }
    found = reference(ball, 10.0)
    first = np.sqrt(20 / 9.81)
    right = first + np.concatenate([[0.0], np.cumsum(2 * first * 0.9 ** np.arange(1, 4))])
    assert found.counts == {"hit": 4}
    assert np.allclose(found.times["hit"], right, rtol=1e-11)


def test_the_reference_lands_on_switches_doses_and_series() -> None:
    model = {
        "parameters": {"k": 0.5},
        "states": {"x": "2*k", "y": 0.0, "z": 0.0},
        "equations": {
            "x": "-k*x + where(t - 2*floor(t/2) < 0.01, 100, 0)",
            "y": "-y",
            "z": "u",
        },
        "doses": [
            {"into": "y", "amount": 3.0, "at": [1.0, 1.5]},
            {"into": "z", "amount": 2.0, "duration": 0.25, "start": 0.5, "every": 1.0, "count": 2},
        ],
        "drivers": {"u": {"times": [0, 1, 3], "values": [0, 2, 0], "outside": "zero"}},
    }
    switches = [{"start": "0", "every": "2"}, {"start": "0.01", "every": "2"}]
    found = reference(model, 3.0, switches=switches, times=[1.0, 3.0])
    pulse = 200 * (1 - np.exp(-0.005))
    x = np.exp(-1.5) + pulse * (np.exp(-0.5 * 2.99) + np.exp(-0.5 * 0.99))
    y = 3 * (np.exp(-2.0) + np.exp(-1.5))
    assert np.allclose(found.final, [x, y, 3.0 + 4.0], rtol=1e-9)
    # What is saved at the time of a dose is what it leaves.
    assert found.saved[1].tolist() == pytest.approx([3.0, y], rel=1e-9)


def test_a_disturbance_shows_how_much_a_run_amplifies() -> None:
    growth = {"states": {"x": 1.0}, "equations": {"x": "3*x"}}
    about = Reference(Case("growth", growth, {}, 2.0))
    right = about.run(0)
    other = about.run(0, Disturbance(1e-6, 0, np.array([1.0])))
    # One part in a million more at the start, in the rate, or in both.
    amplified = abs(other.final[0] - right.final[0]) / 1e-6 / right.final[0]
    assert 4.0 < amplified < 8.0


# cases ---------------------------------------------------------------------------------------


def test_a_case_is_the_same_every_time_and_in_a_file(tmp_path: Path) -> None:
    cases = [draw(3, number) for number in range(8)]
    again = [draw(3, number) for number in range(8)]
    assert cases == again
    drawn = [case for case in cases if case is not None]
    assert len(drawn) >= 6
    for case in drawn:
        write_case(tmp_path / "case.yaml", case, kind="values")
        read, about = read_case(tmp_path / "case.yaml")
        assert read == case
        assert about == {"kind": "values"}


def test_a_right_program_has_no_disagreements() -> None:
    found = examine(SMALL, ["order", "cost", "threads", "rescue", "rewritten", "shards"])
    assert found.findings == []
    assert found.judged == 2


def test_a_campaign_counts_and_keeps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = campaign.Plan(seed=2, start=71, count=1, jobs=0, out=tmp_path / "out", shrinking=3.0)
    totals = campaign.campaign(plan, say=print)
    told = capsys.readouterr().out
    assert totals.cases == 1
    assert "seed 2, from case 71" in told
    assert "1 models in" in told
    assert len(list((tmp_path / "out").glob("*.yaml"))) == sum(totals.kinds.values())


# faults on purpose ---------------------------------------------------------------------------


def changed(patch: pytest.MonkeyPatch, change: Callable[[launch.BatchResult], Any]) -> None:
    """Let every result of a kernel be changed."""
    solve = launch.Launch.solve

    def wrong(self: Any, *args: Any, **more: Any) -> launch.BatchResult:
        result = solve(self, *args, **more)
        change(result)
        return result

    patch.setattr(launch.Launch, "solve", wrong)


def wrong_final(result: launch.BatchResult) -> None:
    result.finals[0] *= 1 + 1e-4


def shifted_counts(result: launch.BatchResult) -> None:
    if len(result.event_counts):
        result.event_counts[0, 1:] = result.event_counts[0, :-1] + 1


def by_position(result: launch.BatchResult) -> None:
    result.finals[0, 1::2] *= 1 + 4e-16


def lost_run(result: launch.BatchResult) -> None:
    result.status[0] = 2


def late_sample(result: launch.BatchResult) -> None:
    if result.samples.size:
        result.samples[0, :, -1] = result.samples[0, :, 0]


def frozen_starts(patch: pytest.MonkeyPatch) -> None:
    read = OdeSystem.from_mapping

    def frozen(model: Any) -> OdeSystem:
        system = read(model)
        states = tuple(evolve(state, start=None) for state in system.states)
        return evolve(system, states=states)

    patch.setattr(OdeSystem, "from_mapping", frozen)


def without_switches(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SwitchFinder, "is_timed", lambda self, node: False)


FAULTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str, list[str]]] = {
    "a final value": (lambda patch: changed(patch, wrong_final), "values", []),
    "event counts": (lambda patch: changed(patch, shifted_counts), "counts", []),
    "a saved value": (lambda patch: changed(patch, late_sample), "values", []),
    "a status": (lambda patch: changed(patch, lost_run), "lost runs", []),
    "start values": (frozen_starts, "start values", []),
    "a switch": (without_switches, "values", []),
    "the order of runs": (lambda patch: changed(patch, by_position), "bits of order", ["order"]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_and_made_small(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put, kind, checks = FAULTS[name]
    put(monkeypatch)
    # No kernel of another test, which may lack the fault.
    monkeypatch.setattr(kernel, "_recent", {})
    case = CALM if name == "a switch" else SMALL
    found = examine(case, checks)
    kinds = [finding.kind for _, finding in found.findings]
    assert kind in kinds, found.findings
    at, finding = found.findings[kinds.index(kind)]
    path = campaign.keep(at, finding, checks, found, tmp_path, 3.0)
    small, about = read_case(path)
    assert about["kind"] == kind
    assert len(path.read_text(encoding="utf-8")) < 1100
    assert small.runs <= 2
    assert len(small.model["states"]) <= len(case.model["states"])
    # The kept case shows the fault again, and agrees where there is none.
    assert command.replay([path]) == 1
    monkeypatch.undo()
    kernel._recent.clear()
    assert command.replay([path]) == 0


def test_every_check_has_a_description() -> None:
    assert all(check.__doc__ for check in CHECKS.values())


# public models -------------------------------------------------------------------------------

CELLML = """<?xml version="1.0"?>
<model xmlns="http://www.cellml.org/cellml/1.0#" name="window"
       xmlns:cellml="http://www.cellml.org/cellml/1.0#">
<units name="ms"><unit units="second" prefix="milli"/></units>
<units name="mV"><unit units="volt" prefix="milli"/></units>
<component name="c">
<variable name="t" units="ms"/>
<variable name="V" units="mV" initial_value="1"/>
<variable name="inside" units="ms" initial_value="0"/>
<variable name="pace" units="mV" initial_value="0"/>
<math xmlns="http://www.w3.org/1998/Math/MathML">
<apply><eq/><apply><diff/><bvar><ci>t</ci></bvar><ci>pace</ci></apply>
<apply><diff/><bvar><ci>t</ci></bvar><ci>V</ci></apply></apply>
<apply><eq/><apply><diff/><bvar><ci>t</ci></bvar><ci>V</ci></apply>
<apply><times/><cn cellml:units="ms">-1e-2</cn><ci>V</ci></apply></apply>
<apply><eq/><apply><diff/><bvar><ci>t</ci></bvar><ci>inside</ci></apply>
<piecewise><piece><cn cellml:units="ms">1</cn><apply><and/>
<apply><lt/><ci>V</ci><cn cellml:units="mV">0.2</cn></apply>
<apply><gt/><ci>V</ci><cn cellml:units="mV">0.199</cn></apply></apply></piece>
<otherwise><cn cellml:units="ms">0</cn></otherwise></piecewise></apply>
</math></component></model>
"""


def test_the_reference_of_cells_lands_on_windows_and_orders_rates(tmp_path: Path) -> None:
    pytest.importorskip("libcellml")
    path = tmp_path / "window.cellml"
    path.write_text(CELLML)
    right = public.cellml_right(path)
    # A second of milliseconds, and an action potential of millivolts.
    assert (right.times[-1], right.voltage, right.peak) == (1000.0, "V", pytest.approx(50.0))
    decayed = np.exp(-0.01 * right.times)
    assert np.allclose(right.values["V"], decayed, rtol=1e-6, atol=1e-9)
    assert np.allclose(right.values["pace"], decayed - 1.0, rtol=1e-6, atol=1e-9)
    assert right.values["inside"][-1] == pytest.approx(100 * np.log(0.2 / 0.199), rel=1e-5)
    several = public.rows(path, ("rodas5p", "bdf"))
    assert [row.verdict for row in several] == ["agrees", "agrees"]
    assert [row.peaked for row in several] == [False, False]


def test_a_difference_is_one_of_tolerance_if_a_tighter_one_agrees() -> None:
    def verdict(error: float, finer: float, **more: Any) -> str:
        return public.Row(
            "m", "bdf", more.pop("status", "success"), error, finer=finer, **more
        ).verdict

    assert verdict(1e-4, np.nan) == "agrees"
    assert verdict(0.1, 1e-5) == "tolerance"
    assert verdict(0.1, 0.008) == "tolerance"
    assert verdict(0.1, 0.09) == "differs"
    assert verdict(1e-5, 1e-5, status="step_limit", peaked=False, right_peaked=True) == "differs"
    assert verdict(np.nan, np.nan, status="refused") == "refused"


def test_events_that_pile_up_have_no_reference() -> None:
    ball = {
        "states": {"h": 1.0, "v": 0.0},
        "equations": {"h": "v", "v": "-9.81"},
        "events": {"hit": {"root": "h", "direction": "falling", "set": {"v": "-0.5*v"}}},
    }
    with pytest.raises(NoReferenceError, match="faster and faster"):
        reference(ball, 10.0)
