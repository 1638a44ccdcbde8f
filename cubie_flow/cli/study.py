"""One study of a command: its folder, its confirmation and its solution."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from cubie_flow.errors import FlowError
from cubie_flow.process.profile import stopwatch
from cubie_flow.process.signals import StopGuard
from cubie_flow.process.startup import keep_dask_out, no_collections

if TYPE_CHECKING:
    from cubie_flow.config.schema import Settings
    from cubie_flow.console.session import Session
    from cubie_flow.storage import Location
    from cubie_flow.study.study import Study


@contextmanager
def run_folder(settings: Settings, study: Study) -> Iterator[Path]:
    """Yield the folder of the run; delete it if no result was written."""
    from cubie_flow.storage.folders import (
        RESULTS,
        check_study_name,
        new_run_folder,
        noted_location,
    )
    from cubie_flow.storage.unfinished import is_unfinished

    check_study_name(study.name)
    config = HydraConfig.get()
    is_new = config.mode != RunMode.MULTIRUN and config.run.dir == "."
    root = Path(settings.values["storage"]["folder"])
    new_parents = [] if root.exists() else [root]
    if is_new:
        folder = new_run_folder(root, study.name, datetime.now())
    else:
        # As it is: the name of the current folder may look like an interpolation.
        runtime: Any = OmegaConf.to_container(config.runtime, resolve=False)
        folder = Path(runtime["output_dir"])
    try:
        yield folder
    finally:
        if is_new and (noted_location(folder) is None or is_unfinished(folder / RESULTS)):
            shutil.rmtree(folder, ignore_errors=True)
            # Parent folders are deleted too if they are empty.
            for parent in (folder.parent, folder.parent.parent, *new_parents):
                with suppress(OSError):
                    parent.rmdir()


def confirm(settings: Settings, study: Study, new_location: Location | None = None) -> None:
    """Refuse a study above the limits of ``engine`` unless ``confirm=true`` is given.

    Parameters
    ----------
    settings
        The checked config.
    study
        The study to confirm.
    new_location
        Where a new study goes: one that does not fit there is refused with that reason first.

    Raises
    ------
    FlowError
        If the study is too large.
    """
    from cubie_flow.study.plan import amount_of, plan_study

    amount = amount_of(study)
    limits = amount.above(settings.values["engine"])
    if limits and not (settings.values["confirm"] or settings.values["dry_run"]):
        if new_location is not None:
            plan_study(study, new_location, compiling=False).refuse()
        raise FlowError(f"{study.name} is {amount}, above {limits}; confirm=true starts it")


def solve(session: Session, settings: Settings, study: Study, **options: Any) -> None:
    """Solve a study into its store and print the summary.

    Parameters
    ----------
    session
        The right to write folder and store.
    settings
        The checked config.
    study
        The study to solve.
    options
        Further arguments of `cubie_flow.study.run.run_study`.

    Raises
    ------
    FlowError
        If the study cannot be solved or written.
    Stopped, KeyboardInterrupt
        If the study was stopped; it can be resumed.
    """
    with stopwatch.phase("start-up"), no_collections():
        from cubie_flow.console.progress import progress
        from cubie_flow.console.session import print_and_log
        from cubie_flow.placement.resolve import engine_of
        from cubie_flow.study.run import run_study
        from cubie_flow.study.summary import summary

    engine = settings.values["engine"]
    guard = StopGuard(engine["time_limit"])
    keep_dask_out()
    with progress(study.name, engine["progress"]) as show, guard.listening(), session.resumable():
        report = run_study(
            study,
            session.location,
            on_progress=show,
            before_creation=session.lease.check,
            between_shards=session.lease.between(guard.check),
            engine=engine_of(settings),
            **options,
        )
    picture = _draw_picture(session, settings, study)
    print_and_log(summary(study, report, picture, settings.notes))


def _draw_picture(session: Session, settings: Settings, study: Study) -> Path | None:
    """Draw the picture of a result if ``storage.picture`` asks for it; note why if it fails."""
    if not settings.values["storage"]["picture"]:
        return None
    with stopwatch.phase("picture"):
        with no_collections():
            from cubie_flow.analysis.pictures.overview import tried

        location = session.location
        store = location.store(read_only=True)
        picture, why = tried(store, session.folder / f"{study.name}.png", location.group or None)
        settings.notes.extend([why] if why else [])
        return picture
