"""Every experiment runs, and its analysis works from the store alone."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import xarray

from cubie_flow.cli.app import main
from cubie_flow.config.schema import shipped
from cubie_flow.kernels.targets.detect import toolkit_installed

EXPERIMENTS = sorted(path.parent.name for path in shipped("experiments").glob("*/experiment.yaml"))
#: What makes each of them short.
SHORT = {
    "buffer_locations": ["buffers.sweep=[state]", "duration=0.2"],
    "hodgkin_huxley": ["batch.values.I_ext.linspace=[4,10,16]", "duration=300"],
    "lorenz_sweep": ["batch.size=60"],
    "lotka_volterra": [
        "batch.values.prey.linspace=[30,60,6]",
        "batch.values.predator.linspace=[10,40,5]",
    ],
    "mackey_glass": ["batch.values.tau.linspace=[4.4,5.2,9]", "duration=600"],
    "repressilator": [
        "batch.values.alpha.logspace=[1,1000,8]",
        "batch.values.n.linspace=[1,4,8]",
    ],
    "robertson": ["batch.size=64"],
    "stiff_suite": ["batch.values.k1.logspace=[1e-3,0.1,4]"],
    "van_der_pol": ["batch.values.mu.logspace=[0.1,12,6]", "duration=100"],
}
#: What the analysis says, with numbers that theory or literature knows: pattern, low, high.
TELLS = {
    "buffer_locations": [(r"state=(register|local|shared)", None, None)],
    # The current from which an axon fires without end: 6.26 (Rinzel and Miller 1980).
    "hodgkin_huxley": [(r"lowest +([\d.]+) uA", 6.2, 6.8), (r"at ([\d.]+) Hz", 50, 60)],
    "lorenz_sweep": [(r"0 to +1 +([\d.]+)", 0, 1e-3), (r"30 to +40 +[\d.]+ +([\d.]+)", 20, 45)],
    "lotka_volterra": [(r"periods from ([\d.]+)", 9.47, 9.6), (r"orbits is ([\d.]+)", 9.47, 9.48)],
    # The equilibrium loses its stability at 4.71.
    "mackey_glass": [(r"oscillates from tau = ([\d.]+)", 4.6, 5.0)],
    "repressilator": [(r"agrees in ([\d.]+)%", 90, 100), (r"runs; ([\d.]+)% oscill", 20, 80)],
    # Robertson's own rates give a fraction of C of 0.3828 at 100 s.
    "robertson": [(r"100 +[\d.]+ +[\d.]+ +([\d.]+)", 0.36, 0.41), (r"k3 -([\d.]+)", 0.2, 1)],
    "stiff_suite": [(r"within ([\d.e-]+)", 0, 1e-9)],
    "van_der_pol": [
        (r"series +at most ([\d.e-]+)", 0, 1e-4),
        (r"asymptotic +at most ([\d.e-]+)", 0, 0.02),
    ],
}


def test_every_experiment_is_tested() -> None:
    elsewhere = {
        name for name in EXPERIMENTS if (Path(__file__).parents[1] / f"test_{name}.py").exists()
    }
    assert set(SHORT) == set(TELLS) == set(EXPERIMENTS) - elsewhere


@pytest.mark.parametrize("name", sorted(SHORT))
def test_it_runs_and_is_analysed(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if name == "buffer_locations" and not toolkit_installed():
        pytest.skip("needs the CUDA compiler, which compiles the placements")
    monkeypatch.chdir(tmp_path)
    words = [f"experiment={name}", "engine.progress=false", "storage.picture=false"]
    assert main([*words, *SHORT[name]]) == 0, capsys.readouterr().err
    (store,) = tmp_path.glob("outputs/*/*/*/results.zarr")
    capsys.readouterr()
    # A store is enough: it is analysed elsewhere, without the folder it came from.
    moved = tmp_path / "elsewhere" / "results.zarr"
    moved.parent.mkdir()
    store.rename(moved)
    monkeypatch.setattr(sys, "argv", ["analyse.py", str(moved), str(tmp_path / "picture.png")])
    runpy.run_path(str(shipped("experiments") / name / "analyse.py"), run_name="__main__")
    told = capsys.readouterr().out
    picture = (tmp_path / "picture.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000
    if name == "buffer_locations":
        # The tables of docs/placement.md are made from such a store.
        tables = runpy.run_path(str(shipped("experiments") / name / "tables.py"))
        ranked = xarray.open_zarr(moved)
        lines = tables["table"](ranked).splitlines()
        assert lines[0].startswith("| rank | placement |")
        assert len(lines) == 2 + ranked.sizes["placement"]
    for pattern, low, high in TELLS[name]:
        match = re.search(pattern, told)
        assert match, f"{pattern} in {told}"
        if low is not None:
            assert low <= float(match[1]) <= high, match[0]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_its_readme_has_a_picture_that_is_there_and_small(name: str) -> None:
    folder = shipped("experiments") / name
    pictures = re.findall(r"!\[.+\]\((.+)\)", (folder / "README.md").read_text(encoding="utf-8"))
    assert pictures
    for picture in pictures:
        assert 5_000 < (folder / picture).stat().st_size < 250_000, picture


def test_no_experiment_becomes_a_default_study_by_accident() -> None:
    systems = {path.stem for path in (shipped("conf") / "system").glob("*.yaml")}
    defaults = {f"{name}_sweep" for name in systems} & set(EXPERIMENTS)
    assert defaults == {"lorenz_sweep"}


def test_an_analysis_without_a_result_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    script = str(shipped("experiments") / "robertson" / "analyse.py")
    for arguments, told in (
        ([], "experiment=robertson"),
        (["nope"], "'nope' does not exist"),
        (["a", "b", "c"], "nothing else"),
    ):
        monkeypatch.setattr(sys, "argv", ["analyse.py", *arguments])
        with pytest.raises(SystemExit, match=told):
            runpy.run_path(script, run_name="__main__")
