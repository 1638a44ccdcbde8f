"""Audits: the estimated error is the true one, and chaos is called by its name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from settling import study, written

import cubie_flow
from cubie_flow.analysis.audit import audit
from cubie_flow.analysis.audited import sentences
from cubie_flow.analysis.cli import main
from cubie_flow.analysis.estimates import sample
from cubie_flow.analysis.references import accuracy_for, methods_for
from cubie_flow.api import ControllerChoice, OutputChoice
from cubie_flow.batches import make_design
from cubie_flow.errors import FlowError
from cubie_flow.storage import ResultStore
from cubie_flow.systems import OdeSystem


@pytest.fixture(scope="module")
def decay() -> OdeSystem:
    return OdeSystem.from_equations("x' = -k * x", states={"x": 1.0}, parameters={"k": 0.5})


RATES = make_design("grid", {"k": {"linspace": [0.5, 2.0, 40]}})


@pytest.mark.parametrize(
    "more",
    [
        {"controller": ControllerChoice(rtol=1e-5, atol=1e-5)},
        {"algorithm": "rk4", "controller": ControllerChoice(dt=0.1)},
    ],
    ids=["adaptive", "fixed"],
)
def test_the_estimated_error_is_the_true_error(
    decay: OdeSystem, tmp_path: Path, more: dict[str, object]
) -> None:
    made = study(decay, design=RATES, output=OutputChoice(save_every=0.5), **more)
    folder = written(made, tmp_path)
    table = audit(folder, fraction=0.5)
    data = cubie_flow.open_results(folder)
    runs = table.run.values
    assert len(runs) == 20
    true = np.abs(data.x_final.values[runs] - np.exp(-4.0 * data.k.values[runs]))
    np.testing.assert_allclose(table.x_error, true, rtol=0.01)
    scale = np.exp(-4.0 * data.k.values[runs]) + 1.0
    np.testing.assert_allclose(table.error, true / scale, rtol=0.01)
    assert table.resolved.all()
    assert np.isnan(table.parted_at).all()
    exact = np.exp(-np.outer(data.k.values[runs], data.time.values))
    over = (np.abs(data.x.values[runs] - exact) / (exact + 1.0)).max(axis=1)
    np.testing.assert_allclose(table.error_over_time, over, rtol=0.01)
    # It is in the store, the summary says it, and the study is as it was.
    xr.testing.assert_identical(table, xr.open_zarr(folder / "results.zarr", group="audit").load())
    worst = int(runs[table.error.values.argmax()])
    assert f"worst {float(table.error.max()):.0e} (run {worst})" in str(data.flow.summary())
    assert ResultStore.open(folder / "results.zarr").damaged() == []


def test_a_chaotic_run_has_no_reference_at_its_end(lorenz: OdeSystem, tmp_path: Path) -> None:
    chaotic = study(
        lorenz,
        design=make_design("grid", {"rho": {"linspace": [28.0, 29.0, 8]}}),
        duration=40.0,
        controller=ControllerChoice(rtol=1e-5, atol=1e-5),
        output=OutputChoice(save_every=0.25),
    )
    table = audit(written(chaotic, tmp_path))
    assert table.resolved.sum() <= 1
    assert (table.reference_error > 0.01).sum() >= 6
    assert (table.parted_at > 3).all()
    assert (table.parted_at < 30).all()
    told = sentences(table)
    assert "have no reference at their end" in " ".join(told)
    assert "they part from it by 1 % at a time of" in " ".join(told)


def test_the_sample_is_seeded_and_ended_well(kept: Path) -> None:
    data = cubie_flow.open_results(kept)
    assert isinstance(data, xr.Dataset)
    chosen = sample(data, 0.3, seed=5)
    assert len(chosen) == 18
    assert (np.diff(chosen) > 0).all()
    assert (data.status.values[chosen] == 0).all()
    np.testing.assert_array_equal(chosen, sample(data, 0.3, seed=5))
    assert not np.array_equal(chosen, sample(data, 0.3, seed=6))
    assert len(sample(data, 1e-6)) == 8
    with pytest.raises(FlowError, match="no run of this result ended well"):
        sample(data.isel(run=(data.status == 1).values))


def test_an_audit_replaces_the_last_one(folder: Path) -> None:
    audit(folder, fraction=0.5, seed=1)
    table = audit(folder, seed=2)
    data = cubie_flow.open_results(folder)
    assert json.loads(table.attrs["reference"])["rtol"] == pytest.approx(1e-9)
    kept = xr.open_zarr(folder / "results.zarr", group="audit")
    assert kept.sizes["audited"] == 8
    assert kept.attrs["seed"] == 2
    assert "of 8 runs" in str(data.flow.summary())
    # Of other runs it says nothing.
    assert "audited" not in str(data.flow.failed().flow.summary())


@pytest.mark.parametrize(
    ("given", "told"), [({"fraction": 0.0}, "fraction is 0"), ({"tighter": 1.0}, "tighter is 1")]
)
def test_what_is_no_audit(kept: Path, given: dict[str, float], told: str) -> None:
    with pytest.raises(FlowError, match=told):
        audit(kept, **given)  # type: ignore[arg-type]


def test_references_are_finer_in_every_respect(decay: OdeSystem) -> None:
    tight = study(decay, controller=ControllerChoice(rtol=1e-12, atol={"x": 1e-14}, dt_min=1e-3))
    found = accuracy_for(tight, {"x": 1e-3}, 1000.0, (4.0, 4.0))
    assert found.rtol == {"x": 1e-13}
    assert found.atol == {"x": 1e-17}
    assert found.dt_max == 0.004
    loose = study(decay, controller=ControllerChoice(rtol=1e-6, atol=1.0))
    # The absolute tolerance follows the size of the state in the result, if that is not rounding.
    assert accuracy_for(loose, {"x": 1e-3}, 1000.0, (0.4, 4.0)).atol["x"] == pytest.approx(1e-12)
    assert accuracy_for(loose, {"x": 1e-30}, 1000.0, (0.4, 4.0)).atol["x"] == pytest.approx(1e-24)
    # Without one, it follows the largest start value of the batch.
    assert accuracy_for(loose, {"x": 0.0}, 1000.0, (0.4, 4.0)).atol["x"] == pytest.approx(1e-8)
    assert accuracy_for(loose, {}, 1000.0, (0.0, 4.0)).dt_max == pytest.approx(2e-4)


@pytest.mark.parametrize(
    ("algorithm", "methods"),
    [
        ("tsit5", ("radau_iia_5", "kvaerno5")),
        ("taylor_12", ("radau_iia_5", "kvaerno5")),
        ("rodas5p", ("radau_iia_5", "kvaerno5")),
        ("radau_iia_9", ("kvaerno5", "vern7")),
        ("kencarp4", ("radau_iia_5", "vern7")),
        ("bdf", ("radau_iia_5", "kvaerno5")),
    ],
)
def test_references_are_of_another_family(
    decay: OdeSystem, algorithm: str, methods: tuple[str, ...]
) -> None:
    assert methods_for(study(decay, algorithm=algorithm)) == methods


def test_what_was_measured_is_told_where_the_store_may_only_be_read(
    decay: OdeSystem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuses(*_: object) -> None:
        raise FlowError("it cannot be written: Permission denied")

    folder = written(study(decay, design=RATES, output=OutputChoice(save_every=0.5)), tmp_path)
    monkeypatch.setattr(ResultStore, "put_group", refuses)
    capsys.readouterr()
    assert main(["audit", str(folder)]) == 0
    told = capsys.readouterr()
    assert "audited error  median" in told.out
    assert "not kept: it cannot be written: Permission denied" in told.err
    with pytest.raises(FlowError, match="cannot be written"):
        audit(folder)
