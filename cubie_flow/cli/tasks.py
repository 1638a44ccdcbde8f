"""The tasks of the command.

A new task is one function here, its entry in `TASKS`, its name in `cubie_flow.config.schema`, and a
file in ``conf/task``.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import frozen
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from cubie_flow import credentials
from cubie_flow.cli.study import confirm, run_folder, solve
from cubie_flow.config import hydra_plugins
from cubie_flow.config.overrides import refuse_unknown_experiment
from cubie_flow.config.schema import Settings
from cubie_flow.errors import FlowError
from cubie_flow.process.profile import stopwatch
from cubie_flow.process.safe_files import refuse_link, write_file
from cubie_flow.process.startup import no_collections

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger("cubie_flow")


@frozen
class Request:
    """What a task gets.

    Attributes
    ----------
    settings
        The checked config.
    overrides
        The overrides of the command line, credentials redacted.
    config
        The composed config. Its interpolations are unresolved, so that the value of an environment
        variable is never stored.
    """

    settings: Settings
    overrides: list[str]
    config: DictConfig

    def yaml(self) -> str:
        """Return the config as it is stored."""
        from cubie_flow.config.hydra_private import config_yaml

        return config_yaml(self.config)


def run_task(config: DictConfig) -> None:
    """Check a composed config and run its task.

    Parameters
    ----------
    config
        The composed config.

    Raises
    ------
    FlowError
        If the config is wrong or the task fails.
    """
    words = HydraConfig.get().overrides.task
    sources = HydraConfig.get().runtime.config_sources
    refuse_unknown_experiment(words, hydra_plugins.experiments(sources))
    credentials.hide(config)
    hydra_plugins.name_system(config, str(HydraConfig.get().runtime.choices["system"]))
    overrides = credentials.as_given(words)
    settings = Settings.from_container(OmegaConf.to_container(config, resolve=True), overrides)
    task = settings.task
    if settings.values["dry_run"]:
        if task not in ("plan", "run"):
            raise FlowError(f"dry_run=true is for task=run, not task={task}")
        task = "plan"
    TASKS[task](Request(settings, overrides, config))


def run(request: Request) -> None:
    """Integrate the study of a config; write its store, config, log and picture."""
    with stopwatch.phase("start-up"), no_collections():
        from cubie_flow.config.stored import words_of_new
        from cubie_flow.console.session import open_session
        from cubie_flow.placement.resolve import resolve_placement
        from cubie_flow.storage.folders import (
            CONFIG,
            new_location,
            note_location,
            refuse_noted_results,
        )

    settings = request.settings
    with stopwatch.phase("configure"):
        study = resolve_placement(settings)
    storage = settings.values["storage"]
    with run_folder(settings, study) as folder, open_session(folder) as session:
        location = new_location(storage, folder)
        if not storage["overwrite"]:
            # The folder may hold another run: refuse it before anything in it changes.
            location.require_empty()
            refuse_noted_results(folder, location)
        confirm(settings, study, location)
        options: Any = OmegaConf.to_container(request.config.storage.options)
        again = words_of_new(settings.values["engine"], options, location, folder)
        session.begin_writing(location, storage["lease"], again)
        config_yaml = request.yaml()
        write_file(folder / CONFIG, config_yaml)
        log.info("%s %s", study.name, " ".join(request.overrides))
        solve(
            session,
            settings,
            study,
            overrides=request.overrides,
            config_yaml=config_yaml,
            start="overwrite" if storage["overwrite"] else "new",
            on_created=lambda: note_location(folder, location),
        )


def plan(request: Request) -> None:
    """Print the plan of a study; nothing is solved or written."""
    from cubie_flow.console.tables import fact_lines
    from cubie_flow.placement.resolve import resolve_placement
    from cubie_flow.study.plan import plan_study

    settings = request.settings
    study = resolve_placement(settings)
    storage, dry_run = settings.values["storage"], settings.values["dry_run"]
    study_plan = plan_study(study, storage["url"] or storage["folder"], compiling=not dry_run)
    facts = [("note", note) for note in settings.notes]
    if dry_run:
        facts.append(("dry run", "nothing was solved or written"))
    print(study_plan.text())
    if facts:
        print(fact_lines(facts))
    study_plan.refuse()


def placement(request: Request) -> None:
    """Compare the placements of buffers; write a dataset and its picture."""
    from attrs import evolve

    from cubie_flow.console.paths import short_path
    from cubie_flow.console.session import open_session, print_and_log
    from cubie_flow.console.tables import fact_lines
    from cubie_flow.placement.ranking import save
    from cubie_flow.placement.resolve import resolve_algorithm
    from cubie_flow.placement.study import study_placements
    from cubie_flow.storage import Location
    from cubie_flow.storage.folders import CONFIG, RESULTS

    settings = request.settings
    study = resolve_algorithm(settings)
    # The name gives it a folder of its own, apart from the results of the study.
    study = evolve(study, name=f"{study.name}_placement")
    buffers = settings.values["buffers"]

    def show(done: int, total: int) -> None:
        print(f"{study.name}: {done} of {total} placements compiled", file=sys.stderr, flush=True)

    with run_folder(settings, study) as folder, open_session(folder) as session:
        results = folder / RESULTS
        refuse_link(results)
        session.begin_writing(Location(results), None)
        config_yaml = request.yaml()
        write_file(folder / CONFIG, config_yaml)
        log.info("%s %s", study.name, " ".join(request.overrides))
        ranked = study_placements(
            study,
            buffers["sweep"],
            buffers["search"],
            buffers["limit"],
            on_progress=show if settings.values["engine"]["progress"] else None,
        )
        dataset = ranked.dataset(study, request.overrides, config_yaml)
        save(dataset, results)
        facts = [("result", short_path(results))]
        if settings.values["storage"]["picture"]:
            from cubie_flow.analysis.pictures.placements import placements

            picture = placements(dataset).save(folder / f"{study.name}.png")
            facts.append(("picture", short_path(picture)))
        print_and_log(f"{ranked.table()}\n{fact_lines(facts)}")


def import_model(request: Request) -> None:
    """Write the model of ``system.file`` as YAML."""
    from cubie_flow.config import import_model as importer

    print(importer.import_model(request.settings))


def doctor(_: Request) -> None:
    """Print what this machine offers and what is missing."""
    from cubie_flow.cli.doctor import report

    print(report())


def clear_cache(_: Request) -> None:
    """Delete the compiled kernels."""
    from cubie_flow.kernels.cache import KernelCache

    cache = KernelCache()
    kernels, size = cache.clear()
    print(f"deleted {kernels} kernels ({size / 1e6:.1f} MB) from {cache.folder}")


TASKS: dict[str, Callable[[Request], None]] = {
    "run": run,
    "plan": plan,
    "placement": placement,
    "import": import_model,
    "doctor": doctor,
    "clear_cache": clear_cache,
}
