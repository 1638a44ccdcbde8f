"""``hydra/sweeper=flow``: what `python -m cubie_flow -m` does with the axes of a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from cubie_flow.errors import FlowError
from cubie_flow.sweeps.axes import Axes, read_axes

if TYPE_CHECKING:
    from cubie_flow.sweeps.jobs import Job

NAME = "hydra_plugins.cubie_flow.FlowSweeper"
BASIC = "basic"


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
        for line in axes.lines():
            print(line)
        first = jobs[0].settings
        if first is not None and (first.task != "run" or first.values["dry_run"]):
            self._other_task(axes)
            return
        from cubie_flow.sweeps.multirun import run_multirun

        launcher = self._config.hydra.runtime.choices["hydra/launcher"]
        launching = None if launcher == BASIC else self._context
        run_multirun(jobs, axes, self._config, launching)

    def _read(self, axes: Axes) -> list[Job]:
        """Compose and read every job, so that a mistake is found before anything starts."""
        from cubie_flow.sweeps.composer import Composer
        from cubie_flow.sweeps.jobs import Reader

        composer = Composer(self._context.config_loader, self._config, axes.common)
        reader = Reader()
        jobs = []
        for number, own in enumerate(axes.jobs):
            jobs.append(reader.job(number, own, (*axes.common, *own), composer.compose(own)))
        tasks = {job.settings.task for job in jobs if job.settings is not None}
        if len(tasks) > 1:
            raise FlowError(f"task cannot be swept, but the jobs have {', '.join(sorted(tasks))}")
        return jobs

    def _other_task(self, axes: Axes) -> None:
        """Do a task that writes no store of runs, job by job as Hydra does."""
        chosen = self._config.hydra.runtime.choices["hydra/launcher"]
        if chosen != BASIC:
            raise FlowError(f"hydra/launcher={chosen} runs jobs of task=run alone; leave it out")
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self._context, task_function=self._task, config=self._config
        )
        for result in launcher.launch([[*axes.common, *own] for own in axes.jobs], 0):
            _ = result.return_value  # raises what the job raised


def register() -> None:
    """Make Hydra know the sweeper."""
    plugins = Plugins.instance()
    plugins.register(FlowSweeper)
    # Hydra instantiates plugins of this package alone. Were the class itself said to live there,
    # the processes of a launcher could not import it.
    plugins.class_name_to_class[NAME] = FlowSweeper
