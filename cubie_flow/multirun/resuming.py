"""``resume=`` and ``verify=`` of a multirun."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext

from cubie_flow.config import hydra_plugins
from cubie_flow.config.schema import shipped
from cubie_flow.errors import FlowError
from cubie_flow.console.logs import logged
from cubie_flow.study.plan_text import Amount
from cubie_flow.config.stored import missing_runs
from cubie_flow.process.startup import keep_dask_out
from cubie_flow.storage import Location, ResultStore, index, leased, locked
from cubie_flow.storage.folders import LOG
from cubie_flow.storage.lease import LEASE
from cubie_flow.storage.provenance import provenance
from cubie_flow.multirun.jobs import COMMON, Job, counted
from cubie_flow.multirun.launching import Launcher, Task, launch
from cubie_flow.multirun.run import above, confirm, report, run_here
from cubie_flow.multirun.stored_jobs import finish, is_begun, read_again, stored_row
from cubie_flow.multirun.table import Table

log = logging.getLogger("cubie_flow")


def resume_multirun(
    folder: Path,
    root: Location,
    overrides: Sequence[str],
    recheck: bool,
    launching: Sequence[str] = (),
) -> None:
    """Finish the jobs that a multirun lacks, or say what that would be.

    Parameters
    ----------
    folder
        Of the multirun.
    root
        Its store.
    overrides
        What may differ from then, see `cubie_flow.resume`.
    recheck
        Whether complete shards are compared with their checksums.
    launching
        Words that name a launcher of Hydra.

    Raises
    ------
    FlowError
        If an override changes the science of a job, or, once all have run, a job failed.
    """
    with locked(folder):
        rows, attrs = index.read_index(root)
        common = attrs.get(COMMON, ())
        jobs = [read_again(number, row, root, overrides, common) for number, row in enumerate(rows)]
        settings = next((job.settings for job in jobs if job.settings is not None), None)
        todo = []
        for job in jobs:
            kept = None if recheck else stored_row(root.child(job.group), job.study)
            if kept is None:
                todo.append(job)
            elif rows[job.number]["job_status"] != index.SUCCESS:
                rows[job.number].update(kept)
        if settings is not None and settings.values["dry_run"]:
            _dry_run(jobs, root, recheck)
            return
        launcher = _launcher(folder, launching)
        if launcher is not None:
            launcher.refuse_store(root)
        if settings is not None:
            confirm(todo, settings)
            if launcher is not None:
                launcher.refuse_engine(settings)
        keep_dask_out()
        table = Table(root, rows, {**attrs, "resumed_by": provenance(overrides)}, attrs["swept"])
        lease = LEASE if settings is None else settings.values["storage"]["lease"]
        with leased(root, lease) as lock, logged(folder / LOG):
            log.info("resumed %s", " ".join(overrides))
            print(f"{len(rows) - len(todo):,} of {len(rows):,} jobs were complete", flush=True)
            with table.finally_written(folder):
                if todo and launcher is not None:
                    task = Task(folder.absolute(), words=tuple(overrides), recheck=recheck)
                    launch(todo, table, launcher, task)
                elif todo:
                    run_here(todo, table, lock, partial(finish, recheck=recheck))
            report(table, folder, jobs)


def _dry_run(jobs: Sequence[Job], root: Location, recheck: bool) -> None:
    """Say what each job lacks; nothing is solved or written."""
    together = Amount()
    lacking = 0
    for job in jobs:
        name = f"{'job':<8} {job.number + 1}/{len(jobs)} {' '.join(job.own) or 'the only one'}"
        if job.study is None or job.amount is None:
            print(f"{name}: cannot run: {job.error}")
            continue
        place, runs = root.child(job.group), job.study.design.size
        if is_begun(place):
            store = ResultStore.open(place)
            absent, shards = missing_runs(store, job.study, recheck)
            there = f"{absent:,} of {counted(runs, 'run')} are missing" if absent else "complete"
            if absent == 0 and stored_row(place, job.study) is None:
                there = "all runs are there, their summary is missing"
        else:
            absent, shards, there = runs, job.amount.shards, f"not begun, {counted(runs, 'run')}"
        share = job.amount.store_bytes * absent // runs
        together += Amount(absent, shards, share)
        lacking += there != "complete"
        print(f"{name}: {there}")
    print(f"{'total':<8} {together}, of {counted(lacking, 'job')}")
    settings = next(job.settings for job in jobs if job.settings is not None)
    if words := above([job for job in jobs if job.study is not None], settings):
        print(f"{'note':<8} {words}")
    print(f"{'dry run':<8} nothing was solved or written")


def _launcher(folder: Path, words: Sequence[str]) -> Launcher | None:
    """Return the launcher that the command line names beside ``resume=``."""
    chosen = [word for word in words if word.startswith("hydra/launcher=")]
    if words and not chosen:
        raise FlowError(f"{words[0]} needs hydra/launcher= beside it")
    if not chosen or chosen[-1] == "hydra/launcher=basic":
        return None
    hydra_plugins.register()
    OverridesParser.create().parse_overrides(list(words))
    with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        where = f"hydra.sweep.dir='{folder.absolute()}'"
        config = compose("config", [*words, where], return_hydra_config=True)
        loader = GlobalHydra.instance().config_loader()
    context = HydraContext(config_loader=loader, callbacks=_callbacks())
    return Launcher(str(config.hydra.runtime.choices["hydra/launcher"]), config, context)


def _callbacks() -> Any:
    from hydra._internal.callbacks import Callbacks

    return Callbacks()


def verify_multirun(folder: Path, root: Location) -> int:
    """Compare every complete shard of every job with its checksum and return the exit code."""
    rows, _ = index.read_index(root)
    missing = damaged = lost = 0
    for row in rows:
        place = root.child(row["group"])
        if not place.holds_something():
            print(f"{row['group']}: not there")
            missing += 1
            continue
        begun = is_begun(place)
        try:
            store = ResultStore.open(place)
            store.refuse_gaps()
        except FlowError as error:
            print(f"{row['group']}: {error}")
            # What cannot even be opened is solved again by a resume.
            missing, lost = missing + (not begun), lost + begun
            continue
        bad, total = store.damaged(), len(store.plan.shards)
        complete = len(store.completed())
        missing += complete < total
        damaged += len(bad)
        print(f"{row['group']}: {complete:,} of {total:,} shards complete, {len(bad):,} damaged")
    if missing or damaged:
        again = " recheck=true" if damaged else ""
        print(f"python -m cubie_flow resume={folder}{again} does the rest")
    return 1 if missing or damaged or lost else 0
