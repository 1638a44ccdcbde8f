"""``hydra/sweeper=flow``: what ``python -m cubie_flow -m`` does with the axes of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from cubie_flow.config.overrides import key_of
from cubie_flow.errors import FlowError
from cubie_flow.multirun.axes import Axes, read_axes
from cubie_flow.multirun.swept_values import quantity_of

if TYPE_CHECKING:
    from cubie_flow.multirun.jobs import Job

NAME = "hydra_plugins.cubie_flow.FlowSweeper"
BASIC = "basic"
#: Tasks that are not about a study.
ONCE = ("doctor", "clear_cache")


class FlowSweeper(Sweeper):  # type: ignore[misc]
    """Sweeps into one store: axes of quantities make runs of a launch, all others make jobs.

    Parameters
    ----------
    zip
        Groups of swept keys that advance together.
    jobs
        Swept keys that make jobs although they could make runs.
    params
        Keys and values as on the command line, such as ``{precision: "float32,float64"}``. A key
        that the command line names as well has the value of the command line.
    """

    def __init__(self, zip: Any = None, jobs: Any = None, params: Any = None) -> None:
        self._zip, self._jobs, self._params = (
            OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for value in (zip, jobs, params)
        )

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra gives to a sweeper.

        Parameters
        ----------
        hydra_context
            Hydra's context.
        task_function
            The function of a job.
        config
            Hydra's config of the multirun.
        """
        self._context, self._task, self._config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        """Read all jobs and do their task.

        Parameters
        ----------
        arguments
            The overrides of the command line.

        Raises
        ------
        FlowError
            If the sweep is wrong, or, once all have run, a job failed.
        """
        parser = OverridesParser.create(config_loader=self._context.config_loader)
        words = [*_params_words(self._params, arguments), *arguments]
        axes = read_axes(parser.parse_overrides(words), self._zip, self._jobs)
        jobs = self._read_jobs(axes)
        task = self._checked_task(jobs)
        for line in axes.lines():
            print(line)
        if task in ("plan", "dry_run"):
            from cubie_flow.multirun.plans import plan_jobs

            plan_jobs(jobs, compiling=task == "plan")
        elif task == "import":
            _import_models(jobs)
        elif task == "placement":
            self._run_in_folders(axes)
        else:
            self._run(jobs, axes)

    @property
    def _launcher(self) -> str:
        return str(self._config.hydra.runtime.choices["hydra/launcher"])

    def _read_jobs(self, axes: Axes) -> list[Job]:
        """Compose and read every job, so that errors are reported before anything starts."""
        from cubie_flow.multirun.composer import Composer
        from cubie_flow.multirun.jobs import JobReader

        composer = Composer(self._context.config_loader, self._config, axes.common)
        reader = JobReader()
        jobs = [
            reader.read(number, own, (*axes.common, *own), composer.compose(own))
            for number, own in enumerate(axes.jobs)
        ]
        _refuse_unreadable_quantities(jobs)
        return jobs

    def _checked_task(self, jobs: list[Job]) -> str:
        """Return the task of the jobs, or ``dry_run``.

        Raises
        ------
        FlowError
            If jobs differ in their task, or the task cannot be swept.
        """
        read = [job.settings for job in jobs if job.settings is not None]
        for key, values in (
            ("task", {settings.task for settings in read}),
            ("dry_run", {str(settings.values["dry_run"]).lower() for settings in read}),
        ):
            if len(values) > 1:
                raise FlowError(
                    f"{key} cannot be swept, but the jobs have {', '.join(sorted(values))}"
                )
        task = read[0].task if read else "run"
        dry_run = bool(read) and read[0].values["dry_run"]
        if task in ONCE:
            raise FlowError(f"task={task} does the same whatever is swept; leave out -m")
        if dry_run and task not in ("run", "plan"):
            raise FlowError(f"dry_run=true is for task=run, not task={task}")
        if task != "run" and self._launcher != BASIC:
            raise FlowError(
                f"hydra/launcher={self._launcher} runs jobs of task=run alone; leave it out"
            )
        return "dry_run" if dry_run else task

    def _run(self, jobs: list[Job], axes: Axes) -> None:
        """Run the jobs into one store."""
        from cubie_flow.multirun.launcher import Launcher
        from cubie_flow.multirun.run import run_multirun

        name = self._launcher
        launcher = None if name == BASIC else Launcher(name, self._config, self._context)
        run_multirun(jobs, axes, self._config, launcher)

    def _run_in_folders(self, axes: Axes) -> None:
        """Do the task job by job in folders of their own, as Hydra does."""
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self._context, task_function=self._task, config=self._config
        )
        for result in launcher.launch([[*axes.common, *own] for own in axes.jobs], 0):
            _ = result.return_value  # raises the exception of the job


def _params_words(params: Any, arguments: Sequence[str]) -> list[str]:
    """Return the entries of ``hydra.sweeper.params`` that the command line does not replace."""
    if params is None:
        return []
    if not isinstance(params, dict):
        raise FlowError(
            f"hydra.sweeper.params is {params!r}; it must be a mapping of keys to values as on the "
            'command line, such as {precision: "float32,float64"}'
        )
    given = {key_of(word) for word in arguments}
    return [f"{key}={_word(value)}" for key, value in params.items() if key_of(key) not in given]


def _word(value: Any) -> str:
    """Return a value of YAML in Hydra's grammar; a list is a sweep over its items."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return ",".join(map(_word, value)) if isinstance(value, list) else str(value)


def _import_models(jobs: list[Job]) -> None:
    """Write the model of each job."""
    from cubie_flow.config.import_model import import_model

    for job in jobs:
        if job.settings is None:
            raise FlowError(job.error)
        print(import_model(job.settings))


def _refuse_unreadable_quantities(jobs: list[Job]) -> None:
    """Refuse a job whose own quantity is wrong: the other jobs would be a part of the study."""
    for job in jobs:
        if job.study is None and any(quantity_of(key_of(override)) for override in job.own):
            raise FlowError(f"{job.name}: {job.error}")


def register() -> None:
    """Register the sweeper with Hydra."""
    from cubie_flow.config.hydra_private import register_sweeper

    register_sweeper(FlowSweeper, NAME)
