"""One small study of every kind, for tests of whatever reads results.

All studies integrate one model. Its parameter ``q`` decides how a run ends: it decays (0 to 10),
is stopped by an event (10 to 11) or grows without bound (below 0). So a few kernels serve all.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cubie_flow.api import ControllerChoice, OutputChoice, Study, TargetChoice, run_study
from cubie_flow.batches import make_design
from cubie_flow.placement.compiler_stats import CompilerStats
from cubie_flow.placement.ranking import PlacementStudy, save
from cubie_flow.process.signals import Stopped
from cubie_flow.storage import Location, provenance
from cubie_flow.storage.index import FAILED, SUCCESS, write_index
from cubie_flow.study.to_config import to_config
from cubie_flow.systems import OdeSystem

MODEL = {
    "name": "kinds",
    "states": {"x": 1.0, "y": 0.5},
    "parameters": {"q": 1.0, "r": 1.0},
    "equations": {"x": "where(q < 0, 5*x*x, -0.5*r*x)", "y": "x - r*y"},
    "events": {"low": {"root": "x - (q - 10)", "direction": "falling", "stop": True}},
}
TWO = {"q": [0.5, 1.0, 2.0, 4.0, 6.0, 8.0], "r": [0.5, 1.0, 2.0, 4.0]}
#: Shards that are written of the studies that are not complete.
WRITTEN = {"begun": 0, "interrupted": 1, "interrupted_grid": 1}
TIMED = OutputChoice(save_every=0.25, summaries=["x"])


def line(low: float, high: float) -> Any:
    """A sweep of ``q`` alone."""
    return make_design("zip", {"q": {"linspace": [low, high, 48]}})


def make(name: str, design: Any, output: OutputChoice = TIMED) -> Study:
    """Return the study of a kind; it has two or three shards."""
    return Study(
        name=name,
        system=OdeSystem.from_mapping(MODEL),
        design=design,
        duration=2.0,
        precision="float64",
        controller=ControllerChoice(rtol=1e-6, atol=1e-9, max_steps=200),
        output=output,
        target=TargetChoice("cpu", threads=1),
        shard_runs=20,
    )


def write(study: Study, place: Location, shards: int | None = None) -> None:
    """Write a study as the application does; stop it once some shards are written."""
    done = 0

    def begun() -> None:
        if shards == 0:
            raise Stopped("nothing", 3)

    def count(seconds: float) -> None:
        nonlocal done
        done += seconds > 0  # it is also called before the first shard
        if done and done == shards:
            raise Stopped("enough", 3)

    with suppress(Stopped):
        run_study(study, place, config_yaml=to_config(study), overrides=["batch.size=24"],
                  between_shards=count, on_created=begun)  # fmt: skip


def write_multirun(root: Location) -> None:
    """Write two jobs that ended, one with failed runs, and one that failed."""
    jobs = [make("jobs", line(0.5, 9.0)), make("jobs", line(-2.0, -1.0))]
    rows: list[dict[str, Any]] = []
    for i, study in enumerate((*jobs, None)):
        runs = {} if study is None else {"runs": 48, "runs_failed": 48 * i}
        ended = {"job_status": FAILED if study is None else SUCCESS, "error": ""}
        if study is None:
            ended["error"] = "duration is missing"
        row = {"group": f"job_{i}", "overrides": f"duration={i}", "duration": str(i)}
        rows.append({**row, **runs, **ended})
    attrs = {**provenance(), "study": "jobs"}
    write_index(root, rows, attrs, ["duration"])
    for i, study in enumerate(jobs):
        write(study, root.child(f"job_{i}"))
    write_index(root, rows, attrs, ["duration"], finished=True)


def write_placements(folder: Path) -> None:
    """Write the result of a placement study, of which one placement does not fit."""
    common = {"shared_run": 4, "registers": 40, "stack": 8, "spill_stores": 4, "spill_loads": 4,
              "shared_block": 512, "block_size": 128, "occupancy": 0.5, "limiter": "registers",
              "ld_shared": 2, "st_shared": 2, "ptx_hash": "1", "trajectories": ()}  # fmt: skip
    stats = [
        CompilerStats(placement={"state": "local"}, problem="", **common),  # type: ignore[arg-type]
        CompilerStats(placement={"state": "shared"}, problem="too large", **common),  # type: ignore[arg-type]
    ]
    ranked = PlacementStudy(stats, [float("nan")] * 2, {"cpu": ["baseline", "equal"]}, 0, None)
    study = make("placements", line(0.5, 9.0))
    save(ranked.dataset(study, [], to_config(study)), folder / "results.zarr")


def write_all(folder: Path) -> Mapping[str, str]:
    """Write a study of every kind below a folder; return the path or URL of each."""
    studies = {
        "complete": make("complete", make_design("grid", TWO)),
        "line": make("line", line(0.5, 9.0)),
        "one_run": make("one_run", make_design("single", {})),
        "all_failed": make("all_failed", line(-2.0, -1.0)),
        "all_stopped": make("all_stopped", line(10.45, 10.9)),
        "no_times": make("no_times", line(0.5, 9.0), OutputChoice(summaries=["x"])),
        "no_summaries": make("no_summaries", line(0.5, 9.0), OutputChoice(save_every=0.25)),
        "bare": make("bare", line(0.5, 9.0), OutputChoice(summaries=[])),
        "damaged": make("damaged", line(0.5, 9.0)),
        "begun": make("begun", line(0.5, 9.0)),
        "interrupted": make("interrupted", line(0.5, 9.0)),
        "interrupted_grid": make("interrupted_grid", make_design("grid", TWO)),
    }
    places = {}
    for name, study in studies.items():
        (folder / name).mkdir()
        place = Location(folder / name / "results.zarr")
        write(study, place, WRITTEN.get(name))
        places[name] = str(folder / name)
    (chunk,) = (folder / "damaged" / "results.zarr" / "x_max" / "c").glob("1")
    chunk.write_bytes(bytes(chunk.stat().st_size))
    (folder / "multirun").mkdir()
    write_multirun(Location(folder / "multirun" / "results.zarr"))
    (folder / "placements").mkdir()
    write_placements(folder / "placements")
    url = "memory://kinds/results.zarr"
    write(studies["line"], Location(url))
    return {
        **places,
        **{name: str(folder / name) for name in ("multirun", "placements")},
        "job": f"{folder / 'multirun'}::1",
        "url": url,
    }
