"""``hydra/sweeper=flow``: what `python -m cubie_flow -m` does with the axes of a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from cubie_flow.config.overrides import key_of
from cubie_flow.errors import FlowError
from cubie_flow.multirun.axes import Axes, quantity_of, read_axes

if TYPE_CHECKING:
    from cubie_flow.multirun.jobs import Job

NAME = "hydra_plugins.cubie_flow.FlowSweeper"
BASIC = "basic"
#: Tasks that are not about a study.
ONCE = ("doctor", "clear_cache")


class FlowSweeper(Sweeper):  # type: ignore[misc]
    """Makes runs of what runs can differ in and jobs of the rest, all in one store.

    Parameters
    ----------
    zip
        Groups of swept keys that advance together.
    jobs
        Swept keys that make jobs although runs could differ in them.
    """

    def __init__(self, zip: Any = None, jobs: Any = None) -> None:
        self._zip, self._jobs = (
            OmegaConf.to_container(given) if OmegaConf.is_config(given) else given
            for given in (zip, jobs)
        )

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra gives."""
        self._context, self._task, self._config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        """Run the jobs.

        Raises
        ------
        FlowError
            For a mistake in what is swept, or, once all have run, if a job failed.
        """
        parser = OverridesParser.create(config_loader=self._context.config_loader)
        axes = read_axes(parser.parse_overrides(arguments), self._zip, self._jobs)
        jobs = self._read(axes)
        settings = next((job.settings for job in jobs if job.settings is not None), None)
        task = "run" if settings is None else settings.task
        dry = settings is not None and settings.values["dry_run"]
        if task in ONCE:
            raise FlowError(f"task={task} does the same whatever is swept; leave out -m")
        if dry and task not in ("run", "plan"):
            raise FlowError(f"dry_run=true is for task=run, not task={task}")
        launcher = self._config.hydra.runtime.choices["hydra/launcher"]
        if task != "run" and launcher != BASIC:
            raise FlowError(f"hydra/launcher={launcher} runs jobs of task=run alone; leave it out")
        for line in axes.lines():
            print(line)
        if task == "plan" or dry:
            from cubie_flow.multirun.plans import plan_jobs

            plan_jobs(jobs, compiling=not dry)
        elif task == "import":
            self._import(jobs)
        elif task == "placement":
            self._each(axes)
        else:
            from cubie_flow.multirun.launching import Launcher
            from cubie_flow.multirun.run import run_multirun

            launching = None
            if launcher != BASIC:
                launching = Launcher(launcher, self._config, self._context)
            run_multirun(jobs, axes, self._config, launching)

    def _read(self, axes: Axes) -> list[Job]:
        """Compose and read every job, so that a mistake is found before anything starts."""
        from cubie_flow.multirun.composer import Composer
        from cubie_flow.multirun.jobs import Reader

        composer = Composer(self._context.config_loader, self._config, axes.common)
        reader = Reader()
        jobs = []
        for number, own in enumerate(axes.jobs):
            jobs.append(reader.job(number, own, (*axes.common, *own), composer.compose(own)))
        _refuse_quantities(jobs)
        read = [job.settings for job in jobs if job.settings is not None]
        for key, found in (
            ("task", {settings.task for settings in read}),
            ("dry_run", {str(settings.values["dry_run"]).lower() for settings in read}),
        ):
            if len(found) > 1:
                raise FlowError(
                    f"{key} cannot be swept, but the jobs have {', '.join(sorted(found))}"
                )
        return jobs

    def _import(self, jobs: list[Job]) -> None:
        """Write the model of each job."""
        from cubie_flow.config.import_model import import_model

        for job in jobs:
            if job.settings is None:
                raise FlowError(job.error)
            print(import_model(job.settings))

    def _each(self, axes: Axes) -> None:
        """Do the task job by job in folders of their own, as Hydra does."""
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self._context, task_function=self._task, config=self._config
        )
        for result in launcher.launch([[*axes.common, *own] for own in axes.jobs], 0):
            _ = result.return_value  # raises what the job raised


def _refuse_quantities(jobs: list[Job]) -> None:
    """Refuse a job whose own quantity cannot be read: the others would be a part of the study."""
    for job in jobs:
        if job.study is None and any(quantity_of(key_of(override)) for override in job.own):
            raise FlowError(f"{' '.join(job.own)}: {job.error}")


def register() -> None:
    """Make Hydra know the sweeper."""
    plugins = Plugins.instance()
    plugins.register(FlowSweeper)
    # Hydra instantiates plugins of this package alone. Were the class itself said to live there,
    # the processes of a launcher could not import it.
    plugins.class_name_to_class[NAME] = FlowSweeper
