"""Whatever reads results works on every kind of study, or refuses it in one sentence."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from pathlib import Path

import pytest
import xarray as xr
from kinds import write_all
from matplotlib.figure import Figure

import cubie_flow
from cubie_flow.analysis import runs
from cubie_flow.analysis.cli import COMMANDS, main
from cubie_flow.analysis.opening import open_runs
from cubie_flow.analysis.pictures import KINDS
from cubie_flow.errors import FlowError

#: Kinds of which nothing but the table of jobs or of placements can be read.
NO_RUNS = ("multirun", "placements")
TIMELESS = ("no_times", "bare")
OVER_TIME = ("trajectories", "bands", "phase", "bifurcation")
#: Kinds whose audit integrates nothing, or runs of a kernel that others use too.
AUDITED = ("interrupted", "begun", "all_failed", "damaged", "job", *NO_RUNS)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    return write_all(tmp_path_factory.mktemp("kinds"))


NAMES = ("complete", "line", "one_run", "all_failed", "all_stopped", "no_times", "no_summaries",
         "bare", "damaged", "begun", "interrupted", "interrupted_grid", "multirun", "placements",
         "job", "url")  # fmt: skip


def commands(name: str, path: str) -> dict[str, list[str]]:
    """Every command as it is used on a result."""
    words = {
        "ls": [str(Path(path.split("::")[0]))] if "://" not in path else ["."],
        "show": [path, "--json"],
        "runs": [path, "--where", "status == 'success'", "--sort", "steps"],
        "compare": [path, path],
        "verify": [path],
        "watch": [path, "--once", "--json"],
        "report": [path, "-o", "report.html"],
        "export": [path, "table.csv", "--overwrite"],
    }
    if name in AUDITED:
        words["audit"] = [path]
    found = {command: [command, *rest] for command, rest in words.items()}
    for ending in ("parquet", "nc", "npz"):
        found[f"export {ending}"] = ["export", path, f"table.{ending}", "--overwrite"]
    for kind in KINDS:
        found[f"plot {kind}"] = ["plot", kind, path, "-o", "picture.png"]
    return found


def refused(name: str, command: str) -> bool:
    """Whether a command has nothing to work on in a kind of study."""
    kind = command.removeprefix("plot ")
    if command == "plot work_precision":
        return True
    if command == "watch":
        return name in ("job", "placements")
    if name in NO_RUNS:
        return not (command in ("ls", "show") or (name, kind) == ("placements", "placements"))
    if command == "plot placements":
        return True
    if kind == "heatmap":
        return name not in ("complete", "interrupted_grid")
    if name == "begun":
        return command.startswith(("export", "plot")) or command == "audit"
    if name == "damaged":
        whole = ("compare", "verify", "report", "audit", "plot overview")
        return command in whole or command.startswith("export")
    if kind in OVER_TIME and name in TIMELESS:
        return True
    if name in ("all_failed", "job") and command == "audit":
        return True
    return (name, kind) == ("one_run", "bifurcation")


# The study at a URL is the same as the line.
@pytest.mark.parametrize("name", sorted({*NAMES} - {"line"}))
def test_every_command(
    name: str,
    places: Mapping[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    # A picture of few dots is drawn as well as one of many.
    monkeypatch.setattr("cubie_flow.analysis.pictures.style.Picture._bytes", _small)
    told = commands(name, places[name])
    assert {words[0] for words in told.values()} >= set(COMMANDS) - {"audit"}
    for command, words in told.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            code = main(words)
        output, error = capsys.readouterr()
        assert code == int(refused(name, command)), (command, error)
        if code and command != "verify":
            (line,) = [text for text in error.splitlines() if not text.startswith("audited")]
            assert line.startswith("cubie-results: "), command
            assert "Error" not in line, command
        if command == "show":
            assert json.loads(output)["study"]


def _small(picture: Figure, *_: object) -> bytes:
    picture.set_dpi(12)
    file = BytesIO()
    picture.canvas.print_png(file)  # type: ignore[attr-defined]
    return file.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_every_method(name: str, places: Mapping[str, str]) -> None:
    opened = cubie_flow.open_results(places[name].split("::")[0])
    if isinstance(opened, xr.DataTree):
        assert opened.flow.jobs()["ended"].tolist() == ["success", "success", "failed"]
        assert "job 2: duration is missing" in repr(opened)
        assert "<pre>" in opened._repr_html_()
        assert list(opened.flow.sel_runs("q > 5").children) == ["job_0", "job_1"]
        if name == "multirun":
            return
    data = opened if name == "placements" else open_runs(places[name])
    parts = {"all": data}
    if "run" in data.sizes:
        parts |= {"none": data.isel(run=slice(0)), "reversed": data.isel(run=slice(None, None, -1))}
    for part, chosen in parts.items():
        flow = chosen.flow
        assert "study" in repr(flow), part
        assert "study" in flow._repr_html_(), part
        assert flow.config()["duration"] == 2.0
        for call in (
            flow.unfold, flow.failed, flow.summary, flow.memory, flow.buffers, flow.shards,
            partial(flow.sel_runs, "steps > 1"), partial(flow.rerun, 9), flow.plot,
        ):  # fmt: skip
            error = _refusal(call)
            assert len(error.splitlines()) <= 1, error


def _refusal(call: Callable[[], object]) -> str:
    """Return why a call is refused; an error or warning of another kind is raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            call()
        except FlowError as error:
            return str(error)
    return ""


def test_only_written_runs_are_drawn_compared_and_exported(
    places: Mapping[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = open_runs(places["interrupted"])
    written = runs.written(data)
    assert written.sizes["run"] == 20
    assert written.run.values.tolist() == list(range(20))
    picture = data.flow.plot()
    assert "20 of 48 runs" in picture.get_suptitle()
    low, high = picture.axes[0].get_xlim()
    assert (low, high) == (written.q.values.min(), written.q.values.max())
    assert main(["compare", places["interrupted"], places["interrupted"]]) == 0
    output = capsys.readouterr().out
    assert "runs: 20 in both (by their positions), of 20 and 20" in output
    assert "not written yet, and left out: 28 and 28" in output
    target = tmp_path / "runs.csv"
    assert main(["export", places["interrupted"], str(target)]) == 0
    assert "28 runs are left out, as they are not written yet" in capsys.readouterr().out
    assert len(target.read_text().splitlines()) == 1 + 20
    with pytest.raises(FlowError, match=r"run 29 is not written yet, so its values are not known"):
        data.flow.rerun([3, 29])


def test_a_tree_opens_a_job_when_it_is_asked_for(
    places: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cubie_flow.analysis import opening

    opened: list[str] = []
    true = opening.open_group

    def counted(location: object, group: str, *rest: object) -> xr.Dataset:
        opened.append(group)
        return true(location, group, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(opening, "open_group", counted)
    tree = cubie_flow.open_results(places["multirun"])
    assert isinstance(tree, xr.DataTree)
    assert (repr(tree), len(tree.children), "job_1" in tree)[1:] == (2, True)
    assert opened == [""]
    assert tree["job_1"]["q"].sizes == {"run": 48}
    assert tree["job_1"].parent is tree
    assert opened == ["", "job_1"]
    # What xarray makes of it is an ordinary tree.
    means = tree.map_over_datasets(lambda data: data.mean("run") if "run" in data.dims else data)
    assert means["job_0/x_max"].item() == tree["job_0/x_max"].mean().item()
    assert type(tree.copy()["job_0"]) is xr.DataTree


def test_a_folder_is_listed_once_and_its_files_are_not_read(
    places: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cubie_flow.storage import inspection

    read: list[Path] = []
    true = inspection.read_json

    def counted(path: Path) -> dict[str, object]:
        read.append(path)
        return true(path)

    monkeypatch.setattr(inspection, "read_json", counted)
    folder = Path(places["line"])
    (folder / "location.json").write_text('{"address": "results.zarr"}')
    assert main(["ls", str(folder.parent), "--json"]) == 0
    rows = {Path(row["path"]).name: row for row in json.loads(capsys.readouterr().out)}
    assert len(rows) == len(NAMES) - 2  # a job and a URL are not folders
    assert rows["line"]["ended"] == "success 48"
    assert rows["multirun"]["ended"] == "3 jobs: success 2, failed 1, 48 runs failed"
    assert len(read) == len(rows)
