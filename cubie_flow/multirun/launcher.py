"""The launcher of Hydra that runs the jobs of a multirun in other processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig

from cubie_flow.config import hydra_plugins
from cubie_flow.config.hydra_private import new_context, returned_value
from cubie_flow.config.schema import shipped
from cubie_flow.errors import FlowError
from cubie_flow.multirun.jobs import failed_row
from cubie_flow.storage import Location, index

if TYPE_CHECKING:
    from cubie_flow.config.schema import Settings
    from cubie_flow.multirun.job_task import JobTask

#: Name of the launcher that runs the jobs in this process, one after the other.
BASIC = "basic"
#: Launchers whose jobs run on this machine.
LOCAL = ("joblib", "submitit_local")


@frozen
class Launcher:
    """The launcher that ``hydra/launcher=NAME`` chooses.

    Attributes
    ----------
    name
        As in ``hydra/launcher=NAME``.
    config
        Hydra's config of the multirun.
    context
        Hydra's context.
    """

    name: str
    config: DictConfig
    context: HydraContext

    def require_shared_store(self, root: Location) -> None:
        """Refuse a store that the processes of the launcher cannot write.

        Raises
        ------
        FlowError
            If the store allows only one process.
        """
        if root.alone:
            raise FlowError(
                f"'{root.name}' {root.alone}, so jobs of hydra/launcher={self.name} cannot; leave "
                "the launcher out, or use another storage.client or URL"
            )

    def require_shared_machine(self, settings: Settings) -> None:
        """Refuse an engine whose workers every job would start on this machine as well.

        Raises
        ------
        FlowError
            If launcher and engine would both divide this machine.
        """
        engine = settings.values["engine"]
        if self.name in LOCAL and (engine["kind"], engine["scheduler"]) == ("dask", None):
            raise FlowError(
                f"hydra/launcher={self.name} and engine=dask would both divide this machine; "
                "leave one of them out, or give jobs one engine.scheduler"
            )

    def run(self, task: JobTask, overrides: list[list[str]], first: int) -> list[index.Row]:
        """Run jobs, wait for them and return their rows.

        Parameters
        ----------
        task
            What each process does.
        overrides
            The overrides of each job.
        first
            Hydra's number of the first job.
        """
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.context, task_function=task, config=self.config
        )
        results = launcher.launch(overrides, initial_job_idx=first)
        return [_row(returned_value(result)) for result in results]


def _row(value: Any) -> index.Row:
    return value if isinstance(value, dict) else failed_row(f"{type(value).__name__}: {value}")


def compose_launcher(folder: Path, words: Sequence[str]) -> Launcher | None:
    """Return the launcher that the words of a ``resume=`` choose; None for this process.

    Parameters
    ----------
    folder
        The folder of the multirun.
    words
        Words of the command line that begin with ``hydra/launcher=`` or ``hydra.launcher.``.

    Raises
    ------
    FlowError
        If settings of a launcher are given, but no launcher, or Hydra would resolve the folder.
    """
    chosen = [word for word in words if word.startswith("hydra/launcher=")]
    if words and not chosen:
        raise FlowError(f"{words[0]} needs hydra/launcher=NAME, which chooses the launcher")
    if not chosen or chosen[-1] == f"hydra/launcher={BASIC}":
        return None
    if any(sign in str(folder.absolute()) for sign in ("${", "'")):
        raise FlowError(
            f"'{folder}' has a name that Hydra would resolve, so hydra/launcher={BASIC} alone can "
            "finish it; rename the folder to use another launcher"
        )
    hydra_plugins.register()
    OverridesParser.create().parse_overrides(list(words))
    with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        sweep_folder = f"hydra.sweep.dir='{folder.absolute()}'"
        config = compose("config", [*words, sweep_folder], return_hydra_config=True)
        loader: Any = GlobalHydra.instance().config_loader()
    name = str(config.hydra.runtime.choices["hydra/launcher"])
    return Launcher(name, config, new_context(loader))
