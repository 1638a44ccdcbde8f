"""The Hydra entry: compose, validate, plan, run, report."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cubie_flow import credentials
from cubie_flow.config import hydra_plugins, overrides
from cubie_flow.config.schema import Settings, shipped
from cubie_flow.console.logs import logged
from cubie_flow.errors import FlowError
from cubie_flow.multirun import sweeper
from cubie_flow.process.machine import process_age
from cubie_flow.process.profile import stopwatch
from cubie_flow.process.signals import StopGuard, Stopped
from cubie_flow.process.startup import (
    check_surroundings,
    ignore_interrupts,
    keep_dask_out,
    no_collections,
    open_streams,
    process,
    silence_stdout,
    stdout_error,
)

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from cubie_flow.storage import Location
    from cubie_flow.study.study import Study

RESULTS, CONFIG, LOG = "results.zarr", "config.yaml", "run.log"
# Words that name the folder of a run instead of composing a config.
PROFILE = "--profile"
RESUME, VERIFY, RECHECK = "resume=", "verify=", "recheck=true"
MULTIRUN = ("-m", "--multirun")
LAUNCHER = ("hydra/launcher=", "hydra.launcher.")
INTERRUPTED = 130
log = logging.getLogger("cubie_flow")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    arguments
        Instead of those of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    process.owned = arguments is None
    if process.owned:
        open_streams()
    profiled = PROFILE in given
    if profiled:
        given = [word for word in given if word != PROFILE]
        # Only a process that was started for this command began with it.
        stopwatch.start(process_age() if process.owned else 0.0)
    traceback = "HYDRA_FULL_ERROR" in os.environ
    # Hydra then raises its errors instead of printing them over several lines.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    saved = sys.argv
    try:
        check_surroundings()
        credentials.register()
        given = credentials.hidden_words(given)
        if any(word.startswith(RESUME) for word in given):
            code = _resume(given)
        elif any(word.startswith(VERIFY) for word in given):
            code = _verify(given)
        else:
            hydra_plugins.register()
            sweeper.register()
            given = overrides.arguments(given)
            sys.argv = [sys.argv[0], *given]
            code = _compose_and_run()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        ignore_interrupts()
        return _complain("interrupted", INTERRUPTED)
    except Stopped as error:
        ignore_interrupts()
        return _complain(f"interrupted: {error}", error.code)
    except BrokenPipeError:
        # The reader has gone (`| head`).
        silence_stdout()
        return 1
    except (FlowError, HydraException, OmegaConfBaseException, OSError, ValueError) as error:
        if traceback:
            raise
        return _complain(stdout_error(error) or overrides.sentence(error, given))
    finally:
        sys.argv = saved
        if not traceback:
            del os.environ["HYDRA_FULL_ERROR"]
        if profiled:
            print(stopwatch.stop(), file=sys.stderr)


def _resume(given: list[str]) -> int:
    """Finish the study of a folder: no config is composed, that of the folder holds."""
    from cubie_flow.config import stored
    from cubie_flow.storage import ResultStore, locked
    from cubie_flow.storage.index import is_multirun

    (folder_word, *more) = [word for word in given if word.startswith(RESUME)]
    if more:
        raise FlowError("resume= is given twice; resume one study at a time")
    folder = stored.folder_of(folder_word.removeprefix(RESUME))
    recheck = RECHECK in given
    # -m may be there: whether the folder is that of a multirun, it says itself.
    others = [
        word for word in given
        if not word.startswith(RESUME) and word != RECHECK and word not in MULTIRUN
    ]  # fmt: skip
    launching = [word for word in others if word.startswith(LAUNCHER)]
    others = [word for word in others if word not in launching]
    place = stored.location_of(folder, others)
    if is_multirun(place):
        from cubie_flow.multirun.resuming import resume_multirun

        resume_multirun(folder, place, others, recheck, launching)
        return 0
    if launching:
        raise FlowError(
            f"{launching[0]} is for the jobs of a multirun, but '{folder}' holds one study; leave "
            "it out, or use engine=dask to spread its shards"
        )
    with locked(folder):
        store = ResultStore.open(place)
        store.refuse_gaps()
        settings = stored.stored_settings(stored.stored_config(folder), others, store.attrs)
        study = stored.stored_study(settings, store.attrs)
        _confirm(settings, study, place, new=False)
        if settings.values["dry_run"]:
            print(stored.missing(store, study, recheck))
            return 0
        _finish(settings, study, place, folder, others, recheck)
    return 0


def _finish(
    settings: Settings,
    study: Study,
    place: Location,
    folder: Path,
    others: list[str],
    recheck: bool,
) -> None:
    """Solve what a store lacks."""
    with logged(folder / LOG):
        log.info("%s resumed %s", study.name, " ".join(others))
        start = "recheck" if recheck else "resume"
        _solve(settings, study, place, folder, others, start=start)


def _solve(
    settings: Settings,
    study: Study,
    place: Location,
    folder: Path,
    overrides: list[str],
    **how: Any,
) -> None:
    """Solve what is to be solved, `how` as `run_study` has it, and tell what it came to."""
    with stopwatch.phase("start-up"), no_collections():
        from cubie_flow.console.progress import progress
        from cubie_flow.console.summary import summary
        from cubie_flow.placement.resolve import engine_of
        from cubie_flow.storage import leased
        from cubie_flow.study.run import run_study

    watch, told = _watch(settings), settings.values["engine"]["progress"]
    keep_dask_out()
    lease = settings.values["storage"]["lease"]
    with (
        leased(place, lease) as lock,
        progress(study.name, told) as show,
        watch.listening(),
        _kept(folder, place),
    ):
        report = run_study(
            study,
            place,
            overrides=overrides,
            on_progress=show,
            between_shards=lock.between(watch.check),
            engine=engine_of(settings),
            **how,
        )
    text = summary(study, report, _picture(settings, study, place, folder), settings.notes)
    log.info("finished\n%s", text)
    print(text)


def _verify(given: list[str]) -> int:
    """Compare every complete shard of a result with its checksum."""
    from cubie_flow.config import stored
    from cubie_flow.storage import ResultStore
    from cubie_flow.storage.index import is_multirun

    (folder_word, *more) = [word for word in given if word.startswith(VERIFY)]
    others = [word for word in given if not word.startswith(VERIFY)]
    if more or any(not word.lstrip("+").startswith(credentials.OPTIONS) for word in others):
        raise FlowError(f"verify=FOLDER takes nothing beside it but {credentials.OPTIONS}")
    folder = stored.folder_of(folder_word.removeprefix(VERIFY), VERIFY)
    place = stored.location_of(folder, others)
    if is_multirun(place):
        from cubie_flow.multirun.resuming import verify_multirun

        return verify_multirun(folder, place)
    store = ResultStore.open(place)
    store.refuse_gaps()
    complete, bad = store.completed(), store.damaged()
    total = len(store.plan.shards)
    print(f"{len(complete):,} of {total:,} shards complete, {len(bad):,} of them damaged")
    for index in bad:
        start, stop = store.plan.shards[index]
        print(f"damaged: shard {index}, runs {start:,} to {stop - 1:,}")
    if bad or len(complete) < total:
        print(f"python -m cubie_flow {RESUME}{folder}{f' {RECHECK}' if bad else ''} does the rest")
    return 1 if bad else 0


def _watch(settings: Settings) -> StopGuard:
    """Return what says between two shards whether to go on."""
    return StopGuard(settings.values["engine"]["time_limit"])


@contextmanager
def _kept(folder: Path, place: Location) -> Iterator[None]:
    """Say of a study that is stopped how to resume it."""
    from cubie_flow.storage import found_location

    try:
        yield
    except (KeyboardInterrupt, Stopped):
        if found_location(folder) is not None:
            where = place.name if place.folder is None else folder / place.folder.name
            print(
                f"what was solved is kept in {where}; python -m cubie_flow "
                f"{RESUME}{folder} does the rest",
                file=sys.stderr,
            )
        raise


def _confirm(settings: Settings, study: Study, place: Location, new: bool = True) -> None:
    """Refuse a study that is larger than one starts by mistake, unless it is confirmed."""
    from cubie_flow.study.plan import amount_of, plan_study

    amount = amount_of(study)
    above = amount.above(settings.values["engine"])
    if above and not (settings.values["confirm"] or settings.values["dry_run"]):
        if new:
            # What cannot be done need not be confirmed.
            plan_study(study, place, compiling=False).refuse()
        raise FlowError(f"{study.name} is {amount}, above {above}; confirm=true starts it")


def _picture(settings: Settings, study: Study, place: Location, folder: Path) -> Path | None:
    """Draw the picture of a result, if one is wanted; what prevents it is a note."""
    if not settings.values["storage"]["picture"]:
        return None
    with stopwatch.phase("picture"):
        with no_collections():
            from cubie_flow.analysis.pictures.overview import tried

        source = place.store(read_only=True) if place.folder is None else place.folder
        picture, why = tried(source, folder / f"{study.name}.png", place.group or None)
        settings.notes.extend([why] if why else [])
        return picture


def _compose_and_run() -> int:
    """Let Hydra compose, and run the job, or each job of a multirun."""
    codes = [0]

    def job(config: DictConfig) -> None:
        with stopwatch.phase("rest"):
            codes.append(_attempt(config))

    entry = hydra.main(version_base="1.3", config_path=str(shipped("conf")), config_name="config")
    with stopwatch.phase("configure"):
        entry(job)()
    return max(codes)


def _attempt(config: DictConfig) -> int:
    """Run one job; its failure is said and does not stop the other jobs of a multirun."""
    try:
        run(config)
    except FlowError as error:
        return _complain(str(error))
    except BrokenPipeError:
        silence_stdout()  # Hydra would say something of an error that leaves its job
        return 1
    except (OmegaConfBaseException, OSError, ValueError) as error:
        return _complain(stdout_error(error) or overrides.sentence(error, []))
    return 0


def _complain(message: str, code: int = 1) -> int:
    print(f"cubie-flow: {credentials.redacted(message)}", file=sys.stderr, flush=True)
    return code


def run(config: DictConfig) -> None:
    """Do the task of a composed config.

    Parameters
    ----------
    config
        The composed config.

    Raises
    ------
    FlowError
        For whatever makes it impossible, in one sentence.
    """
    _check_experiment()
    credentials.hide(config)
    hydra_plugins.name_system(config, str(HydraConfig.get().runtime.choices["system"]))
    overrides = credentials.as_given(HydraConfig.get().overrides.task)
    settings = Settings.from_container(OmegaConf.to_container(config, resolve=True), overrides)
    if settings.task == "doctor":
        from cubie_flow.cli.doctor import examination

        print(examination())
    elif settings.task == "clear_cache":
        from cubie_flow.kernels.cache import KernelCache

        cache = KernelCache()
        kernels, size = cache.clear()
        print(f"deleted {kernels} kernels ({size / 1e6:.1f} MB) from {cache.folder}")
    elif settings.task == "import":
        from cubie_flow.config.import_model import import_model

        print(import_model(settings))
    elif settings.values["dry_run"] and settings.task not in ("plan", "run"):
        raise FlowError(f"dry_run=true is for task=run, not task={settings.task}")
    elif settings.task == "plan" or settings.values["dry_run"]:
        _plan(settings)
    elif settings.task == "placement":
        _placement(settings, overrides, OmegaConf.to_yaml(config))
    else:
        run_settings(settings, OmegaConf.to_yaml(config))


def _plan(settings: Settings) -> None:
    """Print the plan of a study."""
    from cubie_flow.placement.resolve import resolve_placement
    from cubie_flow.study.plan import plan_study

    study = resolve_placement(settings)
    storage = settings.values["storage"]
    dry = settings.values["dry_run"]
    plan = plan_study(study, storage["url"] or storage["folder"], compiling=not dry)
    print(plan.text())
    for note in settings.notes:
        print(f"{'note':<8} {note}")
    if dry:
        print(f"{'dry run':<8} nothing was solved or written")
    plan.refuse()


def _placement(settings: Settings, overrides: list[str], config_yaml: str) -> None:
    """Compare the placements of buffers; leave one dataset and its picture behind."""
    from attrs import evolve

    from cubie_flow.console.summary import shown
    from cubie_flow.placement.resolve import resolve_algorithm
    from cubie_flow.placement.study import save, study_placements

    study = resolve_algorithm(settings)
    # A folder of its own, so that the study's results stay together.
    study = evolve(study, name=f"{study.name}_placement")
    choice = settings.values["buffers"]

    def show(done: int, total: int) -> None:
        print(f"{study.name}: {done} of {total} placements compiled", file=sys.stderr, flush=True)

    with _folder(settings, study) as folder, logged(folder / LOG):
        (folder / CONFIG).write_text(config_yaml, encoding="utf-8")
        log.info("%s %s", study.name, " ".join(overrides))
        ranked = study_placements(
            study,
            choice["sweep"],
            choice["search"],
            choice["limit"],
            on_progress=show if settings.values["engine"]["progress"] else None,
        )
        dataset = ranked.dataset(study, overrides, config_yaml)
        save(dataset, folder / RESULTS)
        lines = [ranked.table(), f"result   {shown(folder / RESULTS)}"]
        if settings.values["storage"]["picture"]:
            from cubie_flow.analysis.pictures.placements import placements

            drawn = placements(dataset).save(folder / f"{study.name}.png")
            lines.append(f"picture  {shown(drawn)}")
        text = "\n".join(lines)
        log.info("finished\n%s", text)
        print(text)


def run_settings(settings: Settings, config_yaml: str) -> None:
    """Integrate the study of a config and leave store, config, log and picture behind.

    Parameters
    ----------
    settings
        The checked config.
    config_yaml
        The composed config with its interpolations unresolved, so that the value of an
        environment variable is never stored.
    """
    with stopwatch.phase("start-up"), no_collections():
        from cubie_flow.placement.resolve import resolve_placement
        from cubie_flow.storage import found_location, locked, new_location, note_location

    with stopwatch.phase("configure"):
        study = resolve_placement(settings)
    overrides = credentials.as_given(HydraConfig.get().overrides.task)
    storage = settings.values["storage"]
    with _folder(settings, study) as folder, locked(folder):
        place = new_location(storage, folder)
        if not storage["overwrite"]:
            # Before anything in the folder changes: it may be that of another run.
            place.refuse_what_is_there()
            if (taken := found_location(folder)) is not None:
                taken.refuse_what_is_there()
        _confirm(settings, study, place)
        with logged(folder / LOG):
            (folder / CONFIG).write_text(config_yaml, encoding="utf-8")
            log.info("%s %s", study.name, " ".join(overrides))
            _solve(
                settings,
                study,
                place,
                folder,
                overrides,
                config_yaml=config_yaml,
                start="overwrite" if storage["overwrite"] else "new",
                on_created=lambda: note_location(folder, place),
            )


@contextmanager
def _folder(settings: Settings, study: Study) -> Iterator[Path]:
    """Yield the folder of the run; one in which nothing came to be is not left behind."""
    from cubie_flow.storage.folders import found_location, new_run_folder

    composed = HydraConfig.get()
    own = composed.mode != RunMode.MULTIRUN and composed.run.dir == "."
    root = Path(settings.values["storage"]["folder"])
    made = [] if root.exists() else [root]
    if own:
        folder = new_run_folder(root, study.name, datetime.now())
    else:
        folder = Path(composed.runtime.output_dir)
    try:
        yield folder
    finally:
        if own and found_location(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
            # The folders above go too, unless something else is in them.
            for parent in (folder.parent, folder.parent.parent, *made):
                with suppress(OSError):
                    parent.rmdir()


def _check_experiment() -> None:
    loader = GlobalHydra.instance().config_loader()
    options = loader.get_group_options(hydra_plugins.GROUP)
    overrides.refuse_unknown_experiment(HydraConfig.get().overrides.task, options)
